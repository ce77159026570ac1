"""Codes and reasons as RESET, GOAWAY and ERROR carry them: a number for programs, words for people."""

from __future__ import annotations

import struct

from kernel.errors import Code
from kernel.framing.errors import DecodeError, ErrorCode
from kernel.session import fields
from kernel.session.base import Fault
from kernel.session.handshake import REASON_BYTES_MAX

_CODE = struct.Struct(">H")
_FRAMING_CODES = {
    ErrorCode.TOO_LARGE: Code.FRAME_TOO_LARGE,
    ErrorCode.BAD_CHECKSUM: Code.BAD_CHECKSUM,
    ErrorCode.BAD_VERSION: Code.VERSION,
}


def pack(text: str) -> bytes:
    """Text for the wire, cut between two characters."""
    return text.encode("utf-8", "backslashreplace")[:REASON_BYTES_MAX].decode("utf-8", "ignore").encode()


def pack_code(code: Code, reason: str) -> bytes:
    """A code with its reason behind it."""
    return _CODE.pack(code) + pack(reason)


def unpack_code(payload: bytes) -> tuple[Code, str]:
    """The same, from the peer.

    Raises:
        Fault: it is too short.
    """
    if len(payload) < _CODE.size:
        raise Fault(Code.PROTOCOL, f"a code of {len(payload)} bytes")
    return code_of(_CODE.unpack_from(payload)[0]), fields.printable(payload[_CODE.size :][:REASON_BYTES_MAX])


def code_of(number: int) -> Code:
    """A code from the peer; one that only later versions know means something internal to us."""
    try:
        return Code(number)
    except ValueError:
        return Code.INTERNAL


def framing_fault(error: DecodeError) -> Fault:
    """What a corrupt stream means to a session."""
    return Fault(_FRAMING_CODES.get(error.code, Code.PROTOCOL), str(error))
