"""The client's half of a shell channel: local streams on one side, the remote command on the other.

    Remote(channel side) --on_output--> Output ;  Input --send_input--> Remote

Everything is driven by the event loop; what waits on either side is bounded by the two windows.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from kernel.api import ChannelHandler
from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code

from .protocol import (
    DETACH,
    END_OF_STDIN,
    STDIN,
    Exit,
    Kind,
    Request,
    Started,
    credit,
    read_credit,
    resize,
    signal_message,
)


class Listener(Protocol):
    """Who is told what the remote command does; called from the event loop."""

    def started(self, started: Started) -> None:
        """It runs; so much input may be sent."""

    def output(self, stream: Kind, data: memoryview) -> None:
        """It has written; give the bytes back by `Remote.consumed` when they are dealt with."""

    def input_taken(self, nbytes: int) -> None:
        """It has taken so much of its input: so much more may be sent."""


class Remote(ChannelHandler):
    """One remote command. Give it to `connect` as the handler; `ended` becomes its `Exit`."""

    def __init__(self, listener: Listener, request: Request) -> None:
        self._listener = listener
        self._request = request
        self._channel: Channel | None = None
        self._unpaid = {Kind.STDOUT: 0, Kind.STDERR: 0}
        self._credit_bytes = request.window_bytes // 4
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    # --- the caller --------------------------------------------------------------------------------------------------

    def send_input(self, data: bytes) -> None:
        """Input for the command; no more than was allowed."""
        self._send(STDIN + data)

    def finish_input(self) -> None:
        """The input is at its end."""
        self._send(END_OF_STDIN)

    def signal(self, name: str) -> None:
        """Signal the remote process group."""
        self._send(signal_message(name))

    def resize(self, columns: int, rows: int) -> None:
        """Our terminal has another size."""
        self._send(resize(columns, rows))

    def consumed(self, stream: Kind, nbytes: int) -> None:
        """So much of the output has been dealt with."""
        self._unpaid[stream] += nbytes
        if self._unpaid[stream] >= self._credit_bytes:
            self._send(credit(stream, self._unpaid[stream]))
            self._unpaid[stream] = 0

    def detach(self) -> None:
        """Leave a terminal as it is, to come back later."""
        self._send(DETACH)

    def give_up(self, error: Exception) -> None:
        """What it writes has nowhere to go."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def _send(self, message: bytes) -> None:
        channel = self._channel
        if channel is not None and channel.code is None and not self.ended.done():
            channel.send(message)

    # --- the channel -------------------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.send(self._request.encode())

    def on_message(self, channel: Channel, message: bytes) -> None:
        kind = message[0] if message else 0
        if kind in (Kind.STDOUT, Kind.STDERR):
            self._listener.output(Kind(kind), memoryview(message)[1:])
        elif kind == Kind.CREDIT:
            self._listener.input_taken(read_credit(message)[1])
        elif kind == Kind.STARTED:
            self._listener.started(Started.decode(message))
        elif kind == Kind.EXIT and not self.ended.done():
            self.ended.set_result(Exit.decode(message))

    def on_finish(self, channel: Channel) -> None:
        """The server closes after the last message; nothing is left to be said."""
        channel.close()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(channel.error or ChannelClosed(code, reason))
            self.ended.exception()  # whoever has gone already need not ask
