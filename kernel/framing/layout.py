"""How a stream is cut into frames: what both engines are told.

A layout is a frozen value, checked when it is made; decoders and encoders take it as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Final, Literal

WIDTHS: Final = (1, 2, 4, 8)
OFFSET_MAX: Final = 56
"""Offset and width together fit the 64 bytes that a decoder keeps of an unfinished header."""
ADJUST_MAX: Final = 1 << 31
FRAME_BYTES_MAX: Final = 1 << 40


def _check(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, it must be a whole number from {low} to {high}")


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """Frames that carry their length: `offset` bytes, the length field, then the body.

    The length field announces the bytes that follow it, less `adjust`: a field that counts itself and four
    bytes before it has `adjust=-8` with `width=4`. A frame's message is the whole frame less its first
    `strip` bytes; as a default, less all that comes before the body.

    Encoding puts the field after the first `offset` bytes of the message, and writes into it the number of
    the message's bytes that follow, less `adjust`. Decoding gives the message back when `offset` is 0 and
    `strip` its default; else what it gives is `(message[:offset] + field + message[offset:])[strip:]`.
    """

    offset: int = field(default=0, metadata={"help": "bytes before the length field, at most 56"})
    width: int = field(default=4, metadata={"help": "bytes of the length field: 1, 2, 4 or 8"})
    endian: Literal["big", "little"] = field(default="big", metadata={"help": "byte order of the length field"})
    signed: bool = field(default=False, metadata={"help": "the field is signed; a negative length is then an error"})
    adjust: int = field(
        default=0, metadata={"help": "added to the field's value it gives the bytes that follow the field"}
    )
    strip: int | None = field(
        default=None, metadata={"help": "bytes taken off a frame's front; unless given: all up to the field's end"}
    )
    frame_bytes_max: int = field(default=1 << 20, metadata={"help": "most bytes that may follow the length field"})

    def __post_init__(self) -> None:
        _check("offset", self.offset, 0, OFFSET_MAX)
        if type(self.width) is not int or self.width not in WIDTHS:
            raise ValueError(f"width is {self.width!r}, it must be 1, 2, 4 or 8")
        if self.endian not in ("big", "little"):
            raise ValueError(f'endian is {self.endian!r}, it must be "big" or "little"')
        if type(self.signed) is not bool:
            raise ValueError(f"signed is {self.signed!r}, it must be True or False")
        _check("adjust", self.adjust, -ADJUST_MAX, ADJUST_MAX)
        _check("frame_bytes_max", self.frame_bytes_max, 0, FRAME_BYTES_MAX)
        if self.strip is not None:
            _check("strip", self.strip, 0, self.header_bytes + self.frame_bytes_max)

    @property
    def header_bytes(self) -> int:
        """Bytes up to the end of the length field."""
        return self.offset + self.width

    @property
    def is_little(self) -> bool:
        """Whether the length field is little-endian."""
        return self.endian == "little"

    @property
    def strip_bytes(self) -> int:
        """Bytes taken off each frame, the default worked out."""
        return self.header_bytes if self.strip is None else self.strip

    @property
    def length_min(self) -> int:
        """Least value of the length field: a body of no less than 0 bytes, a frame no shorter than
        `strip`."""
        return max(0, -self.adjust, self.strip_bytes - self.header_bytes - self.adjust)

    @property
    def length_max(self) -> int:
        """Greatest value of the length field that the limit allows."""
        return self.frame_bytes_max - self.adjust

    @property
    def field_max(self) -> int:
        """Greatest value that the length field can hold."""
        return (1 << (8 * self.width - self.signed)) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Knl:
    """KNL/1, the kernel's own frames."""

    frame_bytes_max: int = field(default=65536, metadata={"help": "most bytes of a frame's payload"})

    def __post_init__(self) -> None:
        _check("frame_bytes_max", self.frame_bytes_max, 0, 0xFFFFFFFF)


Layout = Length | Knl
