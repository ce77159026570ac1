"""One channel's worth of checked echoes: sends messages at a pace, compares what returns, counts.

A coroutine sends; what returns comes to a handler, which compares it and wakes the sender when there is room. Messages
longer than `_WHOLE_BYTES_MAX` are sent and compared in pieces, so that their length costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from kernel.api import Capabilities, ChannelHandler
from kernel.auth.keys import Keyring
from kernel.channel import Channel
from kernel.client import dial
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.limits import MIB

from .check import ByContent, Check, Display, Expect, InOrder
from .payload import Payload
from .report import Tally

Payloads = Callable[[bool], AsyncIterator[Payload]]
"""Makes the messages; called with whether the channel keeps their boundaries."""

_WHOLE_BYTES_MAX = MIB
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        endpoint: where the server is.
        service: the service's name there.
        payloads: the messages.
        expect: what should come back; see `check.Expect`.
        interval_seconds: from the start of one message to the start of the next.
        timeout_seconds: how long to wait for a reply, and for the connection.
        keys: the first of them proves who we are; None: the server need not know.
        in_flight: how many messages may wait for their reply at once.
        display: what to show meanwhile.
    """

    endpoint: str
    service: str
    payloads: Payloads
    expect: Expect
    interval_seconds: float = 0.0
    timeout_seconds: float = 5.0
    keys: Keyring | None = None
    in_flight: int = 1
    display: Display = field(default_factory=Display)


async def run(plan: Plan, tally: Tally) -> None:
    """Carry it out, counting into `tally`, which is right at any moment, also when this is cancelled.

    Raises:
        KernelError: there was no conversation, or the plan does not fit the channel.
    """
    async with dial(plan.endpoint, keys=plan.keys, timeout_seconds=plan.timeout_seconds) as client:
        conversation = _Conversation(plan, tally, client.capabilities)
        channel = await client.open(plan.service, handler=conversation, pieces=True)
        started = time.perf_counter()
        try:
            await conversation.hold(channel)
            conversation.stop()
        except asyncio.CancelledError:
            client.abort()
            raise
        finally:
            tally.seconds = time.perf_counter() - started
            conversation.leave()
        await _take_leave(channel, plan.timeout_seconds)


async def _take_leave(channel: Channel, timeout_seconds: float) -> None:
    """End the channel in order, so that the server does not take us for lost."""
    channel.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await channel.wait_closed()


class _Conversation(ChannelHandler):
    """Both directions of one channel: what was sent, what came back, and when to give up."""

    def __init__(self, plan: Plan, tally: Tally, gives: Capabilities) -> None:
        self._plan = plan
        self._tally = tally
        self._boundaries = gives.preserves_messages
        self._check = _check(plan, tally, gives)
        self._over = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # --- sending -----------------------------------------------------------------------------------------------------

    async def hold(self, channel: Channel) -> None:
        """Send everything, and wait for the last reply."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        async for payload in self._plan.payloads(self._boundaries):
            await self._until_fewer_than(self._plan.in_flight)
            await self._pause_until(due)
            if self._over:
                self._tally.blame("the server ended the channel before everything was sent")
                break
            due = max(due, loop.time() - self._plan.interval_seconds) + self._plan.interval_seconds
            with contextlib.suppress(ChannelClosed):  # on_closed tells
                await self._send(channel, payload)
        await self._until_fewer_than(1)

    async def _until_fewer_than(self, in_flight: int) -> None:
        """Wait until fewer than so many messages are outstanding, or nothing more will come."""
        while not self._over and self._check.outstanding >= in_flight:
            await self._change()

    async def _pause_until(self, due: float) -> None:
        """Let time pass, unless the conversation ends."""
        if due <= asyncio.get_running_loop().time():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                while not self._over:
                    await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def _send(self, channel: Channel, payload: Payload) -> None:
        self._refuse_unfit(channel, payload)
        self._check.sent(payload, time.monotonic_ns())
        if self._timer is None:
            self._watch()
        if payload.size <= _WHOLE_BYTES_MAX:
            channel.send(payload.whole())
            await channel.drain()
            return
        for offset in range(0, payload.size, _PIECE_BYTES):
            piece = payload.read(offset, _PIECE_BYTES)
            if self._boundaries:
                channel.send_piece(piece, payload.size, offset + len(piece) == payload.size)
            else:
                channel.send(piece)
            await channel.drain()
            self._check.progress(time.monotonic_ns())

    def _refuse_unfit(self, channel: Channel, payload: Payload) -> None:
        """What the channel cannot carry is refused before it counts as sent."""
        limit = channel.message_bytes_max
        if limit is not None and payload.size > limit:
            raise UsageError(f"{self._plan.endpoint} carries at most {limit:,} bytes a message, not {payload.size:,}")
        if not payload.size and not self._boundaries:
            raise UsageError("a raw stream has no empty messages: send at least a byte, or take another framing")

    # --- receiving ---------------------------------------------------------------------------------------------------

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        now = time.monotonic_ns()
        try:
            for message in messages:
                self._check.received(message, now)
        except OSError as error:  # what is shown goes nowhere: `| head -1`
            self._failure = error
        self._received()

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        assert isinstance(self._check, InOrder)
        try:
            self._check.piece(piece, message_bytes, last, time.monotonic_ns())
        except OSError as error:
            self._failure = error
        self._received()

    def _received(self) -> None:
        self._over = self._over or self._check.broken
        self._changed.set()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if self._over:
            return
        if self._check.outstanding or code is not Code.OK:
            why = f"{code.label}: {reason}" if reason else code.label
            missing = self._check.outstanding
            self._tally.blame(
                f"the channel ended with {missing:,} {'reply' if missing == 1 else 'replies'} missing ({why})"
            )
        self.stop()

    def stop(self) -> None:
        """Nothing more will come: what is outstanding is lost."""
        self._check.abandon()
        self.leave()

    def leave(self) -> None:
        """Count nothing any more; what is outstanding at an interruption is neither received nor lost."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed.set()

    def _watch(self) -> None:
        """Wake up when the message that waits longest has waited for too long."""
        self._timer = None
        self._check.expire(time.monotonic_ns())
        self._received()
        if (deadline := self._check.deadline) is not None and not self._over:
            delay = (deadline - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay, self._watch)


def _check(plan: Plan, tally: Tally, gives: Capabilities) -> Check:
    """The way to compare that suits the channel."""
    timeout = round(plan.timeout_seconds * 1e9)
    if gives.reliable and gives.ordered:
        return InOrder(tally, plan.expect, timeout, plan.display, boundaries=gives.preserves_messages)
    return ByContent(tally, plan.expect, timeout, plan.display)
