"""Inputs on which both engines must agree, made from a source of randomness.

An input is a layout, bytes that are mostly frames of it, some of them damaged, and a way to bring them: where they are
cut, and which chunks go through the decoder's own buffer. The same generator serves hypothesis, which shrinks what it
finds, and fuzz/differential.py, which makes millions.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from framing.streams import Outcome, cut, outcome

from kernel.framing import Engine, FramingError, Knl, Layout, Length


@dataclasses.dataclass
class Input:
    layout: Layout
    data: bytes
    points: list[int]
    direct_bytes_min: int


def make_input(source: random.Random) -> Input:
    layout = make_length(source) if source.random() < 0.6 else Knl(source.choice((0, 5, 40, 65536)))
    data = bytearray()
    for _ in range(source.randrange(8)):
        data += make_frame(source, layout)
    if data and source.random() < 0.3:
        data[source.randrange(len(data))] = source.randrange(256)
    if source.random() < 0.2:
        del data[source.randrange(len(data) + 1) :]
    points = [source.randrange(len(data) + 1) for _ in range(source.randrange(6))]
    if source.random() < 0.1:
        points = list(range(len(data)))
    return Input(layout, bytes(data), points, source.choice((1, 4, 16, 65536)))


def make_length(source: random.Random) -> Length:
    return Length(
        offset=source.choice((0, 0, 0, 1, 3, 56)),
        width=source.choice((1, 2, 4, 8)),
        endian=source.choice(("big", "little")),
        signed=source.random() < 0.3,
        adjust=source.choice((0, 0, 0, -6, -1, 2, 50)),
        strip=source.choice((None, None, 0, 1, 5)),
        frame_bytes_max=source.choice((5, 40, 300, 1 << 24)),
    )


def make_frame(source: random.Random, layout: Layout) -> bytes:
    body = source.randbytes(source.choice((0, 1, 3, 5, 16, 41, 100)))
    if isinstance(layout, Knl):
        return make_knl_frame(source, body)
    length = max(0, len(body) - layout.adjust + source.choice((0, 0, 0, 0, 0, -1, 1, 100)))
    if source.random() < 0.05:
        length = source.choice((1 << 7, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1))
    field = (length % (1 << 8 * layout.width)).to_bytes(layout.width, layout.endian)
    return source.randbytes(layout.offset) + field + body


def make_knl_frame(source: random.Random, body: bytes) -> bytes:
    from kernel.framing.pure import ENGINE

    flags = source.choice((0, 0, 1, 4, 4, 5, 0x1C, 0xFFFF))
    return ENGINE.encode_knl(source.choice((0, 0, 0, 7, 255)), flags, source.choice((0, 1, 1, 1, 2)), [body])


def decode(engine: Engine, case: Input) -> Outcome:
    return outcome(engine.decoder(case.layout, case.direct_bytes_min), cut(case.data, case.points))


def encode(engine: Engine, layout: Layout, messages: list[bytes]) -> Any:
    try:
        if isinstance(layout, Length):
            return engine.encode_length(layout, messages)
        return engine.encode_knl(0, 4, 1, messages, layout.frame_bytes_max)
    except FramingError as error:
        return type(error), error.code, str(error)


def parse(engine: Engine, packet: bytes) -> Any:
    try:
        return engine.parse_packet(packet)
    except FramingError as error:
        return type(error), error.code, str(error)


def make_packet(source: random.Random) -> bytes:
    """A packet whose numbers are near each other's limits, or damaged."""
    count, size = source.choice((0, 1, 2, 3, 7, 65535)), source.choice((0, 1, 5, 6, 7, 65535, 1 << 32 - 1))
    step = -(-size // max(count, 1))
    body = bytes(max(0, min(100, source.choice((step, size - (count - 1) * step, step - 1, step + 1)))))
    fields = [0x4B55, 1, source.randrange(256), source.getrandbits(64), source.getrandbits(32)]
    fields += [source.choice((0, 1, max(count - 1, 0), count)), count, size]
    widths = (2, 1, 1, 8, 4, 2, 2, 4)
    packet = bytearray(b"".join(value.to_bytes(width) for value, width in zip(fields, widths, strict=True)) + body)
    if source.random() < 0.2:
        packet[source.randrange(len(packet))] = source.randrange(256)
    if source.random() < 0.1:
        del packet[source.randrange(len(packet)) :]
    return bytes(packet)
