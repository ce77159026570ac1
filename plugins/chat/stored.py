"""What both backplanes do alike: pages, searches and topics come from a store of this server's own.

A search goes back through a log in steps of so many messages, each a turn of its own in the store's thread: others get
theirs in between, however long the log is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

from .backplane import Backplane, Found, Page
from .store import Store
from .threads import StoreThreads, Written

Spawn = Callable[[Coroutine[Any, Any, None]], object]

_PRUNE_SECONDS = 60.0
_SEARCH_STEPS_MAX = 10


class StoredBackplane(Backplane):
    """See the top of this file.

    Args:
        store: not yet open.
        spawn: starts a task that ends with the service.
        written: see `StoreThreads`.
    """

    def __init__(self, store: Store, spawn: Spawn, written: Written) -> None:
        self._store = store
        self._spawn = spawn
        self._threads = StoreThreads(store, written)

    async def _open(self) -> None:
        await self._threads.start()
        self._spawn(self._prune())

    async def _prune(self) -> None:
        while True:
            with contextlib.suppress(sqlite3.Error):  # a full disk tells whoever posts
                await self._threads.write(self._store.prune)
            await asyncio.sleep(_PRUNE_SECONDS)

    async def page(self, log: str, *, after: int | None = None, before: int | None = None, count: int) -> Page:
        return await self._threads.read(lambda store: store.page(log, after=after, before=before, count=count))

    async def search(self, log: str, words: list[str], *, before: int | None = None, count: int) -> Found:
        if before == 0:
            return Found([])
        found = Found([], before or 0)
        for _ in range(_SEARCH_STEPS_MAX):
            found = await self._search_on(log, words, found, count)
            if not found.before or len(found.entries) >= count:
                break
        return found

    async def _search_on(self, log: str, words: list[str], found: Found, count: int) -> Found:
        before, wanted = found.before or None, count - len(found.entries)
        step = await self._threads.read(lambda store: store.search(log, words, before=before, count=wanted))
        return Found(step.entries + found.entries, step.before)

    async def topics(self) -> dict[str, str]:
        return await self._threads.read(Store.topics)

    async def silent_topics(self) -> list[str]:
        return await self._threads.read(Store.silent_topics)

    async def forget_topics(self, rooms: list[str]) -> None:
        await self._threads.write(lambda: self._store.forget_topics(rooms))
