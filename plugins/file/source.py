"""A file to send: its blocks in order, summed as they are read, and the proof that it stayed the same meanwhile.

A file is the same as long as its inode, size, mtime and ctime are. The clock behind those times moves in steps of some
milliseconds, so two changes within a step look like one: a file that was changed just now is waited for, until a later
change must show.

Reading and summing happen in a thread, some blocks ahead of the network. What was read is in the page cache then, and
sendfile takes it from there without waiting for a disk.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xxhash import xxh3_128

from . import sums
from .errors import FileError
from .names import shown
from .sums import BLOCK_BYTES, block_bytes, block_count

# Longer than any step of the clock that file systems use.
_CLOCK_STEP_SECONDS = 0.02
# Summed while it is in the processor's cache.
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is to be sent next: a block, or `count` blocks of zeros that take no room (`sum` is empty then).

    `data`: the block, where it could not be left to sendfile; `packed`: the same, compressed.
    """

    index: int
    nbytes: int
    sum: bytes
    data: bytes | None = None
    packed: bytes | None = None
    count: int = 0


class Source:
    """An open regular file. `close` it in the end."""

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        self._stat = _settled(fd)
        self.size = self._stat.st_size
        self.mode = self._stat.st_mode & 0o7777
        self.mtime_ns = self._stat.st_mtime_ns

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def version(self) -> bytes:
        """Names this content of this file, for who resumes."""
        return xxh3_128(repr(_identity(self._stat)).encode()).digest()

    @property
    def is_sparse(self) -> bool:
        """It takes clearly less room than its length."""
        return self._stat.st_blocks * 512 + BLOCK_BYTES <= self.size

    def check_unchanged(self) -> None:
        """Whether it still is what it was when we began.

        Raises:
            FileError: it is not.
        """
        if _identity(os.fstat(self.fd)) != _identity(self._stat):
            raise self._changed()

    def _changed(self) -> FileError:
        return FileError(
            "changed", f"{shown(self.path)} changed while it was sent: repeat when nobody writes to it; nothing is kept"
        )

    def small(self) -> tuple[bytes, bytes]:
        """All of it, and its sum."""
        data = os.pread(self.fd, self.size + 1, 0)
        if len(data) != self.size:
            raise self._changed()
        return data, sums.block_sum([data])

    # --- blocks ----------------------------------------------------------------------------------------------------

    def blocks(self, indices: Iterable[int], *, summed: bool, read: bool) -> Iterator[Outgoing]:
        """These blocks; runs of empty ones as one. For a thread.

        Args:
            summed: with their sums.
            read: with their bytes, where sendfile cannot send them.
        """
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        holes = _Holes(self.fd, self.size) if self.is_sparse else None
        empty_from = empty_count = 0
        for index in indices:
            if holes is not None and holes.covers(index):
                if empty_count and index == empty_from + empty_count:
                    empty_count += 1
                    continue
                if empty_count:
                    yield Outgoing(empty_from, 0, b"", count=empty_count)
                empty_from, empty_count = index, 1
                continue
            if empty_count:
                yield Outgoing(empty_from, 0, b"", count=empty_count)
                empty_count = 0
            yield self._block(index, buffer, summed=summed, read=read)
        if empty_count:
            yield Outgoing(empty_from, 0, b"", count=empty_count)

    def _block(self, index: int, buffer: memoryview, *, summed: bool, read: bool) -> Outgoing:
        offset, nbytes = index * BLOCK_BYTES, block_bytes(index, self.size)
        if read:
            data = self._read(offset, nbytes)
            return Outgoing(index, nbytes, sums.block_sum([data]) if summed else b"", data)
        if not summed:
            self._fetch(offset, nbytes, buffer)
            return Outgoing(index, nbytes, b"")
        state = xxh3_128()
        for at in range(offset, offset + nbytes, _CHUNK_BYTES):
            chunk = buffer[: min(_CHUNK_BYTES, offset + nbytes - at)]
            if os.preadv(self.fd, [chunk], at) < len(chunk):
                raise self._changed()
            state.update(chunk)
        return Outgoing(index, nbytes, state.digest())

    def _read(self, offset: int, nbytes: int) -> bytes:
        data = os.pread(self.fd, nbytes, offset)
        while len(data) < nbytes:
            more = os.pread(self.fd, nbytes - len(data), offset + len(data))
            if not more:
                raise self._changed()
            data += more
        return data

    def _fetch(self, offset: int, nbytes: int, buffer: memoryview) -> None:
        """Have a block in the page cache, without reading it where it is there."""
        flags = getattr(os, "RWF_NOWAIT", 0)
        if not flags:
            return
        try:
            for at in range(offset, offset + nbytes, _CHUNK_BYTES):
                os.preadv(self.fd, [buffer[:1]], min(at + _CHUNK_BYTES, offset + nbytes) - 1, flags)
        except BlockingIOError:
            self._read(offset, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # it lives in memory, or will block a little
                raise

    def prefix_sums(self, count: int) -> Iterator[bytes]:
        """The sums of the first blocks, for who resumes. For a thread."""
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        for index in range(min(count, block_count(self.size))):
            yield self._block(index, buffer, summed=True, read=False).sum


class _Holes:
    """Where a sparse file has nothing."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._hole_until = 0
        self._data_until = 0

    def covers(self, index: int) -> bool:
        """Whether the whole block is a hole. Blocks are asked for in ascending order, as a rule."""
        start = index * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self._size)
        try:
            data = os.lseek(self._fd, start, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO  # nothing but holes up to the end
        return data >= end


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _settled(fd: int) -> os.stat_result:
    """The file's state, at a moment after which every change shows."""
    status = os.fstat(fd)
    age = time.time() - max(status.st_mtime_ns, status.st_ctime_ns) / 1e9
    if 0 <= age < _CLOCK_STEP_SECONDS:
        time.sleep(_CLOCK_STEP_SECONDS)
        status = os.fstat(fd)
    return status


def stream_blocks(fd: int) -> Iterator[tuple[bytes, bytes]]:
    """Whole blocks and their sums, however little each read gives."""
    while True:
        block = bytearray()
        while len(block) < BLOCK_BYTES and (part := _read(fd, BLOCK_BYTES - len(block))):
            block += part
        if block:
            yield bytes(block), xxh3_128(block).digest()
        if len(block) < BLOCK_BYTES:
            return


def _read(fd: int, nbytes: int) -> bytes:
    """What comes next, also out of a pipe that does not want to wait; empty at its end."""
    while True:
        try:
            return os.read(fd, nbytes)
        except BlockingIOError:
            select.select([fd], [], [])
