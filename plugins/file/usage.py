"""How much is stored, and how much may be. Counted once at the start and kept up to date with what peers store.

An unfinished upload that waits for its client counts as the file that it is: else quotas could be filled many times
over by uploads that nobody finishes. Whoever takes it up again takes over its room.

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
from .partial import PART_SUFFIX

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
        self._unfinished: dict[bytes, int] = {}
        self.nbytes = 0
        self.files = 0

    def count(self, root: Root) -> None:
        """See what is there, where that matters."""
        if not self._bytes_max and not self._files_max:
            return
        for above, _, files, directory in os.fwalk(b".", dir_fd=root.fd):
            unfinished = os.path.normpath(above) == STATE_DIRECTORY
            for name in files:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or (unfinished and not name.endswith(PART_SUFFIX)):
                    continue
                self.change(status.st_size, 1)
                if unfinished:
                    self._unfinished[name.removesuffix(PART_SUFFIX)] = status.st_size

    def reserve(
        self,
        nbytes: int,
        replaced: os.stat_result | None,
        *,
        disk: int | None = None,
        present: int = 0,
        unfinished: bytes = b"",
    ) -> Reservation:
        """Take room for a file before it comes.

        Args:
            disk: a descriptor on the disk that is asked for room; None: writing will tell soon enough.
            present: so much of it takes room on the disk already.
            unfinished: the name of the unfinished upload that it may continue.

        Raises:
            FileError: there is none, on the disk or within the quota.
        """
        if disk is not None and nbytes:
            self._ask(disk, nbytes, present)
        freed, fewer = _counted(replaced)
        with self._lock:
            taken = self._unfinished.get(unfinished)
            more = nbytes - (taken or 0)
            files = 0 if taken is not None else 1
            self._check(more - freed, files - fewer)
            self._unfinished.pop(unfinished, None)
            self.nbytes += more
            self.files += files
        return Reservation(self, nbytes, unfinished, taken)

    def _ask(self, disk: int, nbytes: int, present: int) -> None:
        status = os.fstatvfs(disk)
        free = status.f_bavail * status.f_frsize
        if nbytes - present > free - _RESERVE_BYTES:
            raise FileError("full", f"{nbytes} bytes do not fit: {max(0, free)} are free on the server's disk")

    def _check(self, nbytes: int, files: int) -> None:
        if self._bytes_max and nbytes > 0 and self.nbytes + nbytes > self._bytes_max:
            raise self._refusal(f"{self.nbytes} bytes", f"{self._bytes_max} (total_bytes_max)")
        if self._files_max and files > 0 and self.files + files > self._files_max:
            raise self._refusal(f"{self.files} files", f"{self._files_max} (files_max)")

    def _refusal(self, stored: str, limit: str) -> FileError:
        unfinished = f" ({len(self._unfinished)} unfinished uploads among them)" if self._unfinished else ""
        return FileError("quota", f"{stored} are stored{unfinished}, the limit is {limit}")

    def change(self, nbytes: int, files: int) -> None:
        with self._lock:
            self.nbytes += nbytes
            self.files += files

    def grow(self, nbytes: int) -> None:
        with self._lock:
            self._check(nbytes, 0)
            self.nbytes += nbytes

    def removed(self, status: os.stat_result | None) -> None:
        """This is gone; None: nothing is."""
        nbytes, files = _counted(status)
        self.change(-nbytes, -files)

    def left(self, name: bytes, nbytes: int) -> None:
        """An upload is over, and so much of it waits for its next attempt, already counted."""
        with self._lock:
            self._unfinished[name] = nbytes

    def swept(self, name: bytes) -> None:
        """An unfinished upload was removed."""
        with self._lock:
            nbytes = self._unfinished.pop(name, None)
            if nbytes is not None:
                self.nbytes -= nbytes
                self.files -= 1


def _counted(status: os.stat_result | None) -> tuple[int, int]:
    """For how many bytes and files it counts: regular files do."""
    return (status.st_size, 1) if status is not None and stat.S_ISREG(status.st_mode) else (0, 0)


class Reservation:
    """Room that was taken for one file: `keep` it when the file is stored, else `release` gives it back."""

    def __init__(self, usage: Usage, nbytes: int, unfinished: bytes, taken: int | None) -> None:
        self._usage = usage
        self._nbytes = nbytes
        self._unfinished = unfinished
        self._taken = taken
        self._open = True

    def grow(self, nbytes: int) -> None:
        """The file is that long by now."""
        if nbytes > self._nbytes:
            self._usage.grow(nbytes - self._nbytes)
            self._nbytes = nbytes

    def keep(self, nbytes: int, replaced: os.stat_result | None) -> None:
        """It is stored; `replaced` is what had its name at the end, which need not be what had it at the start."""
        if self._open:
            self._open = False
            self._usage.change(nbytes - self._nbytes, 0)
            self._usage.removed(replaced)

    def undo(self) -> None:
        """Nothing was done: all is as before."""
        self.release(self._taken)

    def release(self, left_bytes: int | None = None) -> None:
        """The file is not stored; so much of it waits for the next attempt, None: nothing."""
        if not self._open:
            return
        self._open = False
        if left_bytes is None:
            self._usage.change(-self._nbytes, -1)
        else:
            self._usage.change(left_bytes - self._nbytes, 0)
            self._usage.left(self._unfinished, left_bytes)
