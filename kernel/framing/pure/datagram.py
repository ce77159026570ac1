"""Messages in datagrams, in Python: cutting into packets, and putting together again.

All fragments of a message but the last have the same size, ceil(length / count): the index alone says where a
fragment belongs and how long it must be. So a fragment is checked without its neighbours, and one that
contradicts the message's first one kills the message.
"""

from __future__ import annotations

import struct

from kernel.framing import errors
from kernel.framing.interface import Buffer, Packet
from kernel.framing.knl import (
    FRAGMENTS_MAX,
    LENGTH_MAX,
    PACKET_HEADER_BYTES,
    PACKET_MAGIC,
    PACKET_VERSION,
)

_PACKET = struct.Struct(">HBBQIHHI")


def pack_fragments(kind: int, connection: int, sequence: int, message: Buffer, packet_bytes_max: int) -> list[bytes]:
    """The packets of a message, none longer than `packet_bytes_max` bytes (25 at least).

    Raises EncodeError for a message that takes more than 65,535 packets or has 4 GiB or more, ValueError
    for a number out of its field's range.
    """
    for name, value, high in (
        ("kind", kind, 0xFF),
        ("connection", connection, 0xFFFFFFFFFFFFFFFF),
        ("sequence", sequence, 0xFFFFFFFF),
    ):
        if not 0 <= value <= high:
            raise errors.out_of_range(name, value, high)
    if packet_bytes_max <= PACKET_HEADER_BYTES:
        raise errors.no_room(packet_bytes_max, PACKET_HEADER_BYTES)
    view = memoryview(message).cast("B")
    size = len(view)
    room = packet_bytes_max - PACKET_HEADER_BYTES
    message_bytes_max = min(LENGTH_MAX, room * FRAGMENTS_MAX)
    if size > message_bytes_max:
        raise errors.unsendable_size(size, message_bytes_max, "65535 packets")
    count = max(1, -(-size // room))
    step = fragment_bytes(size, count)
    return [
        _PACKET.pack(PACKET_MAGIC, PACKET_VERSION, kind, connection, sequence, index, count, size)
        + view[index * step : (index + 1) * step]
        for index in range(count)
    ]


def fragment_bytes(message_bytes: int, count: int) -> int:
    """Size of each fragment but the last."""
    return -(-message_bytes // count)


def parse_packet(data: Buffer) -> Packet:
    """A packet's fields and its fragment. Raises DecodeError unless all of them agree with each other."""
    if len(data) < PACKET_HEADER_BYTES:
        raise errors.short_packet(len(data), PACKET_HEADER_BYTES)
    magic, version, kind, connection, sequence, index, count, message_bytes = _PACKET.unpack_from(data)
    if magic != PACKET_MAGIC:
        raise errors.bad_magic(magic, PACKET_MAGIC)
    if version != PACKET_VERSION:
        raise errors.bad_version(version, PACKET_VERSION)
    payload = bytes(data[PACKET_HEADER_BYTES:])
    check_fragment(index, count, message_bytes, len(payload))
    return kind, connection, sequence, index, count, message_bytes, payload


def is_message(count: int, message_bytes: int) -> bool:
    """Whether a message of `message_bytes` can come in `count` fragments: none of them is empty, except the
    only one of an empty message."""
    return count == 1 or (count > 1 and (count - 1) * fragment_bytes(message_bytes, count) < message_bytes)


def check_fragment(index: int, count: int, message_bytes: int, payload_bytes: int) -> None:
    """Raise DecodeError unless fragment `index` of a message in `count` fragments has `payload_bytes`."""
    if index < count and is_message(count, message_bytes):
        step = fragment_bytes(message_bytes, count)
        if payload_bytes == min(step, message_bytes - index * step):
            return
    raise errors.bad_fragment(index, count, message_bytes, payload_bytes)


class Reassembly:
    """One message of `message_bytes` in `count` fragments, in whatever order they come. Raises DecodeError
    for numbers that no message has."""

    __slots__ = ("_buffer", "_count", "_message_bytes", "_missing", "_seen", "_step")

    def __init__(self, count: int, message_bytes: int) -> None:
        if not is_message(count, message_bytes):
            raise errors.bad_message(count, message_bytes)
        self._count = count
        self._message_bytes = message_bytes
        self._step = fragment_bytes(message_bytes, count)
        self._missing = count
        self._seen = bytearray(count)
        self._buffer = bytearray(message_bytes)

    def place(self, index: int, fragment: Buffer) -> int:
        check_fragment(index, self._count, self._message_bytes, len(fragment))
        if self._seen[index]:
            return -1
        start = index * self._step
        self._buffer[start : start + len(fragment)] = fragment
        self._seen[index] = 1
        self._missing -= 1
        return self._missing

    def take(self) -> bytes:
        if self._missing:
            raise errors.unfinished(self._missing)
        return bytes(self._buffer)
