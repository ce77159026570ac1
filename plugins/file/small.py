"""Small files, many at a time: each whole, verified and synced before it has a name, in few system calls.

A file is made without a name (O_TMPFILE), written, synced, and linked under its own: the link fails where the name is
taken, and a process that is killed leaves nothing behind. To replace a file, and where the file system knows no
O_TMPFILE, it goes the longer way of `Partial`.

Files come in the order of a walk, so the directory of the last one is kept open. It is synced when another one's turn
has come, and what went into it counts as stored only then: `leave` at the end, or `close` that says what is not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from xxhash import xxh3_128

from .confine import Root
from .partial import Partial, Policy, fsync_directory, numbered

_NAMELESS = getattr(os, "O_TMPFILE", 0)
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
_RENAMES_MAX = 1000


class SmallWriter:
    """Writes small files below a root. Blocks: for one thread. `close` it in the end.

    Args:
        state: where a file lies that needs a name before its own; None: beside it, hidden.
        hidden: makes that name.
        make_directories: make the directories that are missing.
        durable: sync.
    """

    def __init__(
        self,
        root: Root,
        state: int | None,
        hidden: Callable[[bytes], bytes],
        *,
        make_directories: bool,
        durable: bool,
    ) -> None:
        self._root = root
        self._state = state
        self._hidden = hidden
        self._make_directories = make_directories
        self._durable = durable
        self._directory = -1
        self._parents: list[bytes] = []
        self._nameless = bool(_NAMELESS) and os.path.isdir("/proc/self/fd")

    def store(self, parts: list[bytes], data: bytes, policy: Policy, mode: int, mtime_ns: int) -> bytes:
        """Write one; returns the name it got. It is stored once its directory has been left.

        Raises:
            OSError: it is not there; EEXIST: the name is taken.
        """
        directory = self._enter(parts[:-1])
        if self._nameless and policy != "replace":
            name = self._link(directory, parts[-1], data, policy, mode, mtime_ns)
            if name is not None:
                return name
        return self._rename(directory, parts, data, policy, mode, mtime_ns)

    def leave(self) -> None:
        """Have the names in the directory at hand on disk.

        Raises:
            OSError: they are not, or not surely.
        """
        directory, self._directory = self._directory, -1
        if directory >= 0:
            try:
                if self._durable:
                    fsync_directory(directory)
            finally:
                os.close(directory)

    def close(self) -> None:
        """Let go, after an error too."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def is_in(self, parents: list[bytes]) -> bool:
        """Whether the next file of that directory needs no other one to be left."""
        return self._directory < 0 or parents == self._parents

    def _enter(self, parents: list[bytes]) -> int:
        if self._directory < 0 or parents != self._parents:
            self.leave()
            try:
                directory = self._root.open_directory(parents)
            except FileNotFoundError:
                if not self._make_directories:
                    raise
                self._root.make_directories(parents)
                directory = self._root.open_directory(parents)
            self._directory, self._parents = directory, parents
        return self._directory

    def _link(self, directory: int, name: bytes, data: bytes, policy: Policy, mode: int, mtime_ns: int) -> bytes | None:
        """Write it without a name, and give it one; None: this file system cannot."""
        place = directory if self._state is None else self._state
        try:
            fd = os.open(b".", os.O_WRONLY | os.O_CLOEXEC | _NAMELESS, 0o600, dir_fd=place)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._nameless = False
            return None
        try:
            _write_all(fd, data)
            os.fchmod(fd, mode & 0o777)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            if self._durable:
                os.fsync(fd)
            for number in range(_RENAMES_MAX if policy == "rename" else 1):
                candidate = name if not number else numbered(name, number)
                try:
                    os.link(b"/proc/self/fd/%d" % fd, candidate, dst_dir_fd=directory, follow_symlinks=True)
                    return candidate
                except FileExistsError:
                    if policy != "rename":
                        raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        finally:
            os.close(fd)

    def _rename(
        self, directory: int, parts: list[bytes], data: bytes, policy: Policy, mode: int, mtime_ns: int
    ) -> bytes:
        place = directory if self._state is None else self._state
        key = self._hidden(parts[-1] if self._state is None else b"/".join(parts))
        partial = Partial(place, key, len(data), mtime_ns, durable=self._durable, resumable=False)
        try:
            partial.begin(resume=False)
            if data:
                partial.write(0, [data], b"")
            return partial.commit(directory, parts[-1], policy, mode, mtime_ns)
        except BaseException:
            partial.discard()
            raise


def state_name(path: bytes) -> bytes:
    """The name of a small file in a server's place for unfinished uploads."""
    return b"small-" + xxh3_128(path).hexdigest().encode()


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
