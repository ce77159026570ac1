"""The short way of a stream's messages, while nothing unusual happens: socket, decoder, service, socket.

    readable -> recv -> decode -> handler.on_messages -> channel.send ... -> encode -> send        one call, in C

Session and link know everything that can happen to a connection, and asking them costs more than a small message
does. A lane (C: csrc/bridge_lane.h) stands for a connection and is open only while there is nothing to ask: frames are
whole, paid for, and for channels whose service is synchronous. It has a port for each such channel, open while that
channel is at rest. Whatever is unusual closes the lane, or the port, and the keeper goes on with session and link from
exactly there: an end or an error, corrupt bytes, a frame that is neither DATA nor CREDIT, a partial write, a backlog, a
lack of credit, a handler that pauses, finishes or fails, a message sent at another time. When all of it has passed, the
keeper opens the lane again.

Invariants: while the lane is open the session is at rest (nothing queued, nothing ending) and nothing is pending in the
connection; while a port is open, nothing is queued or held in its stream. So whichever way a message takes, it cannot
overtake another. Credit is spent and given in the accounts that lane and session share (kernel/session/account.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kernel.api import Buffer
from kernel.framing import engine
from kernel.session.plain import PlainSession
from kernel.session.stream import StreamSession
from kernel.sockets import SocketConnection

if TYPE_CHECKING:
    from kernel.channel import Channel
    from kernel.link import Link


class LaneKeeper:
    """Decides when a connection's lane and its ports are open, and does what the lane cannot.

    The methods from `readable` on are called by the lane, which has closed itself before.
    """

    __slots__ = ("_connection", "_lane", "_link", "_reads", "_session", "_shut")

    def __init__(self, link: Link, connection: SocketConnection, session: PlainSession | StreamSession) -> None:
        self._link = link
        self._connection = connection
        self._session = session
        self._reads = 0
        self._shut: list[Channel] = []
        self._lane = self._make(connection, session)
        connection.divert(self._lane.on_readable)

    def _make(self, connection: SocketConnection, session: PlainSession | StreamSession) -> Any:
        from kernel.framing.native import make_knl_lane, make_length_lane  # there for sure only where the engine is C

        common = (connection.fileno(), connection.scratch, session.decoder, self)
        if isinstance(session, PlainSession):
            return make_length_lane(*common, session.layout)
        return make_knl_lane(*common, session.account, *session.lane_terms)

    def add(self, channel: Channel) -> Any:
        """A channel's port; it opens when all is settled."""
        self._shut.append(channel)
        stream = channel.stream
        on_piece = channel.on_piece if stream.pieces else None
        return self._lane.add(stream.channel, stream.account, channel, channel.on_messages, on_piece)

    def remove(self, channel: Channel) -> None:
        """The channel is over."""
        if channel in self._shut:
            self._shut.remove(channel)
        self._lane.remove(channel.stream.channel)

    def close(self) -> None:
        """Close the lane; what handlers have sent so far goes into the connection, so that order is kept."""
        if self._lane.is_open:
            buffers = self._lane.close()
            if buffers:
                self._connection.write(buffers)

    def end(self) -> None:
        """The connection is lost: let go of everything, so that no cycle of references keeps it."""
        self._lane.end()

    def settle(self) -> None:
        """Open the lane and its ports again, if all that was unusual has passed."""
        if self._lane.is_open and not self._shut:
            return
        if self._connection.write_pending_bytes or not self._session.at_rest:
            return
        if self._shut:
            self._shut = [channel for channel in self._shut if not self._open(channel)]
        self._lane.reopen()

    def _open(self, channel: Channel) -> bool:
        if channel.is_paused or not self._session.stream_at_rest(channel.stream):
            return False
        channel.port.is_open = True
        return True

    def tick(self) -> None:
        """Tell the session, which counts silence, whether anything came this way."""
        if self._reads != self._lane.reads:
            self._reads = self._lane.reads
            self._session.touch()

    # --- the lane calls ------------------------------------------------------------------------------------------

    def leave(self, channel: Channel) -> None:
        """Something is about to happen to a channel that only session and link can do."""
        if channel.port.is_open:
            channel.port.is_open = False
            self._shut.append(channel)
        self.close()

    def readable(self) -> None:
        """The socket has something, and the lane is closed."""
        self._connection.read()

    def ended(self, error_number: int) -> None:
        """The socket is at its end, or has failed."""
        error = OSError(error_number, os.strerror(error_number)) if error_number else None
        self._connection.read_ended(error)

    def undelivered(self, frames: list[Any]) -> None:
        """The decoder gave these, and they are unusual; or the stream is corrupt behind them."""
        self._link.decoded(frames)

    def failed(self, channel: Channel, error: Exception) -> None:
        """The channel's handler has raised."""
        self._link.channel_failed(channel, error)

    def unsent(self, buffers: list[Buffer], sent_bytes: int) -> None:
        """The socket took only so much of these."""
        self._connection.write_rest(buffers, sent_bytes)

    def left(self, channel: Channel, cost_bytes: int) -> None:
        """The channel's handler was given so much, and has left the lane meanwhile."""
        self._link.delivered(channel, cost_bytes)


def lay_lane(link: Link, connection: object, session: object) -> LaneKeeper | None:
    """A lane for a connection, where there can be one: length framing or KNL in C, and a socket."""
    if type(connection) is not SocketConnection or engine().name != "c":
        return None
    if type(session) is PlainSession:
        return LaneKeeper(link, connection, session) if session.layout is not None and session.at_rest else None
    return LaneKeeper(link, connection, session) if type(session) is StreamSession else None
