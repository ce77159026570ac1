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
        first: bytes that do not start with `MAGIC`, of which 8 are looked at.
    """
    first = first[:PREFACE_BYTES]
    if first.startswith(_HTTP):
        return "the peer's first bytes look like HTTP, this side speaks KNL/1"
    if first.startswith(b"SSH-"):
        return "the peer's first bytes look like an SSH banner, this side speaks KNL/1"
    if first[:2] == b"\x16\x03":
        return "the peer's first bytes look like a TLS client hello, this side speaks KNL/1 without TLS"
    if first[:2] == b"\x15\x03":
        return "the peer's first bytes look like a TLS alert, this side speaks KNL/1 without TLS: write tls+ in front"
    if first.isascii() and first.decode().replace("\r\n", "").replace("\n", "").isprintable():
        return "the peer's first bytes look like text: use ?framing=raw or ?framing=line for it"
    if len(first) >= 4 and first[:2] == b"\x00\x00":
        length = int.from_bytes(first[:4], "big")
        return f"the peer's first bytes look like a 4-byte big-endian length ({length}): use ?framing=length"
    if len(first) >= 4 and first[2:4] == b"\x00\x00":
        length = int.from_bytes(first[:4], "little")
        return (
            f"the peer's first bytes look like a 4-byte little-endian length ({length}): "
            "use ?framing=length&endian=little"
        )
    return f"the peer's first bytes are not KNL/1: {first.hex(' ')}"
