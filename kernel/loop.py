"""asyncio's event loop, with a short way from the system's "readable" to who reads.

On asyncio's way a readable socket becomes an item of a list, a handle in a queue, and at last a call; a sixth of what a
short message costs. A reader that is given to `watch` is called by the selector instead, where it finds the socket
readable. Everything else goes asyncio's way, also on the same socket.

Invariants: such a reader runs in the loop, in the context that `watch` was called in, and what it raises is told to
the loop, all as with `add_reader`; it only comes before what else is due in the same turn. A descriptor has such a
reader or one of asyncio's, not both: who adds or removes asyncio's removes ours (asyncio keeps a pair with a
descriptor, its reader and its writer).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import select
import selectors
from collections.abc import Callable
from typing import Any

_EVENTS_MAX = 1024

Reader = Callable[[], object]
Ready = list[tuple[selectors.SelectorKey, int]]


def watch(loop: asyncio.AbstractEventLoop, fd: int, reader: Reader) -> None:
    """`loop.add_reader`, the short way where the loop has one. `loop.remove_reader` ends it."""
    if isinstance(loop, DirectLoop) and not loop.get_debug():  # who debugs wants to be told of slow callbacks
        loop.direct.watch(fd, reader)
    else:
        loop.add_reader(fd, reader)


if hasattr(select, "epoll"):

    class DirectSelector(selectors.EpollSelector):
        """An epoll set that calls some of its readers itself.

        Args:
            failed: is told what they raise.
        """

        def __init__(self, failed: Callable[[BaseException], None]) -> None:
            super().__init__()
            self._failed = failed
            self._epoll = select.epoll.fromfd(os.dup(self.fileno()))
            self._readers: dict[int, tuple[Callable[[Reader], object], Reader]] = {}
            # Numbers that were given up since the last look at the set: what it found of them may be of another socket.
            self._gone: set[int] = set()

        def watch(self, fd: int, reader: Reader) -> None:
            """Call `reader` whenever the descriptor is readable."""
            key = self.get_map().get(fd)
            if key is None:
                self.register(fd, selectors.EVENT_READ, (None, None))
            else:
                before, writer = key.data
                self.modify(fd, key.events | selectors.EVENT_READ, (None, writer))
                if before is not None:
                    before.cancel()
            self._readers[fd] = contextvars.copy_context().run, reader

        def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
            key = super().modify(fileobj, events, data)
            if not events & selectors.EVENT_READ or data[0] is not None:
                self._readers.pop(key.fd, None)
            return key

        def unregister(self, fileobj: Any) -> selectors.SelectorKey:
            key = super().unregister(fileobj)
            self._readers.pop(key.fd, None)
            self._gone.add(key.fd)
            return key

        def select(self, timeout: float | None = None) -> Ready:
            # The set's clock has milliseconds: never wake up too early.
            seconds = -1 if timeout is None else math.ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0
            try:
                found = self._epoll.poll(seconds, _EVENTS_MAX)
            except InterruptedError:
                return []
            readers = self._readers
            self._gone.clear()
            rest: list[tuple[int, int]] = []
            for fd, event in found:
                if event != select.EPOLLOUT and fd in readers:
                    self._call(fd)
                    event &= ~select.EPOLLIN
                if event:  # for a writer, or nobody short of asyncio reads here
                    rest.append((fd, event))
            return self._ready(rest) if rest else []

        def _call(self, fd: int) -> None:
            run, reader = self._readers[fd]
            try:
                run(reader)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._failed(error)

        def _ready(self, rest: list[tuple[int, int]]) -> Ready:
            """asyncio's part, as it is registered after our readers: a handle that one of them has cancelled would make
            asyncio remove what has come in its place."""
            ready: Ready = []
            for fd, event in rest:
                key = None if fd in self._gone else self.get_map().get(fd)
                if key is not None:
                    events = selectors.EVENT_READ if event & ~select.EPOLLOUT else 0
                    events |= selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                    ready.append((key, events & key.events))
            return ready

        def close(self) -> None:
            self._readers.clear()
            self._epoll.close()
            super().close()


class DirectLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose selector calls the readers that are given to `watch`."""

    def __init__(self) -> None:
        self.direct = DirectSelector(self._reader_failed)
        super().__init__(self.direct)

    def _reader_failed(self, error: BaseException) -> None:
        self.call_exception_handler({"message": "Exception in a reader", "exception": error})
