"""A line: a channel on which messages arrive in order and once, whatever the transport.

On a reliable channel it is the channel itself. On datagrams `Reliable` numbers, acknowledges and repeats. Several calls
of `send` within one turn of the event loop share datagrams.
"""

from __future__ import annotations

import asyncio

from kernel import Channel, Code

from .reliable import Reliable

SERVER_GIVES_UP_SECONDS = 15.0
CLIENT_GIVES_UP_SECONDS = 4.0
"""Less: a client that was too impatient comes back by another connection, and nothing is lost."""
CLIENT_ASKS_SECONDS = 5.0
"""A server that was restarted answers that it knows of no such connection: who only listens learns of it by asking."""


def line_over(channel: Channel, give_up_seconds: float, asks_seconds: float | None = None) -> Line:
    """The line that suits a channel.

    Args:
        give_up_seconds: on datagrams, how long a silence means the end, where an answer is due.
        asks_seconds: on datagrams, after how long a silence something is sent in any case.
    """
    return Line(channel) if channel.reliable else DatagramLine(channel, give_up_seconds, asks_seconds)


class Line:
    """On a channel that is reliable by itself."""

    __slots__ = ("channel",)

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    @property
    def pending_bytes(self) -> int:
        """What waits for the other side to read, or to acknowledge."""
        return self.channel.buffered_bytes

    @property
    def unacknowledged(self) -> int:
        """How many messages are known not to have arrived yet; on a stream nobody knows."""
        return 0

    def send(self, messages: list[bytes]) -> None:
        """Queue messages; ignored when the channel is over."""
        if self.channel.code is None:
            self.channel.send_many(messages)

    def received(self, messages: list[bytes]) -> list[bytes]:
        """What the channel brought, as messages."""
        return messages

    def close(self) -> None:
        """End the channel once what was sent has left, on datagrams: has arrived."""
        self.channel.close()

    def closed(self) -> None:
        """The channel is over."""


class DatagramLine(Line):
    """On a channel that loses messages."""

    __slots__ = ("_asker", "_asks_seconds", "_closing", "_flushing", "_give_up_seconds", "_reliable", "_timer")

    def __init__(self, channel: Channel, give_up_seconds: float, asks_seconds: float | None = None) -> None:
        super().__init__(channel)
        self._reliable = Reliable(give_up_seconds)
        self._give_up_seconds = give_up_seconds
        self._asks_seconds = asks_seconds
        self._asker: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._closing = False

    @property
    def pending_bytes(self) -> int:
        return self._reliable.pending_bytes + self.channel.buffered_bytes

    @property
    def unacknowledged(self) -> int:
        return self._reliable.unacknowledged

    def send(self, messages: list[bytes]) -> None:
        self._reliable.send(messages)
        self._flush_soon()

    def received(self, messages: list[bytes]) -> list[bytes]:
        now = asyncio.get_running_loop().time()
        ready: list[bytes] = []
        for datagram in messages:
            ready += self._reliable.received(datagram, now)
        self._flush_soon()
        return ready

    def close(self) -> None:
        self._closing = True
        self._flush_soon()

    def closed(self) -> None:
        for timer in (self._timer, self._asker):
            if timer is not None:
                timer.cancel()

    def _ask(self) -> None:
        self._reliable.ask()
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.channel.code is not None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._reliable.tick(now)
        if self._reliable.lost:
            reason = (
                f"{self._reliable.unacknowledged} messages were not acknowledged within {self._give_up_seconds:g} s"
            )
            self.channel.reset(Code.LOST, reason)
            return
        datagrams = self._reliable.data_to_send(now)
        if datagrams:
            self.channel.send_many(datagrams)
        self.closed()
        if self._asks_seconds is not None:
            self._asker = loop.call_later(self._asks_seconds, self._ask)
        if self._closing and not self.unacknowledged:
            self.channel.close()
        elif (deadline := self._reliable.deadline) is not None:
            self._timer = loop.call_at(deadline, self._flush)
