"""The built-in framings, through the same kit as everybody else's, each beside a slow and plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel.framing import Buffer, encode_knl
from kernel.testing import FramingSuite, Outcomes

LIMIT = 1 << 20


def lengths(stream: bytes, width: int, endian: str, signed: bool = False, adjust: int = 0) -> Outcomes:
    """Messages after a length field, one slice at a time."""
    messages: list[bytes] = []
    while len(stream) >= width:
        body = int.from_bytes(stream[:width], endian, signed=signed) + adjust  # type: ignore[arg-type]
        if not 0 <= body <= LIMIT:
            return Outcomes(messages, corrupt=True)
        if len(stream) < width + body:
            break
        messages.append(stream[width : width + body])
        stream = stream[width + body :]
    return Outcomes(messages, rest=bool(stream))


class TestLength(FramingSuite):
    framing = "length"

    def reference(self, stream: bytes) -> Outcomes:
        return lengths(stream, 4, "big")


class TestLengthOfTwoLittleBytes(FramingSuite):
    framing = "length?width=2&endian=little"

    def reference(self, stream: bytes) -> Outcomes:
        return lengths(stream, 2, "little")


class TestSignedLength(FramingSuite):
    framing = "length?endian=little&signed=true"

    def reference(self, stream: bytes) -> Outcomes:
        return lengths(stream, 4, "little", signed=True)


class TestLengthThatCountsItself(FramingSuite):
    framing = "length?width=8&adjust=-8"

    def reference(self, stream: bytes) -> Outcomes:
        return lengths(stream, 8, "big", adjust=-8)


class TestLengthOfOneByte(FramingSuite):
    framing = "length?width=1"

    def reference(self, stream: bytes) -> Outcomes:
        return lengths(stream, 1, "big")


class TestLine(FramingSuite):
    framing = "line"

    def reference(self, stream: bytes) -> Outcomes:
        *lines, rest = stream.split(b"\n")
        return Outcomes([line.removesuffix(b"\r") for line in [*lines, *([rest] if rest else [])]])


class TestLineWithAnotherEnd(FramingSuite):
    framing = "line?delimiter=ab"

    def reference(self, stream: bytes) -> Outcomes:
        *lines, rest = stream.split(b"ab")
        return Outcomes([*lines, *([rest] if rest else [])])


class TestRaw(FramingSuite):
    framing = "raw"


class TestKnl(FramingSuite):
    """Frames instead of messages: type, flags, channel and payload of each, however they come in runs."""

    framing = "knl"

    def encode(self, messages: Sequence[Buffer]) -> bytes:
        return encode_knl(1, 0, 1, messages) if messages else b""

    def normal(self, frames: Sequence[Any]) -> list[Any]:
        runs = [(1, 0, 1, [bytes(frame)]) if isinstance(frame, Buffer) else frame[:4] for frame in frames]
        return [(kind, flags, channel, payload) for kind, flags, channel, payloads in runs for payload in payloads]
