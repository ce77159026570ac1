"""The asyncio shell around a session: a connection's bytes go in, its channels' handlers are called, one write leaves.

    connection -> data_received -> session.received -> events -> handlers -> send ... -> flush -> connection.write

While a read is being handled the link is `corked`: what handlers send is queued, and leaves in one write at the end.
Outside of a read the first send schedules that write for the end of the loop's turn. No task, no queue and no write
per message.

The session hands out at most `WRITE_AHEAD_BYTES` beyond what the socket took, so that urgent frames overtake the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from kernel.api import Buffer, ChannelHandler, Connection, Peer
from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code
from kernel.lane import LaneKeeper, lay_lane
from kernel.session.base import (
    Closed,
    Ended,
    Event,
    Finished,
    GoingAway,
    Messages,
    Opened,
    OpenRequested,
    Piece,
    Pong,
    Ready,
    Session,
    Stream,
    Writable,
)
from kernel.session.plain import PlainSession
from kernel.session.stream import StreamSession

log = logging.getLogger("kernel.link")

WRITE_AHEAD_BYTES = 256 * 1024
# Of a service that always has more, for a socket that takes all: then others have their turn, and a loss is noticed.
_WRITES_PER_TURN = 4
TICK_SECONDS = 1.0


class LinkOwner(Protocol):
    """Who made the link: a server or a client. Called from the event loop."""

    def link_ready(self, link: Link) -> None:
        """The handshake is over."""

    def open_requested(self, link: Link, stream: Stream) -> None:
        """The peer asks for a service: call `link.accept` or `link.refuse` at once."""

    def link_going_away(self, link: Link, code: Code, reason: str) -> None:
        """The peer takes no new channels."""

    def link_ended(self, link: Link, code: Code, reason: str) -> None:
        """The last call, after the connection was lost. All channels have ended before."""


class Link:
    """One connection with its session and its channels. It is the connection's `Receiver`.

    Attributes:
        session: for channels; everybody else goes through the channel.
        corked: a read is being handled, its end will flush.
        peer: who is at the other end.
    """

    __slots__ = (
        "__weakref__", "_connection", "_deadline", "_deadline_at", "_ended", "_establishing_since", "_flush_scheduled",
        "_lane", "_loop", "_owner", "_ping_number", "_pings", "_read_paused", "_reason", "_write_buffer_bytes_max",
        "_write_finished", "code", "corked", "message_bytes_max", "peer", "reliable", "session", "wanted",
    )  # fmt: skip

    def __init__(self, connection: Connection, session: Session, owner: LinkOwner, peer: Peer) -> None:
        self.session = session
        self.wanted = session.wanted
        self.corked = False
        self.peer = peer
        self.code: Code | None = None
        self.message_bytes_max: int | None = None
        self.reliable = True
        self._write_buffer_bytes_max = session.limits.write_buffer_bytes_max
        self._connection = connection
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reason = ""
        self._ended = False
        self._flush_scheduled = False
        self._read_paused = False
        self._write_finished = False
        self._pings: dict[bytes, asyncio.Future[float]] | None = None
        self._ping_number = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_at: float | None = None
        self._lane: LaneKeeper | None = None
        self._establishing_since: float | None = self._loop.time()

    def start(self) -> None:
        """Begin to read, and say hello."""
        self._connection.start(self)
        if self._connection.established:
            self.connection_established()

    @property
    def sends_files(self) -> bool:
        """Whether the session and the connection both take slices of files."""
        return self._connection.sends_files and self.session.takes_files

    @property
    def channels(self) -> list[Channel]:
        """The channels that are open."""
        return [stream.user for stream in self.session.streams if stream.user is not None]

    # --- the connection calls --------------------------------------------------------------------------------------

    def connection_established(self) -> None:
        self._establishing_since = None
        if self.peer.principal != self._connection.principal:
            self.peer = replace(self.peer, principal=self._connection.principal)
        self._handle(self.session.started)

    def filled(self, nbytes: int) -> None:
        self._handle(self.session.filled, nbytes)

    def data_received(self, data: Buffer) -> None:
        session = self.session
        self.corked = True
        try:
            self._dispatch(session.received(data))
        finally:
            self.corked = False
        self.flush()
        if not session.wants_data:
            self._pause_reading()

    def messages_received(self, messages: list[bytes]) -> None:
        self._handle(self.session.messages, messages)

    def eof_received(self) -> None:
        self._handle(self.session.received_eof)

    def write_drained(self) -> None:
        if not self.corked:
            self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        if self.code is None:
            self.session.close(*_cause(error))
            self._dispatch(self.session.take_events())
        if self._lane is not None:
            self._lane.end()
            self._lane = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        code = Code.LOST if self.code is None else self.code
        for pong in (self._pings or {}).values():
            if not pong.done():
                pong.set_exception(ChannelClosed(code, self._reason))
        owner = self._owner
        del self._owner  # a client and its link would keep each other; nothing is told after this
        owner.link_ended(self, code, self._reason)

    # --- the owner and the channels call -------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed; called by the owner about every `TICK_SECONDS`."""
        if self._lane is not None:
            self._lane.tick()
        if self._establishing_since is not None and self.code is None:
            self._check_establishing(now)
        self._handle(self.session.tick, now)
        self.check_backlog()

    def _check_establishing(self, now: float) -> None:
        """Whoever takes too long over TLS is given up; the handshake of the session is in the same time."""
        assert self._establishing_since is not None
        limit = self.session.limits.handshake_seconds_max
        if now - self._establishing_since >= limit:
            self.close(Code.HANDSHAKE_TIMEOUT, f"no handshake within {limit:g} s")
            self.abort()  # nothing can be said to it, and nothing of it is of interest

    def accept(self, stream: Stream, handler: ChannelHandler | None, *, pieces: bool = False) -> Channel:
        """Serve a stream that the peer asked for."""
        self.session.accept(stream, pieces=pieces)
        return self._attach(stream, handler, couples=True)

    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        """Turn it away."""
        self.session.refuse(stream, code, reason)

    def open(self, service: str, handler: ChannelHandler | None, *, pieces: bool = False) -> Channel:
        """Ask the peer for a service. Messages may be sent at once; a refusal ends the channel.

        Raises:
            ChannelClosed: the connection takes no new channels.
        """
        stream = self.session.open(service, pieces=pieces)
        channel = self._attach(stream, handler, couples=False)
        self._dispatch(self.session.take_events())  # without a handshake of its own, the channel is open already
        self._resume_reading()
        self.schedule_flush()
        return channel

    def consumed(self, stream: Stream, nbytes: int) -> None:
        """The service is done with so much of what it was given."""
        self.session.consumed(stream, nbytes)
        self._resume_reading()
        if not self.corked:
            self.schedule_flush()

    async def ping(self) -> float:
        """Ask whether the peer is there; returns the round-trip time in seconds.

        Raises:
            ChannelClosed: the connection is over.
        """
        if self.code is not None:
            raise ChannelClosed(self.code, self._reason)
        if self._pings is None:
            self._pings = {}
        # A number of its own for each: the answer to a ping that was given up must not pass for that to another.
        self._ping_number += 1
        payload = self._ping_number.to_bytes(8, "big")
        pong = self._pings[payload] = self._loop.create_future()
        self.session.ping(payload)
        self.schedule_flush()
        sent_at = self._loop.time()
        try:
            answered_at: float = await pong
            return answered_at - sent_at
        finally:
            del self._pings[payload]

    def go_away(self, code: Code, reason: str) -> None:
        """Take no new channels; those that are open go on."""
        self.session.go_away(code, reason)
        self.flush()

    def close(self, code: Code = Code.OK, reason: str = "") -> None:
        """End all channels, tell the peer why, and close the connection when that is sent."""
        self.session.close(code, reason)
        self._dispatch(self.session.take_events())
        self.flush()

    def abort(self) -> None:
        """End at once."""
        self._connection.abort()

    def check_backlog(self, added_bytes: int = 0) -> None:
        """As long as more waits than may, not counting `added_bytes`, the channel that holds most of it goes."""
        limit, channels = self._write_buffer_bytes_max, self.channels
        while (waiting := sum(channel.buffered_bytes for channel in channels) - added_bytes) > limit:
            slowest = max(channels, key=lambda channel: channel.buffered_bytes)
            channels.remove(slowest)
            reason = f"{waiting} bytes wait for the peer to read, the limit is {limit} (write_buffer_bytes_max)"
            slowest.reset(Code.SLOW_READER, reason)

    def schedule_flush(self) -> None:
        """Something is to be sent: write at the end of the loop's turn."""
        if not self._flush_scheduled and not self.corked:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what the session has, as far as the socket takes it."""
        session, connection = self.session, self._connection
        for _ in range(_WRITES_PER_TURN):
            room = WRITE_AHEAD_BYTES - connection.write_pending_bytes
            if room <= 0:
                break
            buffers = session.data_to_send(room)
            if buffers:
                if self._lane is not None:
                    self._lane.close()
                connection.write(buffers)
            if session.events:
                self._dispatch(session.take_events())
            elif not buffers or not session.has_more:
                break
        else:
            self.schedule_flush()
        if session.write_finished and not self._write_finished and not self._ended:
            self._write_finished = True
            connection.finish_writing()
        if session.timed and session.deadline != self._deadline_at:
            self._set_deadline()
        if self._lane is not None:
            self._lane.settle()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _handle(self, step: Callable[..., list[Event]], *args: object) -> None:
        """One step of the session: input in, handlers called, output written once."""
        self.corked = True
        try:
            self._dispatch(step(*args))
        finally:
            self.corked = False
        self.flush()
        if not self.session.wants_data:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._connection.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and self.session.wants_data:
            self._read_paused = False
            self._connection.resume_reading()

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            try:
                if type(event) is Messages:  # once a read: no call more than it takes
                    stream = event.stream
                    channel: Channel | None = stream.user
                    if channel is None or channel.code is not None:
                        self.session.consumed(stream, event.cost_bytes)
                    elif channel.on_messages is None:
                        channel.keep(event.messages, event.cost_bytes)
                    else:
                        channel.on_messages(channel, event.messages)
                        if stream.outgoing_bytes > channel.consumes_below_bytes:
                            channel.owe(event.cost_bytes)
                        else:
                            self.session.consumed(stream, event.cost_bytes)
                else:
                    _ON_EVENT[type(event)](self, event)
            except Exception as error:
                self._on_failure(event, error)

    def _on_failure(self, event: Event, error: Exception) -> None:
        stream: Stream | None = getattr(event, "stream", None)
        if stream is not None and stream.user is not None:
            self.channel_failed(stream.user, error)
        else:
            log.error("handling %s of %s failed", type(event).__name__, self.peer.address, exc_info=error)
            self.abort()

    def channel_failed(self, channel: Channel, error: Exception) -> None:
        """A handler that raises loses its own channel, and nothing else."""
        if isinstance(error, ChannelClosed):
            channel.reset(Code.CANCELLED, str(error))
            return
        log.error(
            "the service '%s' failed; its channel with %s is reset",
            channel.service,
            self.peer.address,
            exc_info=error,
        )
        channel.reset(Code.INTERNAL, f"the service failed: {type(error).__name__}")

    def decoded(self, frames: list[Any]) -> None:
        """A lane has fed the session's decoder, and goes no further."""
        assert isinstance(self.session, (PlainSession, StreamSession))
        self._handle(self.session.decoded, frames)

    def delivered(self, channel: Channel, nbytes: int) -> None:
        """A lane has handed messages to the channel's handler, which then wanted more than the lane can do."""
        assert isinstance(self.session, (PlainSession, StreamSession))
        self.session.hold(channel.stream, nbytes)
        if channel.code is not None:
            self.session.consumed(channel.stream, nbytes)
        elif channel.stream.outgoing_bytes > channel.consumes_below_bytes:
            channel.owe(nbytes)
        else:
            self.session.consumed(channel.stream, nbytes)
        self.flush()
        if not self.session.wants_data:
            self._pause_reading()

    def _attach(self, stream: Stream, handler: ChannelHandler | None, *, couples: bool) -> Channel:
        channel = stream.user = Channel(self, stream, handler, couples=couples)
        if couples:
            channel.opened()
            self._lay_lane(channel)
        return channel

    def _lay_lane(self, channel: Channel) -> None:
        """From now on the channel's messages take the short way, where there is one."""
        if channel.on_messages is not None and channel.code is None:
            if self._lane is None:
                self._lane = lay_lane(self, self._connection, self.session)
            if self._lane is not None:
                channel.port = self._lane.add(channel)

    def _on_ready(self, event: Ready) -> None:
        if event.principal is not None:
            self.peer = replace(self.peer, principal=event.principal)
        self._owner.link_ready(self)

    def _on_open_requested(self, event: OpenRequested) -> None:
        self._owner.open_requested(self, event.stream)

    def _on_opened(self, event: Opened) -> None:
        channel: Channel | None = event.stream.user
        if channel is not None:
            channel.opened()

    def _on_piece(self, event: Piece) -> None:
        channel: Channel | None = event.stream.user
        if channel is None or channel.code is not None:
            self.session.consumed(event.stream, event.cost_bytes)
        else:
            channel.deliver_piece(event.piece, event.message_bytes, event.last, event.cost_bytes)

    def _on_finished(self, event: Finished) -> None:
        channel: Channel | None = event.stream.user
        if channel is not None:
            channel.peer_finished()

    def _on_writable(self, event: Writable) -> None:
        channel: Channel | None = event.stream.user
        if channel is not None:
            channel.writable()

    def _on_closed(self, event: Closed) -> None:
        channel: Channel | None = event.stream.user
        if channel is not None:
            if channel.port is not None and self._lane is not None:
                self._lane.remove(channel)
                channel.port = None
            channel.ended(event.code, event.reason)
            event.stream.user = None

    def _on_going_away(self, event: GoingAway) -> None:
        self._owner.link_going_away(self, event.code, event.reason)

    def _on_pong(self, event: Pong) -> None:
        pong = (self._pings or {}).get(event.payload)
        if pong is not None and not pong.done():
            pong.set_result(self._loop.time())

    def _on_ended(self, event: Ended) -> None:
        self.code, self._reason, self._ended = event.code, event.reason, True
        if self._lane is not None:
            self._lane.close()
        if event.abrupt:
            self._connection.abort()
            return
        for buffer in self.session.data_to_send(WRITE_AHEAD_BYTES):
            self._connection.write([buffer])
        self._connection.close()

    def _set_deadline(self) -> None:
        """The session wants to be woken at a time of its own (datagrams), finer than the owner's tick."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._deadline_at = self.session.deadline
        if self._deadline_at is not None and not self._ended:
            self._deadline = self._loop.call_at(self._deadline_at, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = self._deadline_at = None
        self.tick(self._loop.time())


_ON_EVENT: dict[type, Callable[..., None]] = {
    Ready: Link._on_ready,
    OpenRequested: Link._on_open_requested,
    Opened: Link._on_opened,
    Piece: Link._on_piece,
    Finished: Link._on_finished,
    Writable: Link._on_writable,
    Closed: Link._on_closed,
    GoingAway: Link._on_going_away,
    Pong: Link._on_pong,
    Ended: Link._on_ended,
}


def _cause(error: Exception | None) -> tuple[Code, str]:
    """Why a connection was lost."""
    if isinstance(error, ChannelClosed):
        return error.code, error.reason
    return Code.LOST, "the connection was lost" if error is None else f"the connection was lost: {_words(error)}"


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
