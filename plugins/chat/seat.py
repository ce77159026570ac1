"""A seat: one connection of one guest. Requests come in through it, in order; messages go out.

Fair: requests wait in a queue until the guest's allowance lets the next one pass, until what he said before is in its
log, and until nobody in the room that he speaks to is behind; while the queue is long, the peer is held back. Safe:
what waits for a reader is bounded. When it passes a quarter of its limit, he is behind, and his rooms wait for him: for
`slow_reader_seconds_max`, then he is evicted with a reason. At the limit he is evicted at once, and so is one who reads
nothing when the patience with his source is used up: nobody can hold a room up by coming again and again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from kernel import Channel, ChannelHandler, Code

from .lines import Line
from .options import ChatOptions
from .protocol import (
    BadMessage,
    Event,
    Failed,
    Hello,
    Notice,
    Quit,
    Rename,
    Request,
    Requests,
    Say,
    Search,
    SetTopic,
    Tell,
    decode_request,
    encode,
)
from .sources import Allowance, Source

if TYPE_CHECKING:
    from .people import Guest

NO_ID = 1 << 62
"""The id of what has none: larger than any, so that nothing that was asked for holds it already."""

_QUEUE_MAX = 32
_LOOK_SECONDS = 0.01
_POSTING_MAX = 64
# Less than this in so long is no reading: 64 KiB a second.
_PROGRESS_SECONDS = 0.25
_PROGRESS_BYTES = 16 * 1024
_RELIEVED_SHARE = 8
_BEHIND_SHARE = 4
_TALK = (Say, Tell, SetTopic, Rename)
# What a request costs of an allowance, where it is more than the others.
_COSTS: dict[type[Request], float] = {Search: 5.0}


class Host(Protocol):
    """What a seat needs of the service."""

    @property
    def chat_options(self) -> ChatOptions: ...

    def line(self, channel: Channel) -> Line:
        """The line that suits the channel."""

    def handle(self, seat: Seat, request: Requests) -> Coroutine[Any, Any, None] | None:
        """Carry a request out; what has to wait returns a coroutine, and the next request waits for it."""

    @property
    def behind(self) -> set[Seat]:
        """The seats that do not keep up."""

    def is_held(self, room: str) -> bool:
        """Somebody in the room does not keep up."""

    def caught_up(self, seat: Seat) -> None:
        """The seat is not behind any more."""

    def source(self, name: str) -> Source:
        """What those share who come from one place."""

    def gone(self, seat: Seat, code: Code, reason: str) -> None:
        """The seat's channel is over."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object: ...


class Seat(ChannelHandler):
    """See the top of this file.

    Attributes:
        guest: who sits here; None before he has said hello.
        source: on whose account he is here.
        posting: how many of his posts are not in their logs yet.
        leaving: why he leaves for good; None while he does not.
    """

    __slots__ = (
        "_behind_until", "_busy", "_granted_at", "_hellos", "_host", "_joining", "_line", "_progress_at",
        "_progress_bytes", "_pump_timer", "_queue", "_reserved", "_told_slow", "guest", "leaving", "posting", "source",
    )  # fmt: skip

    def __init__(self, host: Host) -> None:
        self._host = host
        self._line: Line | None = None
        self._queue: deque[Requests] = deque()
        self._busy = False
        self._pump_timer: asyncio.TimerHandle | None = None
        self._joining: dict[str, list[tuple[int, bytes]]] = {}
        self._behind_until = 0.0
        self._progress_at = 0.0
        self._progress_bytes = 0
        self._told_slow = False
        self._hellos: Allowance | None = None
        self._granted_at: float | None = None
        self._reserved: list[tuple[Allowance, float]] = []
        self.source: Source
        self.posting = 0
        self.guest: Guest | None = None
        self.leaving: str | None = None

    @property
    def session(self) -> str:
        return "" if self.guest is None else self.guest.session

    @property
    def channel(self) -> Channel:
        assert self._line is not None
        return self._line.channel

    # --- sending -----------------------------------------------------------------------------------------------------

    def reply(self, event: Event) -> None:
        self.send([encode(event)])

    def send(self, payloads: list[bytes]) -> None:
        """Queue messages; whoever lets too many of them wait is evicted."""
        line = self._line
        assert line is not None
        line.send(payloads)
        pending = line.pending_bytes
        limit = self._host.chat_options.send_buffer_bytes_max
        if pending * _BEHIND_SHARE > limit and self not in self._host.behind:
            self._fall_behind(pending)
        if pending > limit:
            self.evict(f"{pending} bytes wait for you to read, the limit is {limit} (send_buffer_bytes_max)")

    def deliver(self, room: str, payloads: list[bytes], ids: list[int]) -> None:
        """What happens in a room; while the page that a join has asked for is under way, it waits."""
        if self._joining and (waiting := self._joining.get(room)) is not None:
            waiting += zip(ids, payloads, strict=True)
        else:
            self.send(payloads)

    async def keeps_up(self) -> bool:
        """Wait until he does; False: he is gone."""
        while self in self._host.behind and self.channel.code is None:  # noqa: ASYNC110  # it has a timer of its own
            await asyncio.sleep(_LOOK_SECONDS)
        return self.channel.code is None

    def begin_join(self, room: str) -> None:
        """Hold back what happens in the room until `end_join`."""
        self._joining.setdefault(room, [])

    def end_join(self, room: str, answer: list[Event], last_id: int) -> None:
        """The answer, then what has happened since, but for what the answer holds already."""
        self.send([encode(event) for event in answer])
        self.send([payload for id_, payload in self._joining.pop(room, []) if id_ > last_id])

    def fail_join(self, room: str) -> None:
        """There is no answer; what has happened since is not lost for who was here before."""
        self.send([payload for _, payload in self._joining.pop(room, [])])

    def _fall_behind(self, pending: int) -> None:
        loop = asyncio.get_running_loop()
        self._host.behind.add(self)
        self._behind_until = loop.time() + self._host.chat_options.slow_reader_seconds_max
        self._progress_at, self._progress_bytes = loop.time(), pending
        loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Has he caught up? Does he at least read?"""
        assert self._line is not None
        options = self._host.chat_options
        loop = asyncio.get_running_loop()
        now, pending = loop.time(), self._line.pending_bytes
        if self.channel.code is not None or pending * _RELIEVED_SHARE < options.send_buffer_bytes_max:
            self._host.caught_up(self)
            return
        if now > self._behind_until or not self._reads(now, pending):
            self.evict(
                f"you did not keep up, and others wait (slow_reader_seconds_max={options.slow_reader_seconds_max:g})"
            )
            return
        loop.call_later(_LOOK_SECONDS, self._look)

    def _reads(self, now: float, pending: int) -> bool:
        """He reads, or we are patient with him."""
        waited = now - self._progress_at
        if waited < _PROGRESS_SECONDS:
            return True
        read_bytes, self._progress_bytes = self._progress_bytes - pending, pending
        self._progress_at = now
        return read_bytes >= _PROGRESS_BYTES or self.source.patience.spend(now, waited)

    def evict(self, reason: str) -> None:
        """He does not read."""
        self._host.behind.discard(self)
        self.channel.reset(Code.SLOW_READER, reason)

    def leave(self) -> None:
        """End it in order."""
        assert self._line is not None
        self._line.close()

    def end(self, code: Code, reason: str) -> None:
        """End it now."""
        if self._line is not None and self.channel.code is None:
            self.channel.reset(code, reason)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        self._line = self._host.line(channel)
        self.source = self._host.source(channel.peer.source)

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        assert self._line is not None
        for message in self._line.received(messages):
            try:
                self._queue.append(decode_request(message))
            except BadMessage as error:
                self.reply(Failed(n=error.n, code="bad", reason=str(error)))
        if self._pump_timer is None:
            self.pump()

    def pump(self) -> None:
        """Carry out what waits, as far as it may."""
        self._pump_timer = None
        while self._queue and not self._busy and self.channel.code is None:
            wait = self._wait_seconds(self._queue[0])
            if wait:
                self._pump_timer = asyncio.get_running_loop().call_later(wait, self.pump)
                break
            self._granted_at = None
            work = self._host.handle(self, self._queue.popleft())
            if work is not None:
                self._busy = True
                self._host.spawn(self._carry_out(work))
        self._hold_back()

    def posted(self) -> None:
        """One of his posts is in its log, or will never be."""
        self.posting -= 1
        if self._pump_timer is not None and self.posting == _POSTING_MAX // 2:
            self._pump_timer.cancel()
            self.pump()

    def _wait_seconds(self, request: Requests) -> float:
        """How long the next request has to wait before it may be looked at again."""
        if self in self._host.behind or self.posting >= _POSTING_MAX:
            return _LOOK_SECONDS
        if isinstance(request, Say) and self._host.is_held(request.room):
            return _LOOK_SECONDS
        if isinstance(request, Quit) or (self.guest is None and not isinstance(request, Hello)):
            return 0.0
        now = asyncio.get_running_loop().time()
        if self._granted_at is None:
            self._granted_at = now + self._reserve(request, now)
        return max(self._granted_at - now, 0.0)

    def _reserve(self, request: Requests, now: float) -> float:
        """Have the request paid for, by him and by his source; in how many seconds it may be carried out."""
        options = self._host.chat_options
        if self.guest is not None:
            own = self.guest.allowance
        else:  # to claim a name is work, also when it fails
            own = self._hellos = self._hellos or Allowance(options.messages_per_second, options.burst)
        shared = self.source.talk if isinstance(request, _TALK) else self.source.work
        cost = _COSTS.get(type(request), 1.0)
        self._reserved = [(own, cost), (shared, cost)]
        own_wait, shared_wait = own.reserve(now, cost), shared.reserve(now, cost)
        if (own_wait or shared_wait) and not self._told_slow:
            self._told_slow = True
            who = "you send" if own_wait >= shared_wait else f"all who come as '{self.source.name}' send"
            rate = f"{options.messages_per_second:g} a second, {options.burst} at once"
            self.reply(Notice(text=f"{who} faster than this server takes messages ({rate}): they go out slowly"))
        return max(own_wait, shared_wait)

    async def _carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._busy = False
            if self.channel.code is None:
                self.pump()

    def _hold_back(self) -> None:
        """Read no more than can be worked off."""
        channel = self.channel
        if len(self._queue) > _QUEUE_MAX:
            if not channel.is_paused:
                channel.pause_reading()
        elif channel.is_paused and channel.code is None:
            channel.resume_reading()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if self._pump_timer is not None:
            self._pump_timer.cancel()
        if self._line is not None:
            self._line.closed()
        self._queue.clear()
        if self._granted_at is not None:
            for allowance, cost in self._reserved:
                allowance.give_back(cost)
        self._host.gone(self, code, reason)
