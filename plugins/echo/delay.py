"""Answers that come later, in order, and bounded: what a slow line or a slow server looks like to a client.

What a channel receives waits in a line of its own, one timer for the oldest, and reaches the real handler when its time
has come. A line that holds `_HELD_BYTES_MAX` holds its peer back until half of it has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from kernel.api import ChannelHandler
from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code
from kernel.limits import MIB

_HELD_BYTES_MAX = MIB
# What a waiting message costs besides its bytes, so that empty ones are bounded too.
_OVERHEAD_BYTES = 64


class Delayed(ChannelHandler):
    """Does what `inner` does, so many seconds later. Keeps its state in `channel.context`."""

    __slots__ = ("_delay_seconds", "_inner")

    def __init__(self, inner: ChannelHandler, delay_seconds: float) -> None:
        self._inner = inner
        self._delay_seconds = delay_seconds

    def opened(self, channel: Channel) -> None:
        channel.context = _Line(channel, self._delay_seconds)
        self._inner.opened(channel)

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        cost = sum(map(len, messages)) + _OVERHEAD_BYTES * len(messages)
        channel.context.add(cost, self._inner.on_messages, channel, messages)

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        cost = len(piece) + _OVERHEAD_BYTES
        channel.context.add(cost, self._inner.on_piece, channel, piece, message_bytes, last)

    def on_finish(self, channel: Channel) -> None:
        channel.context.add(_OVERHEAD_BYTES, self._inner.on_finish, channel)

    def on_writable(self, channel: Channel) -> None:
        self._inner.on_writable(channel)

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        channel.context.clear()
        self._inner.on_closed(channel, code, reason)


class _Line:
    """What one channel received and has not been handled yet."""

    __slots__ = ("_channel", "_delay_seconds", "_held_bytes", "_loop", "_paused", "_timer", "_waiting")

    def __init__(self, channel: Channel, delay_seconds: float) -> None:
        self._channel = channel
        self._delay_seconds = delay_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = deque()
        self._held_bytes = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, cost: int, call: Callable[..., None], *arguments: Any) -> None:
        """Make the call when its time has come."""
        due = self._loop.time() + self._delay_seconds
        self._waiting.append((due, cost, call, arguments))
        self._held_bytes += cost
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._deliver)
        if self._held_bytes >= _HELD_BYTES_MAX and not self._paused:
            self._paused = True
            self._channel.pause_reading()

    def clear(self) -> None:
        """The channel is over: drop what waits."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, cost, call, arguments = self._waiting.popleft()
            self._held_bytes -= cost
            try:
                call(*arguments)
            except ChannelClosed:  # the handler ended the channel while more was waiting
                self.clear()
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self._deliver)
        if self._paused and self._held_bytes <= _HELD_BYTES_MAX // 2:
            self._paused = False
            self._channel.resume_reading()
