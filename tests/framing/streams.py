"""Ways to bring the same bytes to a decoder, and what comes of it in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kernel.framing import DecodeError, Decoder

Outcome = tuple[list[Any], tuple[str, str] | None, int]
"""Flattened frames, the error's code and message, and the bytes of an unfinished frame."""


def flatten(frames: Iterable[Any]) -> list[Any]:
    """Messages as they are; runs as one (type, flags, channel, payload) a frame."""
    flat: list[Any] = []
    for frame in frames:
        if isinstance(frame, bytes):
            flat.append(frame)
            continue
        kind, flags, channel, payloads, payload_bytes = frame
        assert payloads
        assert payload_bytes == sum(map(len, payloads))
        flat.extend((kind, flags, channel, payload) for payload in payloads)
    return flat


def outcome(decoder: Decoder[Any], chunks: Iterable[bytes], *, direct: bool = True) -> Outcome:
    """Bring the chunks to the decoder; `direct`: through its own buffer whenever it lends one."""
    frames: list[Any] = []
    for chunk in chunks:
        rest = memoryview(chunk)
        while decoder.error is None:
            view = decoder.wanted() if direct and rest else None
            if view is None:
                frames += decoder.feed(rest)
                break
            nbytes = min(len(view), len(rest))
            view[:nbytes] = rest[:nbytes]
            frames += decoder.filled(nbytes)
            rest = rest[nbytes:]
    return flatten(frames), describe(decoder.error), decoder.pending_bytes


def describe(error: DecodeError | None) -> tuple[str, str] | None:
    return None if error is None else (str(error.code), str(error))


def cut(data: bytes, points: Sequence[int]) -> Iterator[bytes]:
    start = 0
    for point in sorted(points):
        yield data[start:point]
        start = point
    yield data[start:]
