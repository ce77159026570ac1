"""A part of a file as something to send: the operating system moves its bytes, Python never sees them.

A slice holds a descriptor of its own, shared by what is cut from it and closed with the last of them. So the file
stays open for as long as anything of it waits to be sent, whatever its owner does meanwhile. What leaves are the bytes
that the file holds at that moment: whoever sends must know whether it changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

# Where a file system gives nothing to sendfile, its bytes go through our own memory, so much at a time.
_COPY_BYTES = 256 * 1024
_NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class _Descriptor:
    """Open as long as somebody refers to it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.number)


class FileSlice:
    """`nbytes` of an open file, from `offset`. Cut it like a memoryview; its length is its bytes."""

    __slots__ = ("_descriptor", "nbytes", "offset")

    def __init__(self, descriptor: _Descriptor, offset: int, nbytes: int) -> None:
        self._descriptor = descriptor
        self.offset = offset
        self.nbytes = nbytes

    @classmethod
    def of(cls, fd: int, offset: int, nbytes: int) -> FileSlice:
        """A slice of the file that `fd` has open; the descriptor stays its owner's, to be closed at any time."""
        return cls(_Descriptor(os.dup(fd)), offset, nbytes)

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, part: slice) -> FileSlice:
        start, stop, step = part.indices(self.nbytes)
        assert step == 1
        return FileSlice(self._descriptor, self.offset + start, max(0, stop - start))

    def send(self, sock: socket.socket) -> int:
        """Send what the socket takes now; returns how much that was.

        Raises:
            BlockingIOError: nothing at the moment.
            OSError: the connection failed, or the file has become shorter than the slice.
        """
        try:
            sent = os.sendfile(sock.fileno(), self._descriptor.number, self.offset, self.nbytes)
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
            part = os.pread(self._descriptor.number, min(self.nbytes, _COPY_BYTES), self.offset)
            sent = sock.send(part) if part else 0
        if not sent:
            raise OSError(errno.EIO, "a file became shorter while it was sent")
        return sent
