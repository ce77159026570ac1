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
    loop = asyncio.get_running_loop()
    heard, since = peer.pieces, loop.time()
    timer = loop.call_later(seconds / _LOOKS_PER_PATIENCE, lambda: look())

    def look() -> None:
        nonlocal heard, since, timer
        if not peer.waiting or peer.pieces != heard:
            heard, since = peer.pieces, loop.time()
        if loop.time() - since >= seconds:
            end()
        else:
            timer = loop.call_later(seconds / _LOOKS_PER_PATIENCE, look)

    try:
        yield
    finally:
        timer.cancel()
