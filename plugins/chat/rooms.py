"""Rooms: who is in them, on all servers; whom to send to, on this one.

A message is encoded once, and each seat is given the same bytes. Comings and goings are gathered for a moment, so that
a thousand people who come at once are announced in a few messages, not in a million.

A room goes on only when all of its readers have kept up so far: what is said meanwhile waits here, once, and not at
each reader. How long it may wait for one of them is the seat's business. From other servers it comes whether we keep up
or not: when too much waits, whoever is behind goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from .backplane import ACT, TOPIC, Entry, Person
from .names import fold
from .pages import presences
from .protocol import Left, Renamed, RoomInfo, Said, Told, TopicSet, encode
from .seat import NO_ID, Seat

_GATHER_SECONDS = 0.05
# In parts of the limit of what may wait for one reader: what he is given at once, and what may wait for all of them.
_PART_SHARE = 4
_HELD_SHARE = 16


class Room:
    """One room.

    Attributes:
        seats: those of this server that get what is said here.
        people: who is here, on all servers, by session.
        last_id: of the last entry that was delivered here.
    """

    __slots__ = (
        "_behind",
        "_going",
        "_limit",
        "_waiting",
        "_waiting_bytes",
        "joined",
        "last_id",
        "left",
        "name",
        "people",
        "seats",
        "topic",
    )

    def __init__(self, name: str, behind: set[Seat], limit_bytes: int) -> None:
        self.name = name
        self.topic = ""
        self.last_id = 0
        self.people: dict[str, Person] = {}
        self.seats: dict[Seat, None] = {}
        self.joined: list[str] = []
        self.left: dict[str, Left] = {}
        self._behind = behind
        self._limit = limit_bytes
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiting_bytes = 0
        self._going = False

    @property
    def is_empty(self) -> bool:
        """Nobody is here, nor has just been."""
        return not (self.people or self.seats or self.joined or self.left)

    @property
    def is_idle(self) -> bool:
        """Nobody is here, and there is nothing to remember."""
        return self.is_empty and not self.topic

    @property
    def is_held(self) -> bool:
        """Somebody here does not keep up: who speaks is held back for a moment."""
        return not self._behind.isdisjoint(self.seats)

    def send(self, payloads: list[bytes], ids: list[int] | None = None) -> None:
        """To everybody here. `ids`: of the entries that they are, where they are some."""
        if not self.seats:
            return
        self._waiting.extend(zip(ids or [NO_ID] * len(payloads), payloads, strict=True))
        self._waiting_bytes += sum(map(len, payloads))
        self.go_on()

    def go_on(self) -> None:
        """Send what waits, in parts, as long as everybody keeps up."""
        if self._going:
            return
        self._going = True
        try:
            self._go_on()
        finally:
            self._going = False

    def _go_on(self) -> None:
        while self._waiting:
            if self._behind and self.is_held:
                if self._waiting_bytes < _HELD_SHARE * self._limit:
                    return
                for seat in self._behind.intersection(self.seats):
                    seat.evict("the others have waited for you long enough")
            ids, payloads = self._part()
            for seat in list(self.seats):
                seat.deliver(self.name, payloads, ids)

    def _part(self) -> tuple[list[int], list[bytes]]:
        """The next messages, as many as a reader can be given at once."""
        ids: list[int] = []
        payloads: list[bytes] = []
        size = 0
        while self._waiting and (not size or size + len(self._waiting[0][1]) <= self._limit // _PART_SHARE):
            id_, payload = self._waiting.popleft()
            ids.append(id_)
            payloads.append(payload)
            size += len(payload)
        self._waiting_bytes -= size
        return ids, payloads


class Rooms:
    """All rooms that somebody is in, or that have a topic.

    Args:
        behind: the seats that do not keep up.
        limit_bytes: what may wait for one reader.
    """

    def __init__(self, behind: set[Seat], limit_bytes: int) -> None:
        self._behind = behind
        self._limit_bytes = limit_bytes
        self._rooms: dict[str, Room] = {}
        self._sessions_by_fold: dict[str, str] = {}
        self._changed: dict[str, Room] = {}
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Announce nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def get(self, name: str) -> Room:
        """The room, made when there was none."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._behind, self._limit_bytes)
        return room

    def find(self, name: str) -> Room | None:
        return self._rooms.get(name)

    def set_topics(self, topics: dict[str, str]) -> None:
        for name, topic in topics.items():
            self.get(name).topic = topic

    def infos(self) -> list[RoomInfo]:
        """The rooms, the fullest first."""
        rooms = sorted(self._rooms.values(), key=lambda room: (-len(room.people), room.name))
        return [RoomInfo(room=room.name, people=len(room.people), topic=room.topic) for room in rooms]

    def session_of(self, nick: str) -> str:
        """Who has this nickname, or one that looks the same; empty: nobody."""
        return self._sessions_by_fold.get(fold(nick), "")

    def __len__(self) -> int:
        return len(self._rooms)

    def forget_one(self) -> str | None:
        """One that stands empty goes, the one where nothing was said for longest; its name."""
        empty = [room for room in self._rooms.values() if room.is_empty]
        if not empty:
            return None
        room = min(empty, key=lambda room: room.last_id)
        del self._rooms[room.name]
        return room.name

    def forget_empty(self, names: Iterable[str]) -> list[str]:
        """Those of the rooms go that stand empty, topic and all; which ones."""
        empty = [name for name in names if name not in self._rooms or self._rooms[name].is_empty]
        for name in empty:
            self._rooms.pop(name, None)
        return empty

    def forget_if_empty(self, room: Room) -> None:
        if room.is_idle:
            self._rooms.pop(room.name, None)

    # --- what is said ------------------------------------------------------------------------------------------------

    def deliver(self, entries: Iterable[Entry]) -> None:
        """Entries of rooms, in order, to those who are in them."""
        by_room: dict[str, list[Entry]] = {}
        for entry in entries:
            by_room.setdefault(entry.log, []).append(entry)
        if not self._changed.keys().isdisjoint(by_room):
            self._flush()  # who speaks has been seen to come
        for name, said in by_room.items():
            room = self._rooms.get(name)
            topics = [entry.text for entry in said if entry.kind == TOPIC]
            if topics:
                room = self.get(name)
                room.topic = topics[-1]
            if room is not None:
                room.last_id = said[-1].id
                if room.seats:
                    room.send([encode(said_in_room(entry)) for entry in said], [entry.id for entry in said])
                self.forget_if_empty(room)

    # --- who is here -------------------------------------------------------------------------------------------------

    def changed(self, old: Person | None, new: Person | None, reason: str) -> None:
        """Somebody came, changed or went."""
        renamed = old is not None and new is not None and old.nick != new.nick
        if old is not None and (new is None or fold(old.nick) != fold(new.nick)):
            self._sessions_by_fold.pop(fold(old.nick), None)
        if new is not None:
            self._sessions_by_fold[fold(new.nick)] = new.session
        before, after = set(old.rooms if old else ()), set(new.rooms if new else ())
        if renamed and old is not None and new is not None:
            self._flush()
            self._announce_rename(old, new, before & after)
        for name in after:
            assert new is not None
            room = self.get(name)
            room.people[new.session] = new
            if name not in before:
                if new.nick in room.left:  # that he came is said after that he went
                    self._flush()
                room.joined.append(new.nick)
                self._announce_soon(room)
        for name in before - after:
            assert old is not None
            room = self.get(name)
            room.people.pop(old.session, None)
            room.left[old.nick] = Left(nick=old.nick, reason=reason)
            self._announce_soon(room)

    def _announce_rename(self, old: Person, new: Person, rooms: set[str]) -> None:
        payload = [encode(Renamed(old=old.nick, new=new.nick))]
        seats = {seat: None for name in rooms for seat in self.get(name).seats if seat.session != new.session}
        for seat in seats:
            seat.send(payload)

    def _announce_soon(self, room: Room) -> None:
        self._changed[room.name] = room
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._flush)

    def _flush(self) -> None:
        """Say who has come and gone since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changed, self._changed = self._changed, {}
        for room in changed.values():
            events = presences(room.name, room.joined, list(room.left.values()))
            room.joined, room.left = [], {}
            room.send([encode(event) for event in events])
            self.forget_if_empty(room)


def said_in_room(entry: Entry) -> Said | TopicSet:
    """An entry of a room as clients see it."""
    if entry.kind == TOPIC:
        return TopicSet(room=entry.log, id=entry.id, at=entry.at, nick=entry.nick, topic=entry.text)
    action = entry.kind == ACT
    return Said(room=entry.log, id=entry.id, at=entry.at, nick=entry.nick, text=entry.text, action=action)


def told(entry: Entry) -> Told:
    """An entry of a mailbox as its owner sees it."""
    return Told(id=entry.id, at=entry.at, nick=entry.nick, text=entry.text, action=entry.kind == ACT)
