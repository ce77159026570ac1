"""Who hung up: told by an epoll set of our own where the event loop does not tell it reliably.

libuv, and so uvloop, calls back once for a socket in error, and then watches it no longer. What the peer sent before it
reset the connection may take several reads, the error comes after the last: without a second call nobody would ever
read it. So under such a loop each socket is also in a set that reports errors and hang-ups, and nothing else: it costs
a system call for a connection, and nothing for a read. asyncio's own loops need none.
"""

from __future__ import annotations

import asyncio
import select
import weakref
from collections.abc import Callable


class Hangups:
    """One loop's set. The loop watches it only while there is a socket in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back once, when the socket's peer is gone or both directions have ended."""
        if not self._callbacks and (loop := self._loop()) is not None:
            loop.add_reader(self._epoll.fileno(), self._on_ready)
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLET)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed; may be called twice."""
        if self._callbacks.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)
        if not self._callbacks and (loop := self._loop()) is not None:
            loop.remove_reader(self._epoll.fileno())

    def _on_ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()


_sets: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hangups] = weakref.WeakKeyDictionary()


def hangups(loop: asyncio.AbstractEventLoop) -> Hangups | None:
    """The loop's set; None where the loop needs none, or the system has none."""
    if isinstance(loop, asyncio.BaseEventLoop) or not hasattr(select, "epoll"):
        return None
    found = _sets.get(loop)
    if found is None:
        found = _sets[loop] = Hangups(loop)
    return found
