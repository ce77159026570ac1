"""A directory that nothing leads out of: every path is opened below it, without following a symbolic link.

Linux has one system call for that, openat2 with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: the
kernel itself refuses, so there is no moment between check and use. Elsewhere, and where a sandbox forbids the call,
the path is opened part by part, each with O_NOFOLLOW relative to the one before. Both ways refuse the same: links that
stay inside are not followed either (docs/decisions says why).

Whatever is not opening (stat, unlink, mkdir, rename) is done in two steps: the parent directory is opened this way, and
the last part, a plain name, is used relative to its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence

_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)
_PARENT = _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RESOLVE = 0x02 | 0x04 | 0x08  # no magic links, no symbolic links, beneath
_OPENAT2 = 437  # the same on every architecture
_PATH_BYTES_MAX = 4096

OpenBelow = Callable[[int, Sequence[bytes], int, int], int]
"""(directory, parts, flags, mode) -> descriptor"""


class Root:
    """The directory. `close` it in the end.

    Args:
        path: opened as it is, links and all: whoever serves it chose it.
        open_below: for tests; None: the best way that this system has.
    """

    def __init__(self, path: str | bytes, open_below: OpenBelow | None = None) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open_below = open_below or best_way()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, parts: Sequence[bytes], flags: int, mode: int = 0o600) -> int:
        """A descriptor of what lies there; its caller closes it.

        Raises:
            OSError: ELOOP for a symbolic link, and whatever else `open` raises.
        """
        if not parts:
            return os.open(b".", flags | os.O_CLOEXEC, dir_fd=self.fd)
        quiet = 0 if flags & _O_PATH else os.O_NOCTTY  # openat2 takes nothing that has no meaning
        return self._open_below(self.fd, parts, flags | os.O_CLOEXEC | quiet, mode)

    def open_file(self, parts: Sequence[bytes]) -> int:
        """A regular file, to read. Anything else (a FIFO, a device) is refused, and never waited for."""
        fd = self.open(parts, os.O_RDONLY | os.O_NONBLOCK)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise OSError(errno.EISDIR, "it is a directory")
            if not stat.S_ISREG(mode):
                raise OSError(errno.EACCES, "it is no regular file")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_directory(self, parts: Sequence[bytes]) -> int:
        """A directory, to list or to work in."""
        return self.open(parts, os.O_RDONLY | os.O_DIRECTORY)

    @contextlib.contextmanager
    def parent(self, parts: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """The directory that holds the last part, open for the length of the `with`, and that part."""
        if not parts:
            raise OSError(errno.EBUSY, "the root itself stays as it is")
        fd = self.open(parts[:-1], _PARENT)
        try:
            yield fd, parts[-1]
        finally:
            os.close(fd)

    def stat(self, parts: Sequence[bytes]) -> os.stat_result:
        """What lies there; of a symbolic link, the link itself."""
        if not parts:
            return os.fstat(self.fd)
        with self.parent(parts) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def make_directories(self, parts: Sequence[bytes], mode: int = 0o777) -> None:
        """Make it, and the directories above that are missing."""
        for depth in range(1, len(parts) + 1):
            with contextlib.suppress(FileExistsError), self.parent(parts[:depth]) as (directory, name):
                os.mkdir(name, mode, dir_fd=directory)

    def set_directory(self, parts: Sequence[bytes], mode: int, mtime_ns: int) -> None:
        """Make it if it is missing, and give it its mode and time; the root itself stays as it is."""
        if not parts:
            return
        self.make_directories(parts)
        fd = self.open_directory(parts)
        try:
            os.fchmod(fd, mode & 0o777)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)


@functools.cache
def best_way() -> OpenBelow:
    """openat2 where it works, else part by part."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(here, [b"."], _PARENT, 0))
    except (OSError, AttributeError, ValueError):
        return open_by_parts
    finally:
        os.close(here)
    return open_beneath


def open_beneath(directory: int, parts: Sequence[bytes], flags: int, mode: int) -> int:
    """One openat2, or a few, where the path is longer than the system takes at once."""
    if sum(map(len, parts)) + len(parts) <= _PATH_BYTES_MAX:
        return _openat2(directory, parts, flags, mode)
    half = len(parts) // 2
    fd = open_beneath(directory, parts[:half], _PARENT, 0)
    try:
        return open_beneath(fd, parts[half:], flags, mode)
    finally:
        os.close(fd)


def _openat2(directory: int, parts: Sequence[bytes], flags: int, mode: int) -> int:
    import ctypes

    how = _open_how(flags, mode if flags & os.O_CREAT else 0)
    while True:
        fd: int = _syscall()(_OPENAT2, directory, b"/".join(parts), how, len(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):  # a rename elsewhere got in between: once more
            raise OSError(number, os.strerror(number), b"/".join(parts))


@functools.lru_cache(maxsize=64)
def _open_how(flags: int, mode: int) -> bytes:
    return b"".join(value.to_bytes(8, sys.byteorder) for value in (flags, mode, _RESOLVE))


@functools.cache
def _syscall() -> Callable[..., int]:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    return call


def open_by_parts(directory: int, parts: Sequence[bytes], flags: int, mode: int) -> int:
    """Part by part, none of them a symbolic link."""
    *parents, last = parts
    fd = directory
    try:
        for part in parents:
            inner = _open_plain(part, _PARENT, 0, fd)
            if fd != directory:
                os.close(fd)
            fd = inner
        return _open_plain(last, flags, mode, fd)
    finally:
        if fd != directory:
            os.close(fd)


def _open_plain(name: bytes, flags: int, mode: int, directory: int) -> int:
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    except NotADirectoryError:  # what O_DIRECTORY says of a link
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise
    if flags & _O_PATH and stat.S_ISLNK(os.fstat(fd).st_mode):  # O_PATH opens the link itself
        os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return fd
