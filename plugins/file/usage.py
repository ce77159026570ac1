"""How much is stored, and how much may be. Counted once at the start and kept up to date with what peers store.

What other programs put below the root meanwhile is not seen until the next start; the disk itself is asked for room at
each upload.
"""

from __future__ import annotations

import os
import stat
import threading

from .confine import Root
from .errors import FileError
from .names import STATE_DIRECTORY

# The last bytes of a disk are its owner's.
_RESERVE_BYTES = 1024 * 1024


class Usage:
    """Bytes and files below a root.

    Args:
        bytes_max, files_max: 0: no limit.
    """

    def __init__(self, bytes_max: int = 0, files_max: int = 0) -> None:
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._lock = threading.Lock()
        self.nbytes = 0
        self.files = 0

    def count(self, root: Root) -> None:
        """See what is there, where that matters."""
        if not self._bytes_max and not self._files_max:
            return
        for _, folders, files, directory in os.fwalk(b".", dir_fd=root.fd):
            if STATE_DIRECTORY in folders:
                folders.remove(STATE_DIRECTORY)
            for name in files:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    self.nbytes += status.st_size
                    self.files += 1

    def reserve(self, nbytes: int, replaced: os.stat_result | None, fd: int | None, present: int = 0) -> Reservation:
        """Take room for a file before it comes.

        Args:
            fd: on the disk that is asked for room; None: writing will tell soon enough.
            present: so much of it is on the disk already.

        Raises:
            FileError: there is none, on the disk or within the quota.
        """
        if fd is not None and nbytes:
            disk = os.fstatvfs(fd)
            free = disk.f_bavail * disk.f_frsize
            if nbytes - present > free - _RESERVE_BYTES:
                raise FileError("full", f"{nbytes} bytes do not fit: {max(0, free)} are free on the server's disk")
        freed = replaced.st_size if replaced is not None else 0
        with self._lock:
            self._check(nbytes - freed, 0 if replaced is not None else 1)
            self.nbytes += nbytes
            self.files += 1
        return Reservation(self, nbytes, freed, replaced is not None)

    def _check(self, nbytes: int, files: int) -> None:
        if self._bytes_max and self.nbytes + nbytes > self._bytes_max:
            raise FileError(
                "quota", f"{self.nbytes} bytes are stored, the limit is {self._bytes_max} (total_bytes_max)"
            )
        if self._files_max and self.files + files > self._files_max:
            raise FileError("quota", f"{self.files} files are stored, the limit is {self._files_max} (files_max)")

    def change(self, nbytes: int, files: int) -> None:
        with self._lock:
            self.nbytes += nbytes
            self.files += files

    def grow(self, nbytes: int) -> None:
        with self._lock:
            self._check(nbytes, 0)
            self.nbytes += nbytes

    def removed(self, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self.change(-status.st_size, -1)


class Reservation:
    """Room that was taken for one file: `keep` it when the file is stored, else `release` gives it back."""

    def __init__(self, usage: Usage, nbytes: int, freed: int, replaces: bool) -> None:
        self._usage = usage
        self._nbytes = nbytes
        self._freed = freed
        self._replaces = replaces
        self._open = True

    def grow(self, nbytes: int) -> None:
        """The file is that long by now."""
        if nbytes > self._nbytes:
            self._usage.grow(nbytes - self._nbytes)
            self._nbytes = nbytes

    def keep(self, nbytes: int) -> None:
        if self._open:
            self._open = False
            self._usage.change(nbytes - self._nbytes - self._freed, -1 if self._replaces else 0)

    def release(self) -> None:
        if self._open:
            self._open = False
            self._usage.change(-self._nbytes, -1)
