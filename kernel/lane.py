"""The short way of a plain framing's messages, while nothing unusual happens: socket, decoder, service, socket.

    readable -> recv -> decode -> handler.on_messages -> channel.send ... -> encode -> send        one call, in C

Session and link know everything that can happen to a connection, and asking them costs more than a small message
does. A plain framing has no credit and no control frames, so between its unusual moments there is nothing to ask. The
lane (C: csrc/bridge_lane.c) is open only then. Whatever is unusual closes it, and its keeper goes on with session and
link from exactly there: an end or an error, corrupt bytes, a partial write, a backlog, a handler that pauses, finishes
or fails, a message sent at another time. When all of it has passed, the keeper opens the lane again.

Invariant: while the lane is open the session is at rest (nothing queued, nothing held, nothing ending) and nothing is
pending in the connection. So whichever way a message takes, it cannot overtake another.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kernel.framing import engine
from kernel.session.plain import PlainSession
from kernel.sockets import SocketConnection

if TYPE_CHECKING:
    from kernel.channel import Channel
    from kernel.link import Link


class LaneKeeper:
    """Decides when a connection's lane is open, and does what the lane cannot.

    The methods from `readable` to `left` are called by the lane, which has closed itself before.
    """

    __slots__ = ("_channel", "_connection", "_link", "_reads", "_session", "lane")

    def __init__(self, link: Link, connection: SocketConnection, session: PlainSession, channel: Channel) -> None:
        self._link = link
        self._connection = connection
        self._session = session
        self._channel = channel
        self._reads = 0
        from kernel.framing.native import make_lane  # there for sure only where the engine is C

        self.lane: Any = make_lane(
            connection.fileno(),
            connection.scratch,
            session.decoder,
            session.layout,
            channel,
            channel.on_messages,
            self,
        )
        connection.divert(self.lane.on_readable)

    def leave(self) -> None:
        """Close the lane; what the handler has sent so far goes into the session, so that order is kept."""
        messages = self.lane.close()
        if messages:
            self._session.send_many(self._channel.stream, messages)

    def settle(self) -> None:
        """Open the lane again if all that was unusual has passed."""
        if self.lane.is_open or self._channel.is_paused or self._connection.write_pending_bytes:
            return
        if self._session.at_rest:
            self.lane.reopen()

    def tick(self) -> None:
        """Tell the session, which counts silence, whether anything came this way."""
        if self._reads != self.lane.reads:
            self._reads = self.lane.reads
            self._session.touch()

    # --- the lane calls ------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """The socket has something, and the lane is closed."""
        self._connection.read()

    def ended(self, error_number: int) -> None:
        """The socket is at its end, or has failed."""
        error = OSError(error_number, os.strerror(error_number)) if error_number else None
        self._connection.read_ended(error)

    def decoded(self, messages: list[bytes], _nbytes: int) -> None:
        """The stream is corrupt behind these messages."""
        self._link.decoded(messages)

    def failed(self, error: Exception) -> None:
        """The handler has raised, or has sent what cannot be framed."""
        self._link.channel_failed(self._channel, error)

    def unsent(self, messages: list[bytes], sent_bytes: int) -> None:
        """The socket took only so much of what these messages make."""
        self._connection.write_rest(self._session.encode(messages), sent_bytes)

    def left(self, nbytes: int) -> None:
        """The handler was given messages of so many bytes, and has closed the lane meanwhile."""
        self._link.delivered(self._channel, nbytes)


def lay_lane(link: Link, connection: object, session: object, channel: Channel) -> LaneKeeper | None:
    """A lane for a channel, where there can be one: length framing in C, a socket, a synchronous handler."""
    if channel.on_messages is None or type(connection) is not SocketConnection or type(session) is not PlainSession:
        return None
    if session.layout is None or not session.at_rest or engine().name != "c":
        return None
    return LaneKeeper(link, connection, session, channel)
