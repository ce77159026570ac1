"""Checksums: one for each block, and one digest of the whole that is made of them.

A file is cut into blocks of `BLOCK_BYTES`. A block's sum is its XXH3-128; the digest of a file is the XXH3-128 of its
blocks' sums, in order, and its length. So blocks can be summed in any order and by several threads, a transfer that is
resumed needs the sums of what is there and not its bytes, and no second pass is needed. It finds accidents, all of
them in practice; it is no signature: against people on the way there is TLS.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from xxhash import xxh3_128

from kernel.limits import MIB

BLOCK_BYTES = MIB
SUM_BYTES = 16
_ZEROS_AT_ONCE = 4096
UNKNOWN = bytes(SUM_BYTES)
"""Stands for a block that is not there. No block has this sum, as far as anybody knows."""


def block_sum(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """The sum of one block that lies in some parts."""
    state = xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()


@functools.lru_cache(maxsize=64)
def zeros_sum(nbytes: int) -> bytes:
    """The sum of a block of zeros."""
    return xxh3_128(bytes(nbytes)).digest()


def zeros_sums(index: int, count: int, size: int) -> Iterator[bytes]:
    """The sums of blocks of zeros in a file of that size, one behind the other, some thousand at a time."""
    last = index + count - 1
    whole = count if block_bytes(last, size) == BLOCK_BYTES else count - 1
    for at in range(0, whole, _ZEROS_AT_ONCE):
        yield zeros_sum(BLOCK_BYTES) * min(_ZEROS_AT_ONCE, whole - at)
    if whole < count:
        yield zeros_sum(block_bytes(last, size))


def digest(sums: bytes | bytearray | memoryview, size: int) -> bytes:
    """The digest of a file of so many bytes whose blocks have these sums."""
    state = xxh3_128(sums)
    state.update(digest_end(size))
    return state.digest()


def digest_end(size: int) -> bytes:
    """What comes behind the sums in a digest."""
    return size.to_bytes(8, "big")


def small_digest(sum_: bytes, size: int) -> bytes:
    """The digest of a file of at most one block with that sum; an empty file has no block."""
    return digest(sum_ if size else b"", size)


def block_count(size: int) -> int:
    """How many blocks a file of so many bytes has."""
    return -(-size // BLOCK_BYTES)


def block_bytes(index: int, size: int) -> int:
    """The length of one of them."""
    return min(BLOCK_BYTES, size - index * BLOCK_BYTES)
