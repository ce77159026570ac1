"""The length-field layout: decoding and encoding in Python.

The fast path compares the length field once, against the range [low, high] that the layout allows; which
limit was broken is worked out only for the error. Encoding is one join over headers and messages.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

from kernel.framing import errors
from kernel.framing.errors import DecodeError
from kernel.framing.interface import Buffer
from kernel.framing.layout import FRAME_BYTES_MAX, Length
from kernel.framing.pure.reserve import Reserve
from kernel.framing.pure.stream import StreamDecoder, check_limit

_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
_ORDERS = {"big": ">", "little": "<"}

_FIELDS = {
    (width, endian, signed): struct.Struct(order + (code if signed else code.upper()))
    for width, code in _CODES.items()
    for endian, order in _ORDERS.items()
    for signed in (False, True)
}
"""The length field of each kind."""


def _field(layout: Length) -> struct.Struct:
    return _FIELDS[layout.width, layout.endian, layout.signed]


class LengthDecoder(StreamDecoder[bytes]):
    """Yields each frame's message."""

    __slots__ = ("_high", "_layout", "_low", "_strip")

    def __init__(self, layout: Length, direct_bytes_min: int) -> None:
        overhead = layout.header_bytes + layout.adjust
        field = _field(layout).format
        peek = f"{field[0]}{layout.offset}x{field[1]}"
        super().__init__(layout.header_bytes, overhead, peek, direct_bytes_min)
        self._layout = layout
        self._low = layout.length_min
        self._high = layout.length_max
        self._strip = layout.strip_bytes

    @property
    def frame_bytes_max(self) -> int:
        return self._layout.frame_bytes_max

    @frame_bytes_max.setter
    def frame_bytes_max(self, value: int) -> None:
        check_limit(value, FRAME_BYTES_MAX)
        self._layout = dataclasses.replace(self._layout, frame_bytes_max=value)
        self._high = self._layout.length_max

    def _cut(self, data: bytes, pos: int, frames: list[bytes]) -> int:
        append, peek, overhead, strip = frames.append, self._peek, self._overhead, self._strip
        low, high = self._low, self._high
        size = len(data)
        last = size - self._header_bytes
        while pos <= last:
            (length,) = peek(data, pos)
            if not low <= length <= high:
                self._fail(self._refusal(length))
                break
            end = pos + overhead + length
            if end > size:
                break
            append(data[pos + strip : end])
            pos = end
        return pos

    def _open(self, header: bytes) -> Reserve:
        (length,) = self._peek(header)
        if not self._low <= length <= self._high:
            raise self._refusal(length)
        self._total = self._overhead + length
        self._skip = max(0, self._strip - len(header))
        reserve = Reserve(self._total - self._strip)
        reserve.add(header[self._strip :])
        return reserve

    def _close(self, payload: bytes, frames: list[bytes]) -> None:
        frames.append(payload)

    def _refusal(self, length: int) -> DecodeError:
        if length < 0:
            return errors.negative_length(length)
        if length < self._low:
            return errors.short_length(length, self._low)
        return errors.frame_too_large(length + self._layout.adjust, self._layout.frame_bytes_max)


def length_header(layout: Length, message_bytes: int) -> bytes:
    """The length field for a message of `message_bytes`; it goes after the message's first `layout.offset`
    bytes.

    Raises EncodeError for a message that the layout can't carry.
    """
    body_bytes = message_bytes - layout.offset
    length = body_bytes - layout.adjust
    if body_bytes < 0:
        raise errors.missing_prefix(message_bytes, layout.offset)
    if body_bytes > layout.frame_bytes_max:
        raise errors.unsendable_size(message_bytes, layout.frame_bytes_max + layout.offset, "frame_bytes_max")
    if not 0 <= length <= layout.field_max:
        raise errors.unsendable_length(length, layout.width, layout.signed)
    return _field(layout).pack(length)


def encode_length(layout: Length, messages: Sequence[Buffer]) -> bytes:
    """All messages, each with its header, in one buffer. Raises EncodeError, and nothing is made."""
    if layout.offset:
        return b"".join([part for message in messages for part in _split(layout, message)])
    parts: list[Buffer] = []
    append, pack, adjust = parts.append, _field(layout).pack, layout.adjust
    low, high = max(0, adjust), min(layout.frame_bytes_max, layout.field_max + adjust)
    total = 0
    for message in messages:
        size = len(message)
        if not low <= size <= high:
            length_header(layout, size)
        append(pack(size - adjust))
        append(message)
        total += size
    encoded = b"".join(parts)
    if len(encoded) != total + len(messages) * layout.width:  # len() of a message counted items, not bytes
        return encode_length(layout, [memoryview(message).cast("B") for message in messages])
    return encoded


def _split(layout: Length, message: Buffer) -> tuple[Buffer, bytes, Buffer]:
    view = memoryview(message).cast("B")
    return view[: layout.offset], length_header(layout, len(view)), view[layout.offset :]


def measure(messages: Sequence[Buffer]) -> tuple[int, int]:
    """The sum of the messages' sizes, and the longest one's size."""
    return sum(map(len, messages)), max(map(len, messages), default=0)
