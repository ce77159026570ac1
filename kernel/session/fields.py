"""Fields: how HELLO, OPEN and the datagram handshake carry named values. `key u16, length u16, value`, repeated.

Keys ascend strictly, so one set of values has exactly one encoding (the transcript that authentication hashes is
unambiguous). A reader skips keys that it does not know: that is how later versions add fields.
"""

from __future__ import annotations

import struct

_HEAD = struct.Struct(">HH")


class FieldsError(ValueError):
    """The bytes are no fields."""


def pack(values: dict[int, bytes]) -> bytes:
    """Encode values of at most 65,535 bytes each."""
    return b"".join(_HEAD.pack(key, len(value)) + value for key, value in sorted(values.items()))


def unpack(data: bytes) -> dict[int, bytes]:
    """Decode.

    Raises:
        FieldsError: a field is cut off, or the keys do not ascend.
    """
    values: dict[int, bytes] = {}
    at, last_key = 0, -1
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise FieldsError("a field's head is cut off")
        key, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if length > len(data) - at:
            raise FieldsError(f"field {key} announces {length} bytes, {len(data) - at} are there")
        if key <= last_key:
            raise FieldsError(f"field {key} comes after field {last_key}")
        values[key] = data[at : at + length]
        at, last_key = at + length, key
    return values


def number(values: dict[int, bytes], key: int, default: int) -> int:
    """Read an unsigned big-endian number of 1 to 8 bytes.

    Raises:
        FieldsError: it has another length.
    """
    value = values.get(key)
    if value is None:
        return default
    if not 1 <= len(value) <= 8:
        raise FieldsError(f"field {key} is a number of {len(value)} bytes")
    return int.from_bytes(value, "big")


def text(values: dict[int, bytes], key: int, default: str = "") -> str:
    """Read UTF-8; what is not UTF-8, or not printable, becomes visible escapes, so that it can be logged as it is."""
    value = values.get(key)
    return default if value is None else printable(value)


def printable(value: bytes) -> str:
    """Text from a peer, fit for a log line and a terminal: control, bidi and other invisible characters escaped."""
    decoded = value.decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)
