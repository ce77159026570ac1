"""The numbers of KNL/1's frames and packets. Plain integers: they are compared once a frame.

    frame    version u8, type u8, flags u16, channel u32, length u32 (of the payload), crc u32; then the
    payload
    packet   magic u16, version u8, kind u8, connection u64, sequence u32, fragment index u16, fragment
    count u16,
             message length u32; then the fragment

All big-endian. A frame's crc is the CRC-32 of its first 12 bytes, continued over the payload where CHECKSUM
is set.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
HEADER_BYTES: Final = 16
LENGTH_MAX: Final = 0xFFFFFFFF

DATA: Final = 0
HELLO: Final = 1
AUTH: Final = 2
OPEN: Final = 3
ACCEPT: Final = 4
RESET: Final = 5
CREDIT: Final = 6
PING: Final = 7
PONG: Final = 8
GOAWAY: Final = 9
ERROR: Final = 10
INFO: Final = 11

MORE: Final = 0x0001
"""The message goes on in the next frame of its channel."""
FIN: Final = 0x0002
"""The sender's last frame on its channel."""
CHECKSUM: Final = 0x0004
"""The crc covers the payload too."""
IGNORABLE: Final = 0x0008
"""Whoever doesn't know the type may skip the frame."""
BEGIN: Final = 0x0010
"""The payload starts with the length of the whole message, u64."""

PACKET_MAGIC: Final = 0x4B55
PACKET_VERSION: Final = 1
PACKET_HEADER_BYTES: Final = 24
FROM_SERVER: Final = 0x80
"""The bit of a packet's kind that says its direction."""
FRAGMENTS_MAX: Final = 0xFFFF
