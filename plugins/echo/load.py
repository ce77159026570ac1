"""As many echoes as the line carries: many connections, each with a fixed number of messages in flight.

Closed loop: each reply sends the next message, so what is measured is what the server sustains, and latency is that of
a full window. No task, no queue and no clock reading per message: what one read brings is counted, timed and replaced
as a whole, and messages sent at the same moment share one entry (`[when, how many]`).

Three windows, for three kinds of channel: replies in order, replies without boundaries, replies that may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kernel.api import Capabilities, ChannelHandler
from kernel.auth.keys import Keyring
from kernel.channel import Channel
from kernel.client import dial
from kernel.errors import Code, KernelError, UsageError

from .histogram import Histogram
from .payload import generated
from .report import round_trip_ms

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_HEAD = struct.Struct(">Q")
_SWEEPS_PER_TIMEOUT = 10
_DIALS_AT_ONCE = 64
# Standard streams, the event loop, files of modules that are being imported.
_DESCRIPTORS_OF_OURS = 16


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to do: so many `connections`, each with `in_flight` messages of `size` bytes, for so many `seconds`.

    Attributes:
        endpoint: where the server is.
        service: the service's name there.
        timeout_seconds: how long to wait for a reply, and for a connection.
        keys: the first of them proves who we are; None: the server need not know.
        printable: keep to letters and digits, for framings that cut at a byte value.
        interval: called once a second with this plan, the seconds since the start, and what was counted meanwhile.
    """

    endpoint: str
    service: str
    connections: int
    in_flight: int
    size: int
    seconds: float
    timeout_seconds: float
    printable: bool
    interval: Callable[[LoadPlan, float, Figures], None]
    keys: Keyring | None = None


@dataclass(slots=True)
class Figures:
    """What was counted.

    Attributes:
        replies: whole messages that came back.
        corrupt: those among them that were not what was sent; on a raw stream, reads that were not.
        lost: messages without a reply.
        errors: connections that could not be made, or ended early.
        error: the first of these, in one line.
        latencies: from sending to the reply, in nanoseconds.
    """

    replies: int = 0
    corrupt: int = 0
    lost: int = 0
    errors: int = 0
    error: str = ""
    seconds: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)

    @property
    def good(self) -> bool:
        """Everything came back as it should."""
        return bool(self.replies) and not (self.corrupt or self.lost or self.errors)

    def fail(self, error: str) -> None:
        """Count a connection that is not there."""
        self.errors += 1
        self.error = self.error or error

    def add(self, other: Figures) -> None:
        """Count what the other one counted; the seconds are left alone."""
        self.replies += other.replies
        self.corrupt += other.corrupt
        self.lost += other.lost
        self.errors += other.errors
        self.error = self.error or other.error
        self.latencies.merge(other.latencies)


class _Meter:
    """Where all windows count: `now`, which is added to the total from time to time."""

    def __init__(self, total: Figures) -> None:
        self.now = Figures()
        self.sending = False
        self.alive = 0
        self.changed = asyncio.Event()
        self.deserted = asyncio.Event()
        self._total = total

    def collect(self) -> Figures:
        """What was counted since the last call."""
        fresh, self.now = self.now, Figures()
        self._total.add(fresh)
        return fresh


class _Window(ChannelHandler):
    """One connection's messages in flight."""

    def __init__(self, plan: LoadPlan, meter: _Meter) -> None:
        self.outstanding = 0
        self._plan = plan
        self._meter = meter
        self._channel: Channel | None = None
        self._payload = generated(0, plan.size, printable=plan.printable).whole()

    def opened(self, channel: Channel) -> None:
        self._channel = channel
        self._meter.alive += 1

    def launch(self) -> None:
        """Fill the window."""
        self._refill(self._plan.in_flight, time.monotonic_ns())

    def _refill(self, count: int, now: int) -> None:
        """So many messages are over, one way or another: send as many anew."""
        if self._meter.sending and self._channel is not None:
            self.outstanding += count
            self._send(self._channel, count, now)
        else:
            self._meter.changed.set()

    @abstractmethod
    def _send(self, channel: Channel, count: int, now: int) -> None:
        """Send so many messages, and remember when."""

    def sweep(self, now: int) -> None:
        """Give up on what has waited for too long; in order and reliably, nothing ever has."""

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self._channel = None
        if self._meter.sending or self.outstanding:
            self._meter.now.fail(f"a connection ended: {code.label}" + (f", {reason}" if reason else ""))
        self.give_up()
        self._meter.changed.set()
        self._meter.alive -= 1
        if not self._meter.alive:
            self._meter.deserted.set()

    def give_up(self) -> None:
        """What is outstanding is lost."""
        self._meter.now.lost += self.outstanding
        self.outstanding = 0


class _InOrder(_Window):
    """Replies come in order, whole."""

    def __init__(self, plan: LoadPlan, meter: _Meter) -> None:
        super().__init__(plan, meter)
        self._batch = [self._payload] * plan.in_flight
        self._sent: deque[list[int]] = deque()

    def _send(self, channel: Channel, count: int, now: int) -> None:
        self._sent.append([now, count])
        channel.send_many(self._batch[:count])

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        self._meter.now.corrupt += len(messages) - messages.count(self._payload)
        self._take(len(messages))

    def _take(self, count: int) -> None:
        """The oldest messages, so many, have their reply."""
        now = time.monotonic_ns()
        count = left = min(count, self.outstanding)
        latencies = self._meter.now.latencies
        while left:
            oldest = self._sent[0]
            taken = min(left, oldest[1])
            latencies.record(now - oldest[0], taken)
            left -= taken
            oldest[1] -= taken
            if not oldest[1]:
                self._sent.popleft()
        self._meter.now.replies += count
        self.outstanding -= count
        if count:
            self._refill(count, now)


class _Bytes(_InOrder):
    """Replies come in order, cut anywhere."""

    def __init__(self, plan: LoadPlan, meter: _Meter) -> None:
        super().__init__(plan, meter)
        self._offset = 0
        self._expected = b""

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        size = self._plan.size
        complete = 0
        for chunk in messages:
            end = self._offset + len(chunk)
            if len(self._expected) < end:
                self._expected = self._payload * (end // size + 1)
            self._meter.now.corrupt += chunk != self._expected[self._offset : end]
            complete += end // size
            self._offset = end % size
        self._take(complete)


class _Lossy(_Window):
    """Replies may be lost or overtake each other: each message begins with its number."""

    def __init__(self, plan: LoadPlan, meter: _Meter) -> None:
        super().__init__(plan, meter)
        self._rest = self._payload[_HEAD.size :]
        self._next = 0
        self._sent_at: dict[int, int] = {}

    def _send(self, channel: Channel, count: int, now: int) -> None:
        numbers = range(self._next, self._next + count)
        self._next += count
        self._sent_at.update(dict.fromkeys(numbers, now))
        channel.send_many([_HEAD.pack(number) + self._rest for number in numbers])

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        now = time.monotonic_ns()
        figures = self._meter.now
        before = figures.replies
        for message in messages:
            sent_at = self._sent_at.pop(int.from_bytes(message[: _HEAD.size], "big"), None)
            if sent_at is not None:
                figures.replies += 1
                figures.latencies.record(now - sent_at)
                figures.corrupt += message[_HEAD.size :] != self._rest
        self._over(figures.replies - before, now)

    def sweep(self, now: int) -> None:
        oldest = now - round(self._plan.timeout_seconds * 1e9)
        overdue = [number for number, sent_at in self._sent_at.items() if sent_at <= oldest]
        for number in overdue:
            del self._sent_at[number]
        self._meter.now.lost += len(overdue)
        self._over(len(overdue), now)

    def _over(self, count: int, now: int) -> None:
        self.outstanding -= count
        if count:
            self._refill(count, now)


async def run(plan: LoadPlan, figures: Figures) -> None:
    """Carry it out, counting into `figures`, which is right at any moment, also when this is cancelled.

    Raises:
        KernelError: not a single connection could be made, or the plan does not fit the transport or this process.
    """
    _check_descriptors(plan.connections)
    meter = _Meter(figures)
    async with contextlib.AsyncExitStack() as stack:
        windows = await _connect_all(plan, meter, stack)
        started = time.perf_counter()
        sweeping = asyncio.get_running_loop().create_task(_sweep(plan, windows))
        try:
            await _measure(plan, windows, meter, started)
            figures.seconds = time.perf_counter() - started
            await _settle(plan, windows, meter)
        finally:
            sweeping.cancel()
            meter.collect()
            figures.seconds = figures.seconds or time.perf_counter() - started


def _check_descriptors(connections: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: its own limit will tell
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and connections > limit - _DESCRIPTORS_OF_OURS:
        raise UsageError(
            f"{connections:,} connections need more file descriptors than the {limit:,} that this process may have: "
            "take fewer --connections, or raise the limit (ulimit -n)"
        )


async def _connect_all(plan: LoadPlan, meter: _Meter, stack: contextlib.AsyncExitStack) -> list[_Window]:
    """Make the connections, some at a time. The first must succeed; the others' failures are counted."""
    gate = asyncio.Semaphore(_DIALS_AT_ONCE)

    async def another() -> _Window | KernelError:
        async with gate:
            try:
                return await _connect(plan, meter, stack)
            except KernelError as error:
                return error

    made = [await _connect(plan, meter, stack)]
    for outcome in await asyncio.gather(*(another() for _ in range(plan.connections - 1))):
        if isinstance(outcome, KernelError):
            meter.now.fail(str(outcome))
        else:
            made.append(outcome)
    return made


async def _connect(plan: LoadPlan, meter: _Meter, stack: contextlib.AsyncExitStack) -> _Window:
    client = await stack.enter_async_context(dial(plan.endpoint, keys=plan.keys, timeout_seconds=plan.timeout_seconds))
    window = _window(plan, meter, client.capabilities)
    await client.open(plan.service, handler=window)
    return window


def _window(plan: LoadPlan, meter: _Meter, gives: Capabilities) -> _Window:
    """The way to count that suits the channel."""
    limit = gives.message_bytes_max
    if limit is not None and plan.size > limit:
        raise UsageError(f"{plan.endpoint} carries at most {limit:,} bytes a message, not {plan.size:,}: lower --size")
    if not (gives.reliable and gives.ordered):
        if plan.size < _HEAD.size:
            raise UsageError(f"messages that may be lost carry a number: --size {_HEAD.size} or more")
        return _Lossy(plan, meter)
    if gives.preserves_messages:
        return _InOrder(plan, meter)
    if not plan.size:
        raise UsageError("a raw stream has no empty messages: give a --size, or take another framing")
    return _Bytes(plan, meter)


async def _measure(plan: LoadPlan, windows: list[_Window], meter: _Meter, started: float) -> None:
    """Send for the planned time, in intervals of a second."""
    meter.sending = True
    for window in windows:
        window.launch()
    elapsed = 0.0
    while elapsed < plan.seconds and not meter.deserted.is_set():
        before = elapsed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, plan.seconds - elapsed)):
                await meter.deserted.wait()
        elapsed = time.perf_counter() - started
        counted = meter.collect()
        counted.seconds = elapsed - before
        plan.interval(plan, elapsed, counted)
    meter.sending = False


async def _settle(plan: LoadPlan, windows: list[_Window], meter: _Meter) -> None:
    """Let the last replies come; what does not come in time is lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(plan.timeout_seconds):
            while any(window.outstanding for window in windows):
                meter.changed.clear()
                await meter.changed.wait()
    for window in windows:
        window.give_up()


async def _sweep(plan: LoadPlan, windows: list[_Window]) -> None:
    while True:
        await asyncio.sleep(plan.timeout_seconds / _SWEEPS_PER_TIMEOUT)
        now = time.monotonic_ns()
        for window in windows:
            window.sweep(now)


def ignore_interval(plan: LoadPlan, elapsed: float, figures: Figures) -> None:
    """Nobody wants to know."""


def print_interval(plan: LoadPlan, elapsed: float, figures: Figures) -> None:
    """A line for whoever watches."""
    p99 = figures.latencies.percentile(99) / 1e6
    print(f"{elapsed:5.1f} s  {rate(plan, figures)}  p99 {p99:.3f} ms", file=sys.stderr)


def lines(plan: LoadPlan, figures: Figures) -> str:
    """The summary for people."""
    window = f"{plan.connections:,} connections x {plan.in_flight:,} in flight x {plan.size:,} bytes"
    wrong = f"{figures.corrupt:,} corrupt, {figures.lost:,} lost, {figures.errors:,} errors"
    times = round_trip_ms(figures.latencies, PERCENTILES)
    latency = ", ".join(f"{name} {value:.3f}" for name, value in times.items() if value is not None)
    return f"{window}, {wrong}\n{rate(plan, figures)}\nlatency in ms: {latency or 'none'}"


def rate(plan: LoadPlan, figures: Figures) -> str:
    """Throughput: messages, and payload in one direction."""
    per_second = figures.replies / figures.seconds if figures.seconds else 0.0
    return f"{per_second:,.0f} messages/s, {per_second * plan.size / 1e6:,.1f} MB/s each way"


def as_json(plan: LoadPlan, figures: Figures) -> dict[str, Any]:
    """The same for programs."""
    per_second = figures.replies / figures.seconds if figures.seconds else 0.0
    return {
        "connections": plan.connections,
        "in_flight": plan.in_flight,
        "size": plan.size,
        "seconds": figures.seconds,
        "messages": figures.replies,
        "messages_per_second": per_second,
        "bytes_per_second": per_second * plan.size,
        "corrupt": figures.corrupt,
        "lost": figures.lost,
        "errors": figures.errors,
        "error": figures.error or None,
        "latency_ms": round_trip_ms(figures.latencies, PERCENTILES),
    }
