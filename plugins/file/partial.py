"""A file on its way in: written under a name that nobody sees, and given its own when all of it is there.

    begin -> write blocks (verified before they are written) -> commit: fsync, rename, fsync of the directory

Invariants: under the final name there is the old file, or the new one whole, whatever is killed and whenever; a block
counts as held only when its sum was right and its bytes were written before its sum was; `commit` returns after
everything is on disk, and only then may anybody be told.

Resuming: beside a file of more than one block lies a manifest with the sums of the blocks that are there, so nothing
needs to be read again. It also says in which boot of the machine it was written: after a crash of the system, bytes may
be missing that the manifest knows of, and then the blocks are read and compared. A lock on the file tells who is at
work on it, across processes.

All of this blocks: it runs in a worker's thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from xxhash import xxh3_128

from . import sums
from .errors import FileError
from .rename import rename_new
from .sums import BLOCK_BYTES, SUM_BYTES, UNKNOWN, block_bytes, block_count

PART_SUFFIX = b".part"
SUMS_SUFFIX = b".sums"
_HEADER = struct.Struct(">8sqq16s16s")
_NO_VERSION = bytes(16)
_MAGIC = b"KNLSUM01"
_HEADER_BYTES = 96
_RENAMES_MAX = 1000
_OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_OLD = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

Policy = Literal["refuse", "replace", "rename"]


class Partial:
    """One file that is being received.

    Args:
        directory: a descriptor of where it lies meanwhile; stays its owner's.
        name: its name there, without suffix.
        size: its length, -1 while nobody knows it.
        mtime_ns, version: with the size, what tells whether a later attempt is about the same content.
        durable: off: nothing is synced; a power cut may then leave an empty file.
        resumable: keep a manifest, if it is worth one.

    Attributes:
        held: so many blocks from the start are there, verified.
        note: why nothing of an earlier attempt was used, for people.
        damaged: blocks whose bytes did not have their sum; `take_damaged` empties it.
    """

    def __init__(
        self,
        directory: int,
        name: bytes,
        size: int,
        mtime_ns: int,
        *,
        version: bytes = _NO_VERSION,
        durable: bool = True,
        resumable: bool = True,
    ) -> None:
        self._directory = directory
        self._name = name
        self.size = size
        self._mtime_ns = mtime_ns
        self._version = version
        self._durable = durable
        self._resumable = resumable and size > BLOCK_BYTES
        self._fd = -1
        self._sums_fd = -1
        self._sums = bytearray()
        self._stream_bytes = 0 if size < 0 else None  # how long it is by now, where nobody knew before
        self.held = 0
        self.note = ""
        self.damaged: list[int] = []

    # --- begin -----------------------------------------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        """Make it, or take up what an earlier attempt has left.

        Raises:
            FileError: somebody else is at work on it.
            OSError
        """
        new = self._open()
        try:
            if not new and not (resume and self._resumable and self._read_manifest()):
                self._start_over()
            if self._resumable and self._sums_fd < 0:
                self._begin_manifest()
        except BaseException:
            self.discard()
            raise

    def _open(self) -> bool:
        """Open it and lock it; whether it is new. Until it is locked, others may give it its final name or sweep it."""
        while True:
            try:
                self._fd = os.open(self._name + PART_SUFFIX, _OPEN_NEW, 0o600, dir_fd=self._directory)
                new = True
            except FileExistsError:
                try:
                    self._fd = os.open(self._name + PART_SUFFIX, _OPEN_OLD, dir_fd=self._directory)
                except FileNotFoundError:
                    continue
                new = False
            try:
                self._lock()
            except BaseException:
                self._close()
                raise
            if is_named(self._fd, self._directory, self._name + PART_SUFFIX):
                return new
            self._close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(
                "busy", "somebody else is sending a file of this name: wait, or take another name"
            ) from None

    def _start_over(self) -> None:
        self.held = 0
        self._sums = bytearray()
        os.ftruncate(self._fd, 0)
        if self._sums_fd >= 0:
            os.close(self._sums_fd)
            self._sums_fd = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name + SUMS_SUFFIX, dir_fd=self._directory)

    def start_at(self, first: int) -> None:
        """The sender begins here: at what we hold, or at 0, because its content is another."""
        if first == self.held:
            return
        if first:
            raise FileError("protocol", f"the sender begins at block {first}, {self.held} are held")
        self._start_over()
        if self._resumable:
            self._begin_manifest()

    # --- the manifest ------------------------------------------------------------------------------------------------

    def _header(self) -> bytes:
        head = _HEADER.pack(_MAGIC, self.size, self._mtime_ns, self._version, boot())
        return (head + xxh3_128(head).digest()[:8]).ljust(_HEADER_BYTES, b"\0")

    def _begin_manifest(self) -> None:
        flags = _OPEN_OLD | os.O_CREAT | os.O_TRUNC
        self._sums_fd = os.open(self._name + SUMS_SUFFIX, flags, 0o600, dir_fd=self._directory)
        os.pwrite(self._sums_fd, self._header(), 0)

    def _read_manifest(self) -> bool:
        """Whether the manifest tells of this content; `held` is what it vouches for then."""
        try:
            fd = os.open(self._name + SUMS_SUFFIX, _OPEN_OLD, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        head = _read_header(fd)
        if head is None:
            os.close(fd)
            return False
        _magic, size, mtime_ns, version, booted = head
        if (size, mtime_ns, version) != (self.size, self._mtime_ns, self._version):
            self.note = "the file is another one than that of which a part had come: starting over"
            os.close(fd)
            return False
        if not self._is_sound():
            self.note = "the disk failed on what had come: starting over"
            os.close(fd)
            return False
        self._sums_fd = fd
        known = os.pread(fd, block_count(size) * SUM_BYTES, _HEADER_BYTES)
        self.held = self._count_held(known, compare=booted != boot())
        self._sums = bytearray(known[: self.held * SUM_BYTES])
        os.ftruncate(self._fd, min(self.held * BLOCK_BYTES, size))  # what lies behind is of no known block
        os.ftruncate(fd, _HEADER_BYTES + self.held * SUM_BYTES)
        os.pwrite(fd, self._header(), 0)
        return True

    def _is_sound(self) -> bool:
        """Whether what an earlier attempt wrote has reached the disk, or will: no error is waiting to be told."""
        try:
            if self._durable:
                os.fsync(self._fd)
        except OSError:
            return False
        return True

    def _count_held(self, known: bytes, *, compare: bool) -> int:
        """How many blocks from the start are there."""
        present = os.fstat(self._fd).st_size
        for index in range(len(known) // SUM_BYTES):
            wanted = known[index * SUM_BYTES : (index + 1) * SUM_BYTES]
            nbytes = block_bytes(index, self.size)
            if wanted == UNKNOWN or index * BLOCK_BYTES + nbytes > present:
                return index
            if compare and sums.block_sum([os.pread(self._fd, nbytes, index * BLOCK_BYTES)]) != wanted:
                return index
        return len(known) // SUM_BYTES

    @property
    def held_digest(self) -> bytes:
        """The digest of the blocks that are held."""
        return sums.digest(self._sums[: self.held * SUM_BYTES], self.held * BLOCK_BYTES)

    def _note_sums(self, index: int, sums_: bytes) -> None:
        """The sums of blocks from this one on."""
        at = index * SUM_BYTES
        if len(self._sums) < at:
            self._sums.extend(bytes(at - len(self._sums)))
        self._sums[at : at + len(sums_)] = sums_
        if self._sums_fd >= 0:
            os.pwrite(self._sums_fd, sums_, _HEADER_BYTES + at)

    # --- blocks ------------------------------------------------------------------------------------------------------

    def write(self, index: int, parts: Sequence[bytes], sum_: bytes) -> None:
        """Verify and write a block; with the wrong sum it is noted in `damaged` and not written."""
        if self._stream_bytes is not None:
            self._stream_bytes = _stream_end(self._stream_bytes, index * BLOCK_BYTES, sum(map(len, parts)))
        if sum_ and sums.block_sum(parts) != sum_:
            self.damaged.append(index)
            return
        offset = index * BLOCK_BYTES
        for part in parts:
            _write_all(self._fd, part, offset)
            offset += len(part)
        if sum_:
            self._note_sums(index, sum_)

    def hole(self, index: int, count: int) -> None:
        """Blocks of zeros that take no room: behind everything that has come."""
        if os.fstat(self._fd).st_size > index * BLOCK_BYTES:
            raise FileError("protocol", f"a hole at block {index}, where bytes have come already")
        os.ftruncate(self._fd, min((index + count) * BLOCK_BYTES, self.size))
        for sums_ in sums.zeros_sums(index, count, self.size):
            self._note_sums(index, sums_)
            index += len(sums_) // SUM_BYTES

    def take_damaged(self) -> list[int]:
        """Blocks to be sent once more."""
        damaged, self.damaged = self.damaged, []
        return damaged

    def check(self, size: int, *, summed: bool) -> None:
        """Whether everything is there, now that the sender has sent its last block.

        Raises:
            FileError: it is not.
        """
        if self.size not in (-1, size):
            raise FileError("protocol", f"{size} bytes were sent of a file of {self.size}")
        self.size = size
        if self._stream_bytes not in (None, size):
            raise FileError("protocol", f"{self._stream_bytes} bytes came, the sender says {size}")
        if summed and (len(self._sums) != block_count(size) * SUM_BYTES or self._lacks_blocks()):
            raise FileError("protocol", "blocks are missing")

    def _lacks_blocks(self) -> bool:
        """Whether there is a block without a sum: it came damaged, and was not sent again."""
        at = self._sums.find(UNKNOWN)
        while at >= 0 and at % SUM_BYTES:
            at = self._sums.find(UNKNOWN, at + 1)
        return at >= 0

    @property
    def digest(self) -> bytes:
        """The digest of the whole."""
        return sums.digest(self._sums, self.size)

    # --- ends --------------------------------------------------------------------------------------------------------

    def commit(self, directory: int, name: bytes, policy: Policy, mode: int, mtime_ns: int) -> bytes:
        """Give it its name in a directory, synced; returns the name, which `rename` may have changed.

        Raises:
            FileExistsError: the name is taken, and the policy is to refuse.
            OSError: it is not, or not surely, on disk; under its name is what was there before, or with `replace`
            perhaps the new file, whole.
        """
        os.ftruncate(self._fd, self.size)
        os.fchmod(self._fd, mode & 0o777)
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        if self._durable:
            self._sync()
        final = self._rename(directory, name, policy)
        self._forget_sums()
        self._close()  # what has its name is no unfinished upload any more, also where that fails to be synced
        if self._durable:
            self._sync_name(directory, final, policy)
        return final

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError:
            self.discard()  # after a failed fsync nobody knows what is on disk: it must not be resumed
            raise

    def _sync_name(self, directory: int, name: bytes, policy: Policy) -> None:
        """What cannot be promised is taken back; but not where it replaced something, which would leave nothing."""
        try:
            fsync_directory(directory)
        except OSError:
            if policy != "replace":
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
            raise

    def _rename(self, directory: int, name: bytes, policy: Policy) -> bytes:
        part = self._name + PART_SUFFIX
        if policy == "replace":
            os.rename(part, name, src_dir_fd=self._directory, dst_dir_fd=directory)
            return name
        for number in range(_RENAMES_MAX):
            candidate = name if not number else numbered(name, number)
            try:
                rename_new(part, candidate, self._directory, directory)
                return candidate
            except FileExistsError:
                if policy == "refuse":
                    raise
        raise FileError("exists", f"it exists, and so do {_RENAMES_MAX - 1} numbered ones: make room")

    @property
    def kept_bytes(self) -> int | None:
        """How long a file `keep` would leave behind; None: none, there is nothing to be resumed."""
        return os.fstat(self._fd).st_size if self._sums_fd >= 0 and self._sums else None

    def keep(self) -> None:
        """Stop here; what is held can be resumed, if something is, and a manifest tells of it."""
        if self.kept_bytes is not None:
            self._close()
        else:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._name + PART_SUFFIX, dir_fd=self._directory)
        self._forget_sums()
        self._close()

    def _forget_sums(self) -> None:
        if self._sums_fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._name + SUMS_SUFFIX, dir_fd=self._directory)

    def _close(self) -> None:
        for fd in (self._fd, self._sums_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._sums_fd = -1


def left_behind(directory: int, name: bytes) -> tuple[int, bytes]:
    """What an earlier attempt has left under a name: how many blocks, of which version; (0, b"") for nothing."""
    try:
        fd = os.open(name + SUMS_SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return 0, b""
    try:
        head = _read_header(fd)
        if head is None:
            return 0, b""
        partial = Partial(directory, name, head[1], head[2], version=head[3])
        try:
            partial.begin(resume=True)
        except (FileError, OSError):
            return 0, b""
        partial.keep()
        return partial.held, head[3]
    finally:
        os.close(fd)


def _read_header(fd: int) -> tuple[bytes, int, int, bytes, bytes] | None:
    """What a manifest begins with; None: nothing that we wrote, or not to its end."""
    header = os.pread(fd, _HEADER_BYTES, 0)
    head = header[: _HEADER.size]
    if len(header) < _HEADER_BYTES or xxh3_128(head).digest()[:8] != header[len(head) : len(head) + 8]:
        return None
    return _HEADER.unpack(head)


def is_named(fd: int, directory: int, name: bytes) -> bool:
    """Whether this is what the name stands for, still."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _stream_end(end: int, offset: int, nbytes: int) -> int:
    """How long a stream is with this block, which comes behind all others or once more."""
    if offset == end:
        return end + nbytes
    if offset < end and nbytes == min(BLOCK_BYTES, end - offset):
        return end
    raise FileError("protocol", f"a block of {nbytes} bytes at {offset} does not fit a stream of {end} bytes so far")


def numbered(name: bytes, number: int) -> bytes:
    """`report.txt` becomes `report-1.txt`."""
    stem, dot, suffix = name.rpartition(b".")
    if not stem:
        return b"%b-%d" % (name, number)
    return b"%b-%d%b%b" % (stem, number, dot, suffix)


def fsync_directory(fd: int) -> None:
    """Have a directory's names on disk; not all file systems can, and they have nothing to lose then."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


@functools.cache
def boot() -> bytes:
    """Names this boot of the machine; where the system does not tell, no two are the same."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        text = os.urandom(16)
    return xxh3_128(text).digest()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)
