"""The first 8 bytes of a KNL/1 connection, and what other first bytes probably mean.

Both sides send the preface at once. Its first byte, 0, starts no text protocol; `KNL` can be seen in a packet dump.
"""

from __future__ import annotations

MAGIC = b"\x00KNL"
MAJOR = 1
MINOR = 0
PREFACE = MAGIC + bytes([MAJOR, MINOR, 0, 0])
PREFACE_BYTES = len(PREFACE)

_HTTP = (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"PATC", b"DELE", b"CONN", b"TRAC", b"PRI ", b"HTTP")


def explain(first: bytes) -> str:
    """Say in a few words what the first bytes of a stream look like, and what to do about it.

    Args:
        first: up to 8 bytes that do not start with `MAGIC`.
    """
    if first.startswith(_HTTP):
        return "this looks like HTTP: this port speaks KNL/1, not HTTP"
    if first.startswith(b"SSH-"):
        return "this looks like an SSH banner: this port speaks KNL/1, not SSH"
    if first[:2] == b"\x16\x03":
        return "this looks like a TLS client hello: this port speaks KNL/1 without TLS"
    if first[:2] == b"\x15\x03":
        return "this looks like a TLS alert: the other side speaks TLS"
    if first[:8].isascii() and first[:8].decode().replace("\r\n", "").replace("\n", "").isprintable():
        return "this looks like text: for plain text clients listen with ?framing=raw or ?framing=line"
    if len(first) >= 4 and first[:2] == b"\x00\x00":
        return f"this looks like a 4-byte big-endian length ({int.from_bytes(first[:4], 'big')}): use ?framing=length"
    if len(first) >= 4 and first[2:4] == b"\x00\x00":
        length = int.from_bytes(first[:4], "little")
        return f"this looks like a 4-byte little-endian length ({length}): use ?framing=length&endian=little"
    return f"these first bytes are not KNL/1: {first.hex(' ')}"
