"""The backplane of one server: everything in this process, the logs in SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from .backplane import Backplane, Done, Entry, Hub, NotPosted, Page, Person, Post, Taken, taken_by
from .names import fold
from .store import Store
from .threads import StoreThreads

_PRUNE_SECONDS = 60.0


class LocalBackplane(Backplane):
    """See `Backplane`.

    Args:
        store: not yet open.
        spawn: starts a task that ends with the service.
    """

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._store = store
        self._spawn = spawn
        self._threads = StoreThreads(store, self._written)
        self._hub: Hub | None = None
        self._people: dict[str, Person] = {}
        self._sessions_by_fold: dict[str, str] = {}

    @property
    def people(self) -> Mapping[str, Person]:
        return self._people

    async def start(self, hub: Hub) -> None:
        self._hub = hub
        await self._threads.start()
        self._spawn(self._prune())

    async def stop(self) -> None:
        await self._threads.stop()

    async def _prune(self) -> None:
        while True:
            with contextlib.suppress(sqlite3.Error):  # a full disk tells whoever posts
                await self._threads.write(self._store.prune)
            await asyncio.sleep(_PRUNE_SECONDS)

    # --- logs --------------------------------------------------------------------------------------------------------

    def post(self, post: Post, done: Done) -> None:
        self._threads.append(post, done)

    def _written(self, dones: list[Done], entries: list[Entry | None] | NotPosted) -> None:
        assert self._hub is not None
        if isinstance(entries, NotPosted):
            for done in dones:
                done(entries)
            return
        self._hub.delivered([entry for entry in entries if entry is not None])
        for done, entry in zip(dones, entries, strict=True):
            done(entry.id if entry is not None else 0)

    async def page(self, log: str, *, after: int | None = None, before: int | None = None, count: int) -> Page:
        return await self._threads.read(lambda store: store.page(log, after=after, before=before, count=count))

    async def search(self, log: str, words: list[str], count: int) -> Page:
        return await self._threads.read(lambda store: store.search(log, words, count))

    async def topics(self) -> dict[str, str]:
        return await self._threads.read(Store.topics)

    # --- people ------------------------------------------------------------------------------------------------------

    async def claim(self, person: Person) -> None:
        key = fold(person.nick)
        owner = await self._threads.write(lambda: self._store.own(key, person.principal))
        if owner != person.principal:
            raise Taken(f"the nickname '{person.nick}' belongs to somebody who can prove it: take another one")
        holder = self._people.get(self._sessions_by_fold.get(key, ""))
        if holder is not None and holder.session != person.session:
            raise taken_by(holder, person.nick)
        self._sessions_by_fold[key] = person.session
        self.update(person)

    def update(self, person: Person) -> None:
        old = self._people.get(person.session)
        self._people[person.session] = person
        if old is not None and fold(old.nick) != fold(person.nick):
            self._sessions_by_fold.pop(fold(old.nick), None)
        self._changed(old, person, "")

    def release(self, session: str, reason: str) -> None:
        old = self._people.pop(session, None)
        if old is not None:
            self._sessions_by_fold.pop(fold(old.nick), None)
            self._changed(old, None, reason)

    def _changed(self, old: Person | None, new: Person | None, reason: str) -> None:
        assert self._hub is not None
        self._hub.changed(old, new, reason)
