"""The backplane of one server: everything in this process, the logs in SQLite."""

from __future__ import annotations

from collections.abc import Mapping

from .backplane import Done, Entry, Hub, NotPosted, Person, Post, Taken, taken_by
from .names import fold
from .store import Store
from .stored import Spawn, StoredBackplane


class LocalBackplane(StoredBackplane):
    """See `Backplane`."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        super().__init__(store, spawn, self._written)
        self._hub: Hub | None = None
        self._people: dict[str, Person] = {}
        self._sessions_by_fold: dict[str, str] = {}

    @property
    def people(self) -> Mapping[str, Person]:
        return self._people

    async def start(self, hub: Hub) -> None:
        self._hub = hub
        await self._open()

    async def stop(self) -> None:
        await self._threads.stop()

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
