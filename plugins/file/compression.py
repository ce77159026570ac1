"""Blocks compressed by zstd, where both sides have it: `pip install 'transport-kernel[zstd]'`.

Decompression is bounded twice, before anything is made of what a peer sent: a block never becomes longer than was
announced (at most `BLOCK_BYTES`), and never more than `RATIO_MAX` times as long as it came. What would be compressed
better than that is sent as it is.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from kernel.errors import UsageError

from .errors import FileError
from .sums import BLOCK_BYTES

if TYPE_CHECKING:
    from .receiving import Unpack
    from .sending import Pack

RATIO_MAX = 256
_LEVEL = 1
_WORTH_IT = 0.95


@functools.cache
def available() -> bool:
    """zstd is installed here."""
    try:
        import zstandard  # noqa: F401
    except ImportError:
        return False
    return True


def packer() -> Pack | None:
    """Compresses a block, unless that gains nothing. One thread at a time may use it; None: there is no zstd here."""
    if not available():
        return None
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def pack(block: bytes) -> bytes | None:
        packed = compressor.compress(block)
        worth_it = len(packed) < len(block) * _WORTH_IT
        return packed if worth_it and len(packed) * RATIO_MAX >= len(block) else None

    return pack


def unpacker() -> Unpack | None:
    """Decompresses a block within bounds; None: there is no zstd here."""
    if not available():
        return None
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=8 * BLOCK_BYTES)

    def unpack(parts: list[bytes], nbytes: int) -> list[bytes]:
        packed = b"".join(parts)
        if nbytes > min(BLOCK_BYTES, len(packed) * RATIO_MAX):
            raise FileError(
                "protocol", f"{len(packed)} bytes that unpack to {nbytes}: more than {RATIO_MAX} times as much"
            )
        try:
            with decompressor.stream_reader(packed) as reader:
                block = reader.read(nbytes + 1)
        except zstandard.ZstdError as error:
            raise FileError("protocol", f"a compressed block cannot be read: {error}") from None
        if len(block) != nbytes:
            raise FileError("protocol", f"a compressed block has not the {nbytes} bytes that it announces")
        return [block]

    return unpack


def require() -> None:
    """Raise what a person should read where zstd is asked for and missing."""
    if not available():
        raise UsageError("zstd is not installed: pip install 'transport-kernel[zstd]'")
