"""KNL/1 frames: decoding and encoding in Python.

Frames of one burst mostly repeat the header of the frame before: a header of the same 16 bytes has the same
meaning and the same validity, so it is parsed and checked only when it differs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

from kernel.framing import errors
from kernel.framing.errors import DecodeError
from kernel.framing.interface import Buffer, Run
from kernel.framing.knl import CHECKSUM, HEADER_BYTES, LENGTH_MAX, VERSION
from kernel.framing.layout import Knl
from kernel.framing.pure.reserve import Reserve
from kernel.framing.pure.stream import StreamDecoder, check_limit

_HEADER = struct.Struct(">BBHIII")
_FIELDS = struct.Struct(">BBHII")
_CRC = struct.Struct(">I")
_LENGTH_OFFSET = 8
_CRC_OFFSET = 12


class KnlDecoder(StreamDecoder[Run]):
    """Yields runs."""

    __slots__ = ("_frame_bytes_max", "_header")

    def __init__(self, layout: Knl, direct_bytes_min: int) -> None:
        super().__init__(HEADER_BYTES, HEADER_BYTES, f">{_LENGTH_OFFSET}xI", direct_bytes_min)
        self._frame_bytes_max = layout.frame_bytes_max
        self._header = b""

    @property
    def frame_bytes_max(self) -> int:
        return self._frame_bytes_max

    @frame_bytes_max.setter
    def frame_bytes_max(self, value: int) -> None:
        check_limit(value, LENGTH_MAX)
        self._frame_bytes_max = value

    def _cut(self, data: bytes, pos: int, frames: list[Run]) -> int:
        size = len(data)
        last = size - HEADER_BYTES
        header, flags, length = b"", 0, 0
        key, payload_bytes = (-1, 0, 0), 0
        payloads: list[bytes] = []
        try:
            while pos <= last:
                start = pos + HEADER_BYTES
                if data[pos:start] != header:
                    header = data[pos:start]
                    kind, flags, channel, length = self._parse(header)
                    if (kind, flags, channel) != key:
                        if payloads:
                            _add_run(frames, key, payloads, payload_bytes)
                        key, payloads, payload_bytes = (kind, flags, channel), [], 0
                end = start + length
                if end > size:
                    break
                payload = data[start:end]
                if flags & CHECKSUM:
                    _verify(header, payload)
                payloads.append(payload)
                payload_bytes += length
                pos = end
        except DecodeError as error:
            self._fail(error)
        if payloads:
            _add_run(frames, key, payloads, payload_bytes)
        return pos

    def _open(self, header: bytes) -> Reserve:
        length = self._parse(header)[3]
        self._header = header
        self._total = HEADER_BYTES + length
        return Reserve(length)

    def _close(self, payload: bytes, frames: list[Run]) -> None:
        kind, flags, channel, length = self._parse(self._header)
        if flags & CHECKSUM:
            _verify(self._header, payload)
        _add_run(frames, (kind, flags, channel), [payload], length)

    def _parse(self, header: bytes) -> tuple[int, int, int, int]:
        """Type, flags, channel and length. A checksum that covers the payload is not looked at here."""
        version, kind, flags, channel, length, received = _HEADER.unpack(header)
        if version != VERSION:
            raise errors.bad_version(version, VERSION)
        if not flags & CHECKSUM and (computed := crc32(header[:_CRC_OFFSET])) != received:
            raise errors.bad_checksum(computed, received)
        if length > self._frame_bytes_max:
            raise errors.frame_too_large(length, self._frame_bytes_max)
        return kind, flags, channel, length


def _verify(header: bytes, payload: Buffer) -> None:
    computed = crc32(payload, crc32(header[:_CRC_OFFSET]))
    (received,) = _CRC.unpack_from(header, _CRC_OFFSET)
    if computed != received:
        raise errors.bad_checksum(computed, received)


def _add_run(frames: list[Run], key: tuple[int, int, int], payloads: list[bytes], payload_bytes: int) -> None:
    """Append a run, or lengthen the last one if it goes on."""
    if frames and frames[-1][:3] == key:
        before, before_bytes = frames[-1][3:]
        before += payloads
        frames[-1] = (*key, before, before_bytes + payload_bytes)
    else:
        frames.append((*key, payloads, payload_bytes))


def knl_header(kind: int, flags: int, channel: int, payload: Buffer) -> bytes:
    """The header of a frame whose payload is sent by itself.

    Raises EncodeError for a payload of 4 GiB or more, ValueError for a number out of its field's range.
    """
    _check_numbers(kind, flags, channel)
    view = memoryview(payload).cast("B")
    if len(view) > LENGTH_MAX:
        raise errors.unsendable_size(len(view), LENGTH_MAX, "frame_bytes_max")
    return _header(kind, flags, channel, view)


def encode_knl(kind: int, flags: int, channel: int, payloads: Sequence[Buffer], frame_bytes_max: int = 65536) -> bytes:
    """One frame a payload, all in one buffer.

    Raises EncodeError for a payload over the limit, ValueError for a number out of its field's range;
    nothing is made then.
    """
    _check_numbers(kind, flags, channel)
    parts: list[Buffer] = []
    append = parts.append
    headers: dict[int, bytes] = {}  # without the payload's checksum, a header depends on the length alone
    total = 0
    for payload in payloads:
        size = len(payload)
        header = headers.get(size)
        if header is None:
            if size > frame_bytes_max:
                raise errors.unsendable_size(size, frame_bytes_max, "frame_bytes_max")
            header = _header(kind, flags, channel, payload)
            if not flags & CHECKSUM:
                headers[size] = header
        append(header)
        append(payload)
        total += size
    encoded = b"".join(parts)
    if len(encoded) != total + len(payloads) * HEADER_BYTES:  # len() of a payload counted items, not bytes
        views = [memoryview(payload).cast("B") for payload in payloads]
        return encode_knl(kind, flags, channel, views, frame_bytes_max=frame_bytes_max)
    return encoded


def _check_numbers(kind: int, flags: int, channel: int) -> None:
    for name, value, high in (("type", kind, 0xFF), ("flags", flags, 0xFFFF), ("channel", channel, 0xFFFFFFFF)):
        if not 0 <= value <= high:
            raise errors.out_of_range(name, value, high)


def _header(kind: int, flags: int, channel: int, payload: Buffer) -> bytes:
    fields = _FIELDS.pack(VERSION, kind, flags, channel, len(payload))
    crc = crc32(fields)
    return fields + _CRC.pack(crc32(payload, crc) if flags & CHECKSUM else crc)
