"""One epoll set for all of the kernel's sockets of a loop, itself watched by the loop.

A loop runs one callback, with a handle and a context, for each descriptor that is ready. Here it runs one for all of
them: with 64 busy connections that is most of what a loop costs, and an idle one holds no handle (docs/performance.md).
Where the system has no epoll, the loop watches each socket itself; the interface is the same.

Invariants: the loop watches the set only while something is in it, so that closing a loop leaves nothing behind. A
descriptor that was closed and reused within one batch may be called for nothing: callbacks must bear EAGAIN.
"""

from __future__ import annotations

import asyncio
import select
import weakref
from collections.abc import Callable
from typing import Protocol

_READ = 1  # EPOLLIN
_WRITE = 4  # EPOLLOUT
# Sockets served in one turn of the loop; the others are next.
_BATCH = 128

Callback = Callable[[], None]


class Poller(Protocol):
    """Calls back while a descriptor is ready. Each `watch` and `unwatch` may come twice."""

    def watch_reads(self, fd: int, callback: Callback) -> None: ...

    def watch_writes(self, fd: int, callback: Callback) -> None: ...

    def unwatch_reads(self, fd: int) -> None: ...

    def unwatch_writes(self, fd: int) -> None: ...


class EpollPoller:
    """The set. `_readers` and `_writers` hold the callbacks by descriptor; the set's masks mirror them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}

    def watch_reads(self, fd: int, callback: Callback) -> None:
        known = fd in self._readers
        self._readers[fd] = callback
        if not known:
            self._added(fd, other=self._writers)

    def watch_writes(self, fd: int, callback: Callback) -> None:
        known = fd in self._writers
        self._writers[fd] = callback
        if not known:
            self._added(fd, other=self._readers)

    def unwatch_reads(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._removed(fd, _WRITE if fd in self._writers else 0)

    def unwatch_writes(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._removed(fd, _READ if fd in self._readers else 0)

    def _added(self, fd: int, other: dict[int, Callback]) -> None:
        if fd in other:
            self._epoll.modify(fd, _READ | _WRITE)
            return
        self._epoll.register(fd, _READ if fd in self._readers else _WRITE)
        if len(self._readers) + len(self._writers) == 1:
            self._owner().add_reader(self._epoll.fileno(), self._on_ready)

    def _removed(self, fd: int, rest: int) -> None:
        if rest:
            self._epoll.modify(fd, rest)
            return
        self._epoll.unregister(fd)
        loop = self._owner()
        if not self._readers and not self._writers and not loop.is_closed():
            loop.remove_reader(self._epoll.fileno())

    def _on_ready(self) -> None:
        readers, writers = self._readers, self._writers
        for fd, events in self._epoll.poll(0, _BATCH):
            try:
                if events & ~_WRITE and (callback := readers.get(fd)) is not None:
                    callback()
                if events & ~_READ and (callback := writers.get(fd)) is not None:
                    callback()
            except Exception as error:
                self._owner().call_exception_handler({"message": "a socket's callback failed", "exception": error})

    def _owner(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None
        return loop


class LoopPoller:
    """Where there is no epoll: the loop's own watching."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def watch_reads(self, fd: int, callback: Callback) -> None:
        self._loop.add_reader(fd, callback)

    def watch_writes(self, fd: int, callback: Callback) -> None:
        self._loop.add_writer(fd, callback)

    def unwatch_reads(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def unwatch_writes(self, fd: int) -> None:
        self._loop.remove_writer(fd)


_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = weakref.WeakKeyDictionary()


def poller(loop: asyncio.AbstractEventLoop) -> Poller:
    """The loop's one poller."""
    if loop not in _pollers:
        _pollers[loop] = EpollPoller(loop) if hasattr(select, "epoll") else LoopPoller(loop)
    return _pollers[loop]
