"""The packets of the datagram protocol: their kinds, and what the control packets carry.

Every packet has the header of `kernel.framing.knl`. A control packet is a message of one fragment, so the same checks
hold for all. Its payload has fixed fields first; CONNECT and ACCEPT go on with named fields
(`kernel.session.fields`), of which a
reader skips those that it does not know: that is how later versions add some.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from kernel.errors import Code
from kernel.framing import knl
from kernel.session import fields

MESSAGE_BYTES_MAX = 1024 * 1024
"""No message of the datagram protocol is longer, whatever the limits say."""

PACKET_BYTES_MIN = 512
"""Every control packet fits, and every IPv4 host takes packets of this size."""

PACKET_BYTES_MAX = 65507
"""What UDP over IPv4 can carry."""

PACKET_BYTES_DEFAULT = 1200
"""Passes every path that carries QUIC: an IPv6 packet of 1,280 bytes, less its headers."""

INIT_BYTES_MIN = 96
"""INIT is padded to this: whatever answers it (COOKIE, REFUSE) is no longer, so nobody gains by faking a source."""

COOKIE_BYTES = 16
SERVICE_BYTES_MAX = 255
PING_BYTES_MAX = 64
REASON_BYTES_MAX = 200

_HEADER = struct.Struct(">HBBQIHHI")
_CODE = struct.Struct(">H")
_COUNT = struct.Struct(">I")
_RECEIPT = struct.Struct(">IHI")

_SERVICE = 1
_MESSAGE_BYTES_MAX = 2
_PACKET_BYTES_MAX = 3
_WINDOW_BYTES = 4


class Kind(IntEnum):
    """What a packet is for. Bit 7 of the byte on the wire is not the kind's but the direction's (`knl.FROM_SERVER`)."""

    INIT = 1
    COOKIE = 2
    CONNECT = 3
    ACCEPT = 4
    REFUSE = 5
    DATA = 6
    RECEIPT = 7
    PING = 8
    PONG = 9
    FINISH = 10
    FINISHED = 11
    GOAWAY = 12
    CLOSE = 13


class PacketError(ValueError):
    """The payload of a control packet is not what its kind calls for."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says of itself in CONNECT and ACCEPT.

    Attributes:
        service: CONNECT only: which service is asked for.
        message_bytes_max: the longest message that this side takes.
        packet_bytes_max: the longest packet that this side wants to see on the path; both sides keep to the smaller
            one.
        window_bytes: how much may be on its way to this side before it has said what has come (RECEIPT).
    """

    service: str
    message_bytes_max: int
    packet_bytes_max: int
    window_bytes: int

    def pack(self) -> bytes:
        values = {
            _MESSAGE_BYTES_MAX: self.message_bytes_max.to_bytes(4, "big"),
            _PACKET_BYTES_MAX: self.packet_bytes_max.to_bytes(2, "big"),
            _WINDOW_BYTES: self.window_bytes.to_bytes(4, "big"),
        }
        if self.service:
            values[_SERVICE] = self.service.encode()
        return fields.pack(values)

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        """Raises PacketError for what cannot be read, or makes no sense."""
        try:
            values = fields.unpack(payload)
            hello = cls(
                fields.text(values, _SERVICE),
                fields.number(values, _MESSAGE_BYTES_MAX, 0),
                fields.number(values, _PACKET_BYTES_MAX, 0),
                fields.number(values, _WINDOW_BYTES, 0),
            )
        except fields.FieldsError as error:
            raise PacketError(str(error)) from None
        if not PACKET_BYTES_MIN <= hello.packet_bytes_max <= PACKET_BYTES_MAX:
            raise PacketError(f"packet_bytes_max is {hello.packet_bytes_max}")
        return hello


def ahead(sequence: int, reference: int) -> int:
    """How far a sequence number is ahead of another one; negative: behind. Both wrap around at 2**32."""
    return ((sequence - reference + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def kind_of(packet: bytes) -> int:
    """The kind and the direction bit of a packet that has a whole header."""
    return packet[3]


def connection_of(packet: bytes) -> int:
    """The connection id of a packet that has a whole header."""
    return int.from_bytes(packet[4:12], "big")


def is_ours(packet: bytes) -> bool:
    """Whether it has a whole header that starts with our magic number."""
    return len(packet) >= knl.PACKET_HEADER_BYTES and packet[0] << 8 | packet[1] == knl.PACKET_MAGIC


def control(kind: int, connection: int, payload: bytes = b"", sequence: int = 0) -> bytes:
    """A packet of one fragment; `kind` includes the direction bit."""
    return _HEADER.pack(knl.PACKET_MAGIC, knl.PACKET_VERSION, kind, connection, sequence, 0, 1, len(payload)) + payload


def init(connection: int) -> bytes:
    """The client's first packet, padded."""
    return control(Kind.INIT, connection, bytes(INIT_BYTES_MIN - knl.PACKET_HEADER_BYTES))


def pack_reason(code: Code, reason: str, payload_bytes_max: int = _CODE.size + REASON_BYTES_MAX) -> bytes:
    """The payload of REFUSE, CLOSE and GOAWAY. A long reason is cut; one that does not fit is left out."""
    text = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    return _CODE.pack(code) + (text if len(text) <= payload_bytes_max - _CODE.size else b"")


def unpack_reason(payload: bytes) -> tuple[Code, str]:
    """A code that this version does not know counts as INTERNAL. Raises PacketError where there is none."""
    if len(payload) < _CODE.size:
        raise PacketError("a reason without a code")
    number = _CODE.unpack_from(payload)[0]
    code = Code(number) if number in Code._value2member_map_ else Code.INTERNAL
    return code, fields.printable(payload[_CODE.size : _CODE.size + REASON_BYTES_MAX])


def pack_count(messages: int) -> bytes:
    """The payload of FINISH and FINISHED: how many messages were sent, modulo 2**32."""
    return _COUNT.pack(messages & 0xFFFFFFFF)


def unpack_count(payload: bytes) -> int:
    if len(payload) < _COUNT.size:
        raise PacketError("a finish without a count")
    count: int = _COUNT.unpack_from(payload)[0]
    return count


def pack_receipt(sequence: int, index: int, window_bytes: int) -> bytes:
    """The payload of RECEIPT: the furthest fragment that has come, and how much may follow it."""
    return _RECEIPT.pack(sequence, index, window_bytes)


def unpack_receipt(payload: bytes) -> tuple[int, int, int]:
    if len(payload) < _RECEIPT.size:
        raise PacketError("a receipt that is cut off")
    sequence, index, window_bytes = _RECEIPT.unpack_from(payload)
    return sequence, index, window_bytes
