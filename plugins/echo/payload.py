"""What one message holds, readable in parts: a message of 1 GiB is never in memory, neither to send nor to compare.

A generated payload can be computed anew at any offset. It opens with its sequence number in hexadecimal digits, which
upper-casing leaves alone, so that no two in flight are the same; the rest is a block of all byte values, repeated. The
block's length is a prime number, so that bytes shifted by a power of two (a lost frame) never look right.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

_BLOCK_BYTES = 65_521
_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Payload:
    """The bytes of one message.

    Attributes:
        size: how many bytes there are.
        read: called with an offset and a length, gives that part.
    """

    size: int
    read: Callable[[int, int], bytes]

    def whole(self) -> bytes:
        """All of it at once."""
        return self.read(0, self.size)


def of_bytes(data: bytes) -> Payload:
    """A payload that is in memory already."""
    return Payload(len(data), lambda offset, nbytes: data[offset : offset + nbytes])


def of_file(descriptor: int) -> Payload:
    """The rest of a regular file, from its present position; the file must stay open and unchanged."""
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    size = max(os.fstat(descriptor).st_size - start, 0)
    return Payload(size, lambda offset, nbytes: os.pread(descriptor, min(nbytes, size - offset), start + offset))


def generated(sequence: int, size: int, *, printable: bool = False) -> Payload:
    """The payload of that number; `printable` keeps to letters and digits, for framings that cut at a byte value."""
    head = b"%0*X" % (_HEAD_BYTES, sequence)
    head = head[-min(size, _HEAD_BYTES) :] if size else b""
    block = _block(printable)

    def read(offset: int, nbytes: int) -> bytes:
        nbytes = min(nbytes, size - offset)
        front = head[offset : offset + nbytes]
        start = (offset + len(front)) % _BLOCK_BYTES
        wanted = nbytes - len(front)
        if start + wanted <= _BLOCK_BYTES:
            return front + block[start : start + wanted]
        repeats = (start + wanted) // _BLOCK_BYTES + 1
        return front + (block * repeats)[start : start + wanted]

    return Payload(size, read)


@cache
def _block(printable: bool) -> bytes:
    import hashlib

    block = hashlib.shake_128(b"kernel echo").digest(_BLOCK_BYTES)
    if not printable:
        return block
    letters = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
    return block.translate(letters * 4)
