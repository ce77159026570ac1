"""The chat service: people in rooms, over whatever transport they come.

    Seat (a connection) -> requests -> Service -> Backplane -> Rooms -> seats

What people say goes through the backplane and comes back from it, also to who said it: everybody sees the same messages
in the same order. Who is here goes the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from kernel import Channel, ChannelHandler, Code, OptionError, Service, ServiceContext

from .backplane import MAILBOX, Backplane, Entry, Hub, Person, Taken
from .dialects import DIALECTS, SimpleSeat
from .lines import SERVER_GIVES_UP_SECONDS, Line, line_over
from .local import LocalBackplane
from .names import check_nick, check_room
from .options import ChatOptions, default_store
from .pages import entry_bytes, fitting
from .people import Guest, known_as, session_name
from .protocol import VERSION, Event, Failed, Hello, Notice, Requests, Welcome, encode
from .requests import HANDLERS
from .rooms import Room, Rooms, told
from .seat import Seat
from .sources import Allowance, Source, Sources
from .store import MEMORY, Retention, Store
from .text import clean_line

_TOLD_MAX = 200
_PRUNE_SECONDS = 60.0
# More than are ever given in a second.
_IDS_PER_SECOND = 1 << 20


class Chat(Service, Hub):
    """Rooms, people and history."""

    name = "chat"
    example = "kernel chat {endpoint} --nick NAME"
    Options = ChatOptions
    dialects = DIALECTS

    def __init__(self, options: ChatOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self.chat_options = options
        try:
            check_room(options.dialect_room)
        except ValueError as error:
            raise OptionError(f"chat: option 'dialect_room={options.dialect_room}': {error}") from None
        self.guests: dict[str, Guest] = {}
        self.behind: set[Seat] = set()
        self.sources = Sources(options)
        self.rooms = Rooms(self.behind, options.send_buffer_bytes_max)
        self.seats: set[Seat] = set()
        self.backplane = self._make_backplane()

    def _make_backplane(self) -> Backplane:
        options = self.chat_options
        retention = Retention(options.history_messages_max, options.history_seconds_max, options.history)
        if not options.backplane:
            # Clients may remember ids of a history that is lost by now: they would take smaller ones for known.
            first = int(time.time() * _IDS_PER_SECOND)
            synced = options.durable == "machine"
            store = Store(options.store or default_store(), retention, synced=synced, first=first)
            return LocalBackplane(store, self.context.spawn)
        if not options.backplane.startswith(("nats://", "tls://")):
            raise OptionError(f"chat: option 'backplane={options.backplane}': write nats://HOST:PORT")
        try:
            from .jetstream import JetStreamBackplane
        except ImportError:
            raise OptionError("chat: option 'backplane' needs nats-py: pip install 'transport-kernel[nats]'") from None
        store = Store(options.store or MEMORY, retention)
        return JetStreamBackplane(
            options.backplane, options.backplane_credentials, store, retention, self.context.spawn
        )

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.backplane.start(self)
        self.rooms.set_topics(await self.backplane.topics())
        self.context.spawn(self._prune())

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            with contextlib.suppress(sqlite3.Error):  # a full disk tells whoever posts
                await self.prune_rooms()

    async def prune_rooms(self) -> None:
        """Empty rooms go in which nothing was said or set for as long as messages are kept."""
        deserted = self.rooms.forget_empty(await self.backplane.silent_topics())
        if deserted:
            await self.backplane.forget_topics(deserted)

    def drain(self) -> None:
        """Nobody is kept by a server that stops: clients come back to the next one."""
        for seat in list(self.seats):
            seat.reply(Notice(text="the server is shutting down"))
            seat.leave()

    async def stop(self) -> None:
        self.rooms.close()
        for guest in self.guests.values():
            self._stop_lingering(guest)
        await self.backplane.stop()

    def handler(self) -> ChannelHandler:
        return Door(self)

    def enter(self, channel: Channel) -> Seat:
        """A seat for somebody who has just come."""
        seat = SimpleSeat(self, channel.dialect, self.chat_options.dialect_room) if channel.dialect else Seat(self)
        self.seats.add(seat)
        return seat

    # --- seats call --------------------------------------------------------------------------------------------------

    def line(self, channel: Channel) -> Line:
        return line_over(channel, SERVER_GIVES_UP_SECONDS)

    def source(self, name: str) -> Source:
        return self.sources.get(name)

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        return self.context.spawn(work)

    def handle(self, seat: Seat, request: Requests) -> Coroutine[Any, Any, None] | None:
        if isinstance(request, Hello):
            return self._hello(seat, request)
        if seat.guest is None:
            seat.reply(Failed(n=request.n, code="hello", reason="say hello first"))
            return None
        return HANDLERS[type(request)](self, seat, seat.guest, request)

    def is_held(self, room: str) -> bool:
        found = self.rooms.find(room) if self.behind else None
        return found is not None and found.is_held

    def caught_up(self, seat: Seat) -> None:
        self.behind.discard(seat)
        for room in self._rooms_of(seat):
            room.go_on()

    def gone(self, seat: Seat, code: Code, reason: str) -> None:
        self.seats.discard(seat)
        guest = seat.guest
        for room in self._rooms_of(seat):
            room.seats.pop(seat, None)
        self.caught_up(seat)
        if guest is None or guest.seat is not seat:
            return
        guest.seat = None
        if code is Code.SLOW_READER:
            self.context.log.warning("a slow reader was evicted", extra={"nick": guest.nick, "reason": reason})
        linger = self.chat_options.linger_seconds
        if seat.leaving is not None or not linger:
            self._forget(guest, clean_line(reason)[:200] if seat.leaving is None else seat.leaving)
            return
        why = "was too slow" if code is Code.SLOW_READER else "connection lost"
        guest.lingers = asyncio.get_running_loop().call_later(linger, self._forget, guest, why)
        self.backplane.update(guest.person())

    def _rooms_of(self, seat: Seat) -> Iterator[Room]:
        if seat.guest is not None:
            for name in list(seat.guest.rooms):
                yield self.rooms.get(name)

    def _forget(self, guest: Guest, reason: str) -> None:
        """He has left, or has not come back."""
        self._stop_lingering(guest)
        if self.guests.get(guest.session) is guest:
            self._drop(guest)
            self.backplane.release(guest.session, reason)

    def _drop(self, guest: Guest) -> None:
        """He is none of ours any more."""
        del self.guests[guest.session]
        self.sources.go(guest.source)

    def _stop_lingering(self, guest: Guest) -> None:
        if guest.lingers is not None:
            guest.lingers.cancel()
            guest.lingers = None

    # --- hello -------------------------------------------------------------------------------------------------------

    async def _hello(self, seat: Seat, request: Hello) -> None:
        if request.version != VERSION or seat.guest is not None:
            why = "you have said hello before" if seat.guest else f"this server speaks version {VERSION}"
            seat.reply(Failed(n=request.n, code="version", reason=why))
            return
        session = session_name(request.session)
        guest = self.guests.get(session)
        resumed = guest is not None
        if guest is not None and guest.principal != _proved(seat):  # the secret alone makes nobody him
            reason = "the session is that of somebody who proved to be another: begin one of your own"
            seat.reply(Failed(n=request.n, code="session", reason=reason))
            return
        if guest is None:
            if why := self.sources.why_full(seat.source):
                seat.reply(Failed(n=request.n, code="full", reason=why))
                return
            options = self.chat_options
            allowance = Allowance(options.messages_per_second, options.burst)
            guest = Guest(session, _proved(seat), seat.source, allowance)
        if not await self._take_name(seat, guest, request):
            return
        if why := self._why_not_in(guest):
            if session not in self.guests:
                self.backplane.release(session, why)
            seat.reply(Failed(n=request.n, code="full", reason=why))
            return
        self._sit(seat, guest)
        try:
            await self._welcome(seat, guest, request, resumed=resumed)
        except Exception:
            # What he is told meanwhile stays in it, too: nobody who has seen it would ask for what comes before.
            self.context.log.exception("a mailbox cannot be read")
            reason = "the server cannot read what you were told: its log says why"
            seat.reply(Failed(n=request.n, code="internal", reason=reason))
            seat.leave()

    async def _welcome(self, seat: Seat, guest: Guest, request: Hello, *, resumed: bool) -> None:
        """Say so, with what he was told meanwhile: as much as a message holds, and then the rest."""
        seat.begin_join(MAILBOX)
        log = MAILBOX + guest.session
        options = self.chat_options
        answer: list[Event] = [
            Welcome(
                nick=guest.nick,
                server=self.context.name,
                message_bytes_max=options.message_bytes_max,
                messages_per_second=options.messages_per_second,
                burst=options.burst,
                n=request.n,
                resumed=resumed,
            )
        ]
        since: int = request.since
        while True:
            missed = await self.backplane.page(log, after=since, count=_TOLD_MAX)
            entries, cut = fitting(missed.entries, entry_bytes)
            since = entries[-1].id if entries else since
            answer += map(told, entries)
            if not (missed.more or cut):
                seat.end_join(MAILBOX, answer, since)
                return
            seat.send([encode(event) for event in answer])
            answer = []
            if not await seat.keeps_up():
                return

    def _why_not_in(self, guest: Guest) -> str:
        """He takes a place, unless he has one; or why there is none. Others may have come while he took his name."""
        if self.guests.get(guest.session) is guest:
            return ""
        if guest.session in self.guests:
            return "the same session has just come by another connection"
        if why := self.sources.why_full(guest.source):
            return why
        self.guests[guest.session] = guest
        self.sources.come(guest.source)
        return ""

    async def _take_name(self, seat: Seat, guest: Guest, request: Hello) -> bool:
        try:
            nick = check_nick(request.nick or guest.nick or known_as(seat.channel.peer.principal))
            await self.backplane.claim(guest.person(nick=nick))
        except (ValueError, Taken) as error:
            seat.reply(Failed(n=request.n, code="nick", reason=str(error)))
            return False
        guest.nick = nick
        return True

    def _sit(self, seat: Seat, guest: Guest) -> None:
        """He is here, by this connection and no other."""
        self._stop_lingering(guest)
        before, guest.seat = guest.seat, seat
        seat.guest = guest
        if before is not None:
            before.end(Code.CANCELLED, "the same session has come by another connection")
        if seat.channel.code is not None:  # gone while the name was being claimed
            self.gone(seat, seat.channel.code, seat.channel.reason)
        else:
            self.backplane.update(guest.person())

    # --- the backplane calls -----------------------------------------------------------------------------------------

    def delivered(self, entries: list[Entry]) -> None:
        in_rooms = []
        for entry in entries:
            if entry.log[0] != MAILBOX:
                in_rooms.append(entry)
            elif (guest := self.guests.get(entry.log[1:])) is not None and guest.seat is not None:
                guest.seat.deliver(MAILBOX, [encode(told(entry))], [entry.id])
        self.rooms.deliver(in_rooms)

    def changed(self, old: Person | None, new: Person | None, reason: str) -> None:
        self.rooms.changed(old, new, reason)
        guest = self.guests.get(new.session) if new is not None else None
        if guest is not None and new is not None and new.node != self.backplane.node:
            self._stop_lingering(guest)
            self._drop(guest)
            if guest.seat is not None:
                seat, guest.seat = guest.seat, None
                seat.end(Code.CANCELLED, "the same session has come to another server")


def _proved(seat: Seat) -> str:
    """Who he proved to be; empty: nobody. A simple client has not chosen his name: it shall not become his own."""
    principal = seat.channel.peer.principal
    return "" if principal.mechanism == "none" or seat.channel.dialect else str(principal)


class Door(ChannelHandler):
    """Where a channel comes in: what it speaks is known only then, and decides about the seat."""

    __slots__ = ("_chat", "_seat")

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._seat: Seat | None = None

    def opened(self, channel: Channel) -> None:
        self._seat = self._chat.enter(channel)
        self._seat.opened(channel)

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        if self._seat is not None:
            self._seat.on_messages(channel, messages)

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if self._seat is not None:
            self._seat.on_closed(channel, code, reason)
