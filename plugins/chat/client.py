"""A chat client for programs, which comes back by itself.

    async with ChatClient("tcp://127.0.0.1:7000", nick="bot") as chat:
        await chat.join("lobby")
        async for event in chat:
            if isinstance(event, Said) and event.text == "!ping":
                await chat.say(event.room, "pong")

When the connection is lost it is made again, after a while that grows; rooms are joined again from the last message
that was seen, and what was not answered is said again under its old number, which the server takes once. So nothing is
missed and nothing comes twice. What nobody answers for `give_up_seconds` is reported as not delivered. A room that
cannot be had again is left: a `Failed` among the events says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

from kernel import Channel, ChannelClosed, Code, DialError, KernelError, Keyring, UsageError, connect

from . import protocol
from .catchup import CatchUp
from .lines import CLIENT_ASKS_SECONDS, CLIENT_GIVES_UP_SECONDS, Line, line_over
from .protocol import (
    BadMessage,
    Done,
    Event,
    Failed,
    Hello,
    History,
    Join,
    Leave,
    ListRooms,
    Page,
    Quit,
    Rename,
    Renamed,
    Request,
    Room,
    Rooms,
    Said,
    Say,
    Search,
    SetTopic,
    Tell,
    Told,
    TopicSet,
    Welcome,
    Who,
    WhoIs,
    decode_event,
    encode,
)

_BACKOFF_SECONDS_FIRST = 0.2
_BACKOFF_SECONDS_MAX = 10.0
_EVENTS_MAX = 10_000
_POSTS = (Say, Tell, SetTopic)


class RequestFailed(KernelError):
    """The server did not do it.

    Attributes:
        code: for programs.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class NotDelivered(KernelError):
    """Nobody knows that it arrived; it was not delivered, as far as is known."""


class Connected(Event, tag="connected"):
    """Of the client's own: the server has welcomed us, for the first time or again."""

    nick: str
    again: bool = False


class Disconnected(Event, tag="disconnected"):
    """Of the client's own: the connection is lost; it is tried again in so many seconds."""

    reason: str
    retry_seconds: float


ClientEvent = protocol.Events | Connected | Disconnected


@dataclass(slots=True)
class _Pending:
    """A request without its answer. `since`: when it was made."""

    request: Request
    answer: asyncio.Future[Any]
    since: float


class ChatClient:
    """See the top of this file.

    Args:
        endpoint: where the server is.
        nick: what to be called; empty: as the server knows us.
        keys: the first of them proves who we are.
        service: the chat's name there.
        session: the secret of a session to go on with; empty: a new one.
        timeout_seconds: for dialling.
        give_up_seconds: how long a message may wait for its answer over lost connections.

    Attributes:
        nick: what we are called.
        welcome: what the server said about itself and its limits.
        people: who is in each room that we are in.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        nick: str = "",
        keys: Keyring | None = None,
        service: str = "chat",
        session: str = "",
        timeout_seconds: float = 10.0,
        give_up_seconds: float = 120.0,
    ) -> None:
        self.nick = nick
        self.welcome: Welcome | None = None
        self.people: dict[str, dict[str, None]] = {}
        self._endpoint = endpoint
        self._keys = keys
        self._service = service
        self._session = session or secrets.token_hex(16)
        self._timeout_seconds = timeout_seconds
        self._give_up_seconds = give_up_seconds
        self._line: Line | None = None
        self._n = 0
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._rooms: dict[str, CatchUp] = {}
        self._told_id = 0
        self._events: deque[ClientEvent] = deque()
        self._more = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closing = False
        self._over: KernelError | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and be welcome.

        Raises:
            KernelError: nobody answered, or the server does not want us; `RequestFailed` says why.
        """
        channel = await self._dial()
        self._runner = asyncio.get_running_loop().create_task(self._run(channel))

    async def close(self, reason: str = "") -> None:
        """Say goodbye. What was not answered is reported as not delivered."""
        self._closing = True
        if (line := self._line) is not None:
            with contextlib.suppress(KernelError, TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._request(Quit(reason=reason))
                    await line.channel.wait_closed()
            line.channel.reset(Code.CANCELLED, "the client has left")
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        self._end(ChannelClosed(Code.OK, "the chat is closed"))

    async def __aenter__(self) -> ChatClient:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[ClientEvent]:
        """What happens, until the chat is closed; while nobody reads, it gathers here, up to a limit."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._resume()
            if self._over is not None:
                if not self._closing:
                    raise self._over
                return
            self._more.clear()
            await self._more.wait()

    @property
    def connected(self) -> bool:
        return self._line is not None

    # --- requests ----------------------------------------------------------------------------------------------------

    async def join(self, room: str, *, last: int = 50, since: int | None = None) -> Room:
        """Come into a room. Its last messages are in the answer; what is said from then on comes as events.

        Args:
            since: the last message that was seen here; what was said since comes as events too.
        """
        if since is not None:
            self._rooms[room] = CatchUp(since, missing=True)
        return cast(Room, await self._request(Join(room=room, last=last, since=since)))

    async def leave(self, room: str) -> None:
        await self._request(Leave(room=room))
        self._rooms.pop(room, None)
        self.people.pop(room, None)

    async def say(self, room: str, text: str, *, action: bool = False) -> int:
        """Say something to a room; returns the message's id once it is there to stay (0: it was there before).

        Raises:
            RequestFailed: the server did not take it.
            NotDelivered: nobody answered for too long.
        """
        return cast(Done, await self._request(Say(room=room, text=text, action=action))).id

    async def tell(self, to: str, text: str, *, action: bool = False) -> int:
        """Say something to one person; see `say`."""
        return cast(Done, await self._request(Tell(to=to, text=text, action=action))).id

    async def set_topic(self, room: str, topic: str) -> None:
        await self._request(SetTopic(room=room, topic=topic))

    async def rename(self, nick: str) -> None:
        await self._request(Rename(nick=nick))

    async def list_rooms(self) -> Rooms:
        """All of them, the fullest first."""
        found = cast(Rooms, await self._request(ListRooms()))
        while found.more:
            page = cast(Rooms, await self._request(ListRooms(skip=len(found.rooms))))
            found.rooms += page.rooms
            found.more = page.more and bool(page.rooms)
        return found

    async def who(self, room: str = "") -> WhoIs:
        """Everybody in a room, or everywhere."""
        found = cast(WhoIs, await self._request(Who(room=room)))
        while found.more:
            page = cast(WhoIs, await self._request(Who(room=room, after=found.people[-1].nick)))
            found.people += page.people
            found.more = page.more and bool(page.people)
        return found

    async def history(self, room: str, *, before: int | None = None, after: int | None = None, count: int = 50) -> Page:
        return cast(Page, await self._request(History(room=room, before=before, after=after, count=count)))

    async def search(self, room: str, text: str, *, before: int | None = None, count: int = 50) -> Page:
        """Messages that hold all of the words. Where the page says `before`, what is older was not searched yet."""
        return cast(Page, await self._request(Search(room=room, text=text, before=before, count=count)))

    async def _request(self, request: Request) -> Event:
        if self._over is not None:
            raise self._over
        self._n += 1
        request.n = self._n
        loop = asyncio.get_running_loop()
        pending = self._pending[request.n] = _Pending(request, loop.create_future(), loop.time())
        if self._line is not None:
            self._line.send([encode(request)])
        try:
            return cast(Event, await pending.answer)
        finally:
            self._pending.pop(request.n, None)

    # --- connections -------------------------------------------------------------------------------------------------

    async def _dial(self) -> Channel:
        """A connection on which we are welcome."""
        channel = await connect(
            self._endpoint, self._service, keys=self._keys, timeout_seconds=self._timeout_seconds
        )  # fmt: skip
        line = line_over(channel, CLIENT_GIVES_UP_SECONDS, CLIENT_ASKS_SECONDS)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._greet(channel, line)
        except TimeoutError:
            channel.reset(Code.CANCELLED, "no welcome")
            line.closed()
            raise DialError(f"{self._endpoint} did not answer: is a chat there?") from None
        except BaseException:
            channel.reset(Code.CANCELLED, "no welcome")
            line.closed()
            raise
        self._line = line
        return channel

    async def _greet(self, channel: Channel, line: Line) -> None:
        again = self.welcome is not None
        self._n += 1
        line.send([encode(Hello(n=self._n, nick=self.nick, session=self._session, since=self._told_id))])
        while True:
            message = await channel.receive()
            if message is None:
                raise DialError(f"{self._endpoint} ended the conversation before it began")
            events = iter(self._decoded(line, message))
            for event in events:
                if isinstance(event, Failed):
                    raise RequestFailed(event.code, event.reason)
                if isinstance(event, Welcome):
                    self._welcomed(event, line, again=again)
                    for following in events:
                        self._handle(following)
                    return

    def _welcomed(self, welcome: Welcome, line: Line, *, again: bool) -> None:
        self.welcome, self.nick = welcome, welcome.nick
        self._emit(Connected(nick=welcome.nick, again=again))
        for room, joined in self._rooms.items():
            self._n += 1
            joined.begin(self._n)
            line.send([encode(Join(n=self._n, room=room, since=joined.last_id))])
        line.send([encode(pending.request) for pending in self._pending.values()])

    async def _run(self, channel: Channel) -> None:
        """Read; when the connection is lost, make another one."""
        try:
            while True:
                await self._read(channel)
                if self._is_final(channel):
                    self._end(ChannelClosed(channel.code or Code.LOST, channel.reason))
                    return
                channel = await self._dial_again(channel.reason or "the server ended the conversation")
        except BaseException as error:
            self._end(error if isinstance(error, KernelError) else ChannelClosed(Code.CANCELLED, "the chat is closed"))
            raise

    def _is_final(self, channel: Channel) -> bool:
        return self._closing or channel.code is Code.CANCELLED

    async def _read(self, channel: Channel) -> None:
        line = self._line
        assert line is not None
        try:
            async for message in channel:
                for event in self._decoded(line, message):
                    self._handle(event)
                if len(self._events) > _EVENTS_MAX and not channel.is_paused:
                    channel.pause_reading()
        except ChannelClosed:
            pass
        finally:
            line.closed()
            self._line = None
        channel.close()
        await channel.wait_closed()

    def _resume(self) -> None:
        if self._line is not None and self._line.channel.is_paused:
            self._line.channel.resume_reading()

    async def _dial_again(self, reason: str) -> Channel:
        backoff = _BACKOFF_SECONDS_FIRST
        while True:
            wait = backoff * random.uniform(0.5, 1.0)
            self._emit(Disconnected(reason=reason, retry_seconds=round(wait, 1)))
            await asyncio.sleep(wait)
            self._give_up_old()
            try:
                return await self._dial()
            except (KernelError, OSError) as error:
                if isinstance(error, UsageError):
                    raise
                reason = str(error)
            backoff = min(backoff * 2, _BACKOFF_SECONDS_MAX)

    def _give_up_old(self) -> None:
        """Report what has waited for too long; the server may have forgotten by when it was said."""
        now = asyncio.get_running_loop().time()
        for pending in list(self._pending.values()):
            if now - pending.since > self._give_up_seconds:
                self._fail(pending, NotDelivered(f"not delivered: no connection for {self._give_up_seconds:g} s"))

    def _fail(self, pending: _Pending, error: KernelError) -> None:
        self._pending.pop(pending.request.n, None)
        if not pending.answer.done():
            pending.answer.set_exception(error)

    def _end(self, error: KernelError) -> None:
        if self._over is not None:
            return
        self._over = error
        for pending in list(self._pending.values()):
            is_post = isinstance(pending.request, _POSTS)
            self._fail(pending, NotDelivered("not delivered, as far as is known") if is_post else error)
        self._more.set()

    # --- events ------------------------------------------------------------------------------------------------------

    def _decoded(self, line: Line, message: bytes) -> list[protocol.Events]:
        events = []
        for payload in line.received([message]):
            with contextlib.suppress(BadMessage):  # what a newer server says, or a broken one, harms nobody
                event = decode_event(payload)
                if event is not None:
                    events.append(event)
        return events

    def _handle(self, event: protocol.Events) -> None:
        match event:
            case Said() | TopicSet():
                self._on_said(event)
            case Told():
                self._on_told(event)
            case Room():
                self._on_room(event)
            case protocol.Presence():
                people = self.people.setdefault(event.room, {})
                people.update(dict.fromkeys(event.joined))
                for left in event.left:
                    people.pop(left.nick, None)
                self._emit(event)
            case Renamed():
                self._on_renamed(event)
            case WhoIs() if event.n not in self._pending:
                self._on_people(event.room, [info.nick for info in event.people], more=event.more)
            case Page() if self._is_catch_up(event):
                self._on_missed(event.room, event.messages, more=event.more)
            case protocol.Notice():
                self._emit(event)
            case _:
                self._answered(event)

    def _answered(self, event: Event) -> None:
        pending = self._pending.get(getattr(event, "n", 0))
        if pending is None or pending.answer.done():
            if isinstance(event, Failed):
                self._out_of_room(event.n)
                self._emit(event)
        elif isinstance(event, Failed):
            pending.answer.set_exception(RequestFailed(event.code, event.reason))
        else:
            pending.answer.set_result(event)

    def _on_said(self, event: Said | TopicSet) -> None:
        if (joined := self._rooms.get(event.room)) is not None:
            self._emit_all(joined.said(event))

    def _on_told(self, event: Told) -> None:
        if event.id > self._told_id:
            self._told_id = event.id
            self._emit(event)

    def _on_room(self, event: Room) -> None:
        self.people[event.room] = {}
        self._on_people(event.room, event.people, more=event.people_more)
        joined = self._rooms.get(event.room)
        if joined is not None:  # again, after a lost connection
            self._on_missed(event.room, event.messages, more=event.more)
        else:
            self._rooms[event.room] = CatchUp(event.last_id)
        self._answered(event)

    def _on_people(self, room: str, nicks: list[str], *, more: bool) -> None:
        """Some of those who are in a room."""
        if (people := self.people.get(room)) is None:
            return  # left meanwhile
        people.update(dict.fromkeys(nicks))
        if more and nicks and self._line is not None:
            self._n += 1
            self._line.send([encode(Who(n=self._n, room=room, after=nicks[-1]))])

    def _out_of_room(self, n: int) -> None:
        """What we missed of a room cannot be had: we are not in it any longer."""
        for room, joined in list(self._rooms.items()):
            if joined.missing and joined.asked == n != 0:
                del self._rooms[room]
                self.people.pop(room, None)

    def _is_catch_up(self, event: Page) -> bool:
        joined = self._rooms.get(event.room)
        return joined is not None and joined.missing and event.n not in self._pending

    def _on_missed(self, room: str, messages: list[Said | TopicSet], *, more: bool) -> None:
        """A page of what we missed."""
        joined = self._rooms[room]
        self._emit_all(joined.page(messages, more=more))
        if joined.missing and self._line is not None:
            self._n += 1
            joined.asked = self._n
            self._line.send(
                [encode(History(n=self._n, room=room, after=joined.last_id, count=protocol.PAGE_MESSAGES_MAX))]
            )

    def _on_renamed(self, event: Renamed) -> None:
        if event.old == self.nick:
            self.nick = event.new
        for people in self.people.values():
            if event.old in people:
                del people[event.old]
                people[event.new] = None
        self._emit(event)

    def _emit_all(self, events: Sequence[ClientEvent]) -> None:
        for event in events:
            self._emit(event)

    def _emit(self, event: ClientEvent) -> None:
        self._events.append(event)
        self._more.set()
