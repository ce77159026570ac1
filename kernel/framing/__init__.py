"""Cutting byte streams and datagrams into messages: of use with the rest of the kernel, and without it.

    decoder = framing.decoder(framing.Length(width=2))
    for message in decoder.feed(received): ...

Two engines do the same work, one in C and one in Python (`kernel.framing.engine`). Nothing here does any
I/O. The functions below are the default engine's; `engine("c")` and `engine("python")` have them by name.
"""

from __future__ import annotations

from typing import overload

from kernel.framing.engine import EngineUnavailableError, engine, engine as select_engine, engine_name
from kernel.framing.errors import DecodeError, EncodeError, ErrorCode, FramingError, truncated
from kernel.framing.fragments import FragmentTable
from kernel.framing.interface import (
    DIRECT_BYTES_MIN,
    Assembler,
    Buffer,
    Decoder,
    Engine,
    FrameDecoder,
    Packet,
    Run,
)
from kernel.framing.layout import Knl, Layout, Length
from kernel.framing.plain import LineDecoder, RawDecoder, encode_lines
from kernel.framing.simple import SimpleDecoder

__all__ = [
    "DIRECT_BYTES_MIN",
    "Assembler",
    "Buffer",
    "DecodeError",
    "Decoder",
    "EncodeError",
    "Engine",
    "EngineUnavailableError",
    "ErrorCode",
    "FragmentTable",
    "FrameDecoder",
    "FramingError",
    "Knl",
    "Layout",
    "Length",
    "LineDecoder",
    "Packet",
    "RawDecoder",
    "Run",
    "SimpleDecoder",
    "assembler",
    "crc32",
    "decoder",
    "encode_knl",
    "encode_length",
    "encode_lines",
    "engine",
    "engine_name",
    "knl_header",
    "length_header",
    "pack_fragments",
    "parse_packet",
    "truncated",
]

_default = engine()
assembler = _default.assembler
crc32 = _default.crc32
encode_knl = _default.encode_knl
encode_length = _default.encode_length
knl_header = _default.knl_header
length_header = _default.length_header
pack_fragments = _default.pack_fragments
parse_packet = _default.parse_packet


@overload
def decoder(
    layout: Length, engine: str | Engine | None = None, direct_bytes_min: int = DIRECT_BYTES_MIN
) -> FrameDecoder[bytes]: ...
@overload
def decoder(
    layout: Knl, engine: str | Engine | None = None, direct_bytes_min: int = DIRECT_BYTES_MIN
) -> FrameDecoder[Run]: ...
def decoder(
    layout: Layout, engine: str | Engine | None = None, direct_bytes_min: int = DIRECT_BYTES_MIN
) -> FrameDecoder[bytes] | FrameDecoder[Run]:
    """A decoder at the start of a stream.

    layout             how frames are cut: `Length` or `Knl`
    engine             "c", "python" or "auto"; None: what KERNEL_FRAMING says
    direct_bytes_min   the decoder lends a frame's own buffer (`wanted`) while at least that much of it is
    missing
    """
    return select_engine(engine).decoder(layout, direct_bytes_min)
