"""When a peer that we wait for has been silent for too long. The same at both ends; what is done about it is theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

_LOOKS_PER_PATIENCE = 8
# What a peer may need for its disk's sake, to sum up what is there or to sync it: a slow one does so much.
_BLOCKS_PER_SECOND = 16


class Listening(Protocol):
    """Whether we wait for a peer; `pieces` changes with each sign of life."""

    @property
    def waiting(self) -> bool: ...
    @property
    def pieces(self) -> object: ...


def allowed(seconds: float, blocks: int) -> float:
    """So long may a peer be silent that has to read or to sync so many blocks first."""
    return seconds + blocks / _BLOCKS_PER_SECOND


@contextlib.contextmanager
def watching(peer: Listening, seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """Call `end` once we have waited so long without a sign of life. Time in which we do not wait does not count."""
    watch = _Watch(peer, seconds, end)
    watch.wait()
    try:
        yield
    finally:
        watch.timer.cancel()


class _Watch:
    """Looks now and then. Its timer, once cancelled, lets go of it: no cycle keeps the blocks of a dead channel."""

    def __init__(self, peer: Listening, seconds: float, end: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._seconds = seconds
        self._end = end
        self._heard, self._since = peer.pieces, self._loop.time()
        self.timer: asyncio.TimerHandle

    def wait(self) -> None:
        self.timer = self._loop.call_later(self._seconds / _LOOKS_PER_PATIENCE, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if not self._peer.waiting or self._peer.pieces != self._heard:
            self._heard, self._since = self._peer.pieces, now
        if now - self._since >= self._seconds:
            self._end()
        else:
            self.wait()
