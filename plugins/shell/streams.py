"""The client's own standard streams, for an event loop that nothing may hold up.

Their descriptors are shared with whoever started us (the shell, the other end of a pipe), so their mode is never
changed. A pipe or terminal is opened once more by its name in /dev/fd, which gives a descriptor with a mode of its own;
where that cannot be, small writes after `writable` do not block. Files never block.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
from collections import deque
from collections.abc import Callable

_ALWAYS_WRITABLE_BYTES = select.PIPE_BUF
_READ_BYTES = 64 * 1024 - 1


class Output:
    """A descriptor to write to; what it does not take waits here, which the remote side's window bounds.

    Args:
        on_written: is told the cost of what has left, or is not wanted any longer.
        on_broken: is told why no more can be written.
    """

    def __init__(
        self, descriptor: int, on_written: Callable[[int], None], on_broken: Callable[[OSError], None]
    ) -> None:
        self._descriptor, self._piece_bytes = _reopened(descriptor, os.O_WRONLY)
        self._own = self._descriptor != descriptor
        self._waits = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._on_written = on_written
        self._on_broken = on_broken
        self._queue: deque[tuple[memoryview, int]] = deque()
        self._watching = False
        self._empty: asyncio.Future[None] | None = None
        self._broken = False

    def write(self, data: bytes | memoryview, cost: int) -> None:
        """Write it now, or as soon as there is room; `on_written` gets the cost when all of it has left."""
        if self._broken:
            self._on_written(cost)
            return
        self._queue.append((memoryview(data), cost))
        if not self._watching:
            self._writable()

    async def drain(self) -> None:
        """Wait until everything has been written."""
        if self._queue:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    def close(self) -> None:
        self._watch(False)
        if self._own:
            os.close(self._descriptor)
            self._own = False

    def _writable(self) -> None:
        written = 0
        try:
            while self._queue:
                data, cost = self._queue[0]
                count = os.write(self._descriptor, data[: self._piece_bytes] if self._piece_bytes else data)
                if count == len(data):
                    self._queue.popleft()
                    written += cost
                else:
                    self._queue[0] = data[count:], cost
                if self._piece_bytes and not self._waits:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken = True
            written += sum(cost for _, cost in self._queue)
            self._queue.clear()
            self._on_broken(error)
        self._watch(bool(self._queue))
        if not self._queue and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        if written:
            self._on_written(written)

    def _watch(self, on: bool) -> None:
        if on != self._watching:
            self._watching = on
            loop = asyncio.get_running_loop()
            if on:
                loop.add_writer(self._descriptor, self._writable)
            else:
                loop.remove_writer(self._descriptor)


class Input:
    """A descriptor to read from, while there is room for what it brings.

    Args:
        on_data: gets each piece; an empty one is the end, and the last call.
    """

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self._on_data = on_data
        mode = os.fstat(descriptor).st_mode
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
        self._room = 0
        self._ended = False
        self._reading = False

    def allow(self, nbytes: int) -> None:
        """So much more may be read."""
        self._room += nbytes
        if self._room > 0 and not self._reading and not self._ended:
            self._reading = True
            loop = asyncio.get_running_loop()
            if self._waits:
                loop.add_reader(self._descriptor, self._readable)
            else:
                loop.call_soon(self._readable)

    def set_room(self, nbytes: int) -> None:
        """So much may be read from now on, whatever was allowed before."""
        self._room = 0
        self.allow(nbytes)

    def close(self) -> None:
        """Read no more."""
        self._ended = True
        self._stop()

    def _readable(self) -> None:
        if self._ended:
            return
        try:
            data = os.read(self._descriptor, min(_READ_BYTES, self._room))
        except BlockingIOError:
            return
        except OSError:  # a terminal that has gone away
            data = b""
        self._room -= len(data)
        if not data:
            self._ended = True
        if self._ended or self._room <= 0:
            self._stop()
        elif not self._waits:
            asyncio.get_running_loop().call_soon(self._readable)
        self._on_data(data)

    def _stop(self) -> None:
        if self._reading and self._waits:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._reading = False


def named(error: OSError) -> OSError:
    """Why our output cannot be written, with what it is."""
    return OSError(error.errno, error.strerror, "our standard output")


def _reopened(descriptor: int, flags: int) -> tuple[int, int]:
    """A descriptor for the same thing that does not block, and how much may be written at once (0: anything)."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor, 0
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            return os.open(f"/dev/fd/{descriptor}", flags | os.O_NONBLOCK | os.O_NOCTTY), 0
    return descriptor, _ALWAYS_WRITABLE_BYTES
