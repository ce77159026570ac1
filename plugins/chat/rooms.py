"""Rooms: who is in them, on all servers; whom to send to, on this one.

A message is encoded once, and each seat is given the same bytes. Comings and goings are gathered for a moment, so that
a thousand people who come at once are announced in a few messages, not in a million.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from .backplane import ACT, TOPIC, Entry, Person
from .names import fold
from .protocol import Left, Presence, Renamed, RoomInfo, Said, Told, TopicSet, encode
from .seat import Seat

_GATHER_SECONDS = 0.05


class Room:
    """One room.

    Attributes:
        seats: those of this server that get what is said here.
        people: who is here, on all servers, by session.
        last_id: of the last entry that was delivered here.
    """

    __slots__ = ("joined", "last_id", "left", "name", "people", "seats", "topic")

    def __init__(self, name: str) -> None:
        self.name = name
        self.topic = ""
        self.last_id = 0
        self.people: dict[str, Person] = {}
        self.seats: dict[Seat, None] = {}
        self.joined: list[str] = []
        self.left: list[Left] = []

    def send(self, payloads: list[bytes], ids: list[int] | None = None) -> None:
        """To everybody here. `ids`: of the entries that they are, where they are some."""
        for seat in list(self.seats):
            seat.deliver(self.name, payloads, ids)


class Rooms:
    """All rooms that somebody is in, or that have a topic."""

    def __init__(self) -> None:
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
            room = self._rooms[name] = Room(name)
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

    def forget_if_empty(self, room: Room) -> None:
        if not (room.people or room.seats or room.topic or room.joined or room.left):
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
                room.joined.append(new.nick)
                self._announce_soon(room)
        for name in before - after:
            assert old is not None
            room = self.get(name)
            room.people.pop(old.session, None)
            room.left.append(Left(nick=old.nick, reason=reason))
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
            event = Presence(room=room.name, joined=room.joined, left=room.left)
            room.joined, room.left = [], []
            room.send([encode(event)])
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
