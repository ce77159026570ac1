"""A channel: what a service, or a client's program, holds of a conversation with one peer.

Sending never blocks: it queues, and the link writes once at the end of the event loop's turn. Receiving has two ways:
a `ChannelHandler` that is called, or the channel's own `Inbox` that a coroutine reads (`receive`, `async for`).

Back-pressure: what a handler was given counts as consumed when it returns, unless it paused the channel or, at a
server, has more than `HIGH_WATER_BYTES` waiting to be sent (an echo whose client does not read stops reading too). What
an inbox holds is consumed as it is read. When more than `Limits.write_buffer_bytes_max` waits on a connection, the
channel that holds most of it is lost: SLOW_READER.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from kernel.api import Buffer, ChannelHandler, Peer
from kernel.errors import ChannelClosed, Code, PeerError, Refused, UsageError
from kernel.slices import FileSlice

if TYPE_CHECKING:
    from kernel.link import Link
    from kernel.session.base import Stream

HIGH_WATER_BYTES = 256 * 1024
_ALWAYS = 1 << 62
_NEVER = -1

_PEER_FAULTS = {Code.PROTOCOL, Code.VERSION, Code.FRAME_TOO_LARGE, Code.FLOW_CONTROL, Code.BAD_CHECKSUM}


class Channel:
    """One conversation. Made by the kernel; used from the event loop's thread only.

    Attributes:
        service: the service's name.
        peer: who is at the other end.
        context: for the handler's own use.
        code, reason: why the channel ended; None and "" while it lives.
        on_messages, on_piece: for the link: the handler's methods; None where messages go to the inbox.
        stream, port: for the link: the session's side, and the short way where there is one (kernel/lane.py).
        consumes_below_bytes: for the link: while no more than this waits to be sent, what the handler was given counts
            as consumed.
    """

    __slots__ = (
        "__weakref__", "_couples", "_handler", "_inbox", "_is_open", "_link", "_on_over", "_owed_bytes", "_paused",
        "_waiters", "code", "consumes_below_bytes", "context", "on_messages", "on_piece", "port", "reason", "stream",
    )  # fmt: skip

    def __init__(self, link: Link, stream: Stream, handler: ChannelHandler | None, *, couples: bool) -> None:
        self._link = link
        self.stream = stream
        self._inbox = None if handler is not None else Inbox(stream.pieces)
        self._handler: ChannelHandler = handler or self._inbox  # type: ignore[assignment]
        self.on_messages = None if handler is None else handler.on_messages
        self.on_piece = None if handler is None else handler.on_piece
        self._couples = couples and handler is not None
        self._is_open = False
        self._paused = False
        self.consumes_below_bytes = HIGH_WATER_BYTES if self._couples else _ALWAYS
        self._owed_bytes = 0
        self.port: Any = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._on_over: Callable[[], None] | None = None
        self.context: Any = None
        self.code: Code | None = None
        self.reason = ""

    def __repr__(self) -> str:
        state = "open" if self.code is None else self.code.label
        return f"<Channel {self.id} of {self.service}, {state}, peer {self.peer.address}>"

    @property
    def id(self) -> int:
        """The channel's number within its connection; 0 where a connection has one channel only."""
        return self.stream.channel

    @property
    def service(self) -> str:
        return self.stream.service

    @property
    def peer(self) -> Peer:
        return self._link.peer

    @property
    def dialect(self) -> str:
        """Which of the service's dialects the listener speaks; empty: none, the service's own protocol."""
        return self._link.peer.dialect

    @property
    def message_bytes_max(self) -> int | None:
        """The largest message that the transport carries; None: only the peer's own limit counts."""
        return self._link.message_bytes_max

    @property
    def reliable(self) -> bool:
        """What is sent arrives, in order, or the channel is seen to fail. Off: messages may be lost or overtake."""
        return self._link.reliable

    @property
    def error(self) -> ChannelClosed | None:
        """What sending raises now that the channel is over; None while it lives."""
        return None if self.code is None else self._closed()

    @property
    def buffered_bytes(self) -> int:
        """What was sent here and has not left yet."""
        return self.stream.outgoing_bytes

    @property
    def full(self) -> bool:
        """More waits to be sent than is good: a handler waits for `on_writable`, a coroutine for `drain`."""
        return self.stream.outgoing_bytes > HIGH_WATER_BYTES

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, message: Buffer) -> None:
        """Queue one message; what is not `bytes` is copied, as its owner may change it. Never blocks; see `drain`.

        Raises:
            ChannelClosed: the channel is over, or this side has finished.
        """
        port = self.port
        if port is not None:
            if port.take(message):
                return
            port.leave()
        link = self._link
        if self.code is not None:
            raise self._closed()
        link.session.send(self.stream, message if type(message) is bytes else bytes(message))
        if not link.corked:
            link.schedule_flush()
        if self.stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._above_high_water(len(message))

    def send_many(self, messages: list[bytes]) -> None:
        """Queue messages, in order: as many calls of `send`, at the price of one.

        Raises:
            ChannelClosed: the channel is over, or this side has finished.
        """
        port = self.port
        if port is not None:
            taken = port.take_many(messages)
            if taken == len(messages):
                return
            messages = messages[taken:]
            port.leave()
        link = self._link
        if self.code is not None:
            raise self._closed()
        link.session.send_many(self.stream, messages)
        if not link.corked:
            link.schedule_flush()
        if self.stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._above_high_water(sum(map(len, messages)))

    def send_piece(self, piece: Buffer, message_bytes: int, last: bool) -> None:
        """Queue a part of one message of `message_bytes`; the next ones follow, and nothing comes between.

        Raises:
            ChannelClosed: the channel is over, or this side has finished.
            UsageError: the pieces do not add up.
        """
        port = self.port
        if port is not None:
            if port.take_piece(piece, message_bytes, last):
                return
            port.leave()
        link = self._link
        if self.code is not None:
            raise self._closed()
        link.session.send_piece(self.stream, bytes(piece), message_bytes, last)
        link.schedule_flush()
        if self.stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._above_high_water(len(piece))

    @property
    def sends_files(self) -> bool:
        """Whether `send_file` leaves the bytes to the operating system; else they are read."""
        return self._link.sends_files

    async def send_file(self, fd: int, offset: int, nbytes: int) -> None:
        """Send a part of an open file as one message, and wait while more waits to be sent than is good (`drain`).

        Where the transport can, the operating system moves the bytes and Python never sees them; elsewhere they are
        read in a thread. What leaves is what the file holds when it leaves: tell the peer a checksum if that matters.
        On return the descriptor may be closed, though part of the message may still have to leave.

        Raises:
            ChannelClosed: the channel is over, or this side has finished.
            OSError: the file cannot be read, or ends too early; the channel is reset, as half a message has left.
        """
        if nbytes and self._link.sends_files:
            self._leave_lane()
            if self.code is not None:
                raise self._closed()
            self._link.session.send_slice(self.stream, FileSlice.of(fd, offset, nbytes))
            self._link.schedule_flush()
            if self.stream.outgoing_bytes > HIGH_WATER_BYTES:
                self._above_high_water(nbytes)
        else:
            await self._send_read(fd, offset, nbytes)
        await self.drain()

    async def _send_read(self, fd: int, offset: int, nbytes: int) -> None:
        """The long way of `send_file`: read in a thread, piece by piece."""
        loop, at = asyncio.get_running_loop(), 0
        while True:
            wanted = min(nbytes - at, HIGH_WATER_BYTES)
            piece = await loop.run_in_executor(None, os.pread, fd, wanted, offset + at)
            if len(piece) < wanted and not piece:
                self.reset(Code.CANCELLED, "a file ended before what was announced of it")
                raise OSError(errno.EIO, "a file became shorter while it was sent")
            at += len(piece)
            self.send_piece(piece, nbytes, at == nbytes)
            if at == nbytes:
                return
            await self.drain()

    async def drain(self) -> None:
        """Wait until there is room to send. A sender that drains is never evicted, however slow its peer.

        Raises:
            ChannelClosed: the channel ended meanwhile.
        """
        while self.code is None and self.full:
            await self._wait()
        if self.code not in (None, Code.OK):
            raise self._closed()

    def _above_high_water(self, added_bytes: int) -> None:
        """Ask to be told when all has left. The last message alone may be larger than the limit of what may wait."""
        self.stream.wants_writable = True
        self._link.check_backlog(added_bytes)

    # --- receiving -----------------------------------------------------------------------------------------------

    async def receive(self) -> bytes | None:
        """The next message; None when the peer has finished.

        Cancelling loses nothing: the next call gets the message.

        Raises:
            ChannelClosed: the channel ended otherwise, after the messages that had come before.
            UsageError: the channel has a handler, or another task is receiving.
        """
        inbox = self._inbox
        if inbox is None:
            raise UsageError("this channel's messages go to its handler: receive() has nothing to give")
        while not inbox.has_item:
            if self.code not in (None, Code.OK):
                raise self._closed()
            if inbox.finished or self.code is not None:
                return None
            await inbox.wait()
        message: bytes
        message, freed_bytes = inbox.take()
        if freed_bytes:
            self._consume(freed_bytes)
        return message

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    async def pieces(self) -> AsyncIterator[tuple[bytes, int, bool]]:
        """Messages piece by piece: (piece, length of the whole message, last). Only with `pieces=True`."""
        if self._inbox is None or not self._inbox.pieces:
            raise UsageError("open the channel with pieces=True to read messages in pieces")
        while (item := await self.receive()) is not None:
            yield item  # type: ignore[misc]

    def pause_reading(self) -> None:
        """Hold the peer back: what comes from now on counts as unread. What is on its way is still delivered."""
        self._leave_lane()
        self._paused = True
        self.consumes_below_bytes = _NEVER

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._paused = False
        self.consumes_below_bytes = HIGH_WATER_BYTES if self._couples else _ALWAYS
        self._settle()

    # --- ends ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Half-close: after what is queued, tell the peer that no more comes. Receiving goes on."""
        if self.code is None:
            self._leave_lane()
            self._link.session.finish(self.stream)
            self._link.schedule_flush()

    def close(self) -> None:
        """Finish, and stop receiving: the channel is over as soon as what is queued has been sent."""
        if self.code is None:
            self._leave_lane()
            self._link.session.release(self.stream)
            self._link.schedule_flush()

    def reset(self, code: Code, reason: str = "") -> None:
        """End both directions now, and tell the peer why; what is queued is dropped."""
        if self.code is None:
            self._leave_lane()
            self._link.session.reset(self.stream, code, reason)
            self._link.schedule_flush()

    async def wait_opened(self) -> None:
        """Wait until the peer has accepted the channel, and the handler knows.

        Raises:
            Refused: it turned the channel away.
            ChannelClosed: the connection ended meanwhile.
        """
        while not self._is_open and self.code is None:
            await self._wait()
        if not self.stream.accepted:
            raise self._closed()

    async def wait_closed(self) -> None:
        """Wait until the channel is over in both directions."""
        while self.code is None:
            await self._wait()

    def on_over(self, call: Callable[[], None]) -> None:
        """Call once when the channel is over; the client ends its connection with its only channel."""
        self._on_over = call

    # --- the link's side -------------------------------------------------------------------------------------------

    def opened(self) -> None:
        self._is_open = True
        self._wake()
        self._handler.opened(self)

    def keep(self, messages: list[bytes], cost_bytes: int) -> None:
        """Messages for whoever receives; only where `on_messages` is None."""
        assert self._inbox is not None
        self._inbox.put(messages, cost_bytes)

    def deliver_piece(self, piece: bytes, message_bytes: int, last: bool, cost_bytes: int) -> None:
        if self._inbox is not None:
            self._inbox.put([(piece, message_bytes, last)], cost_bytes)
            return
        assert self.on_piece is not None
        self.on_piece(self, piece, message_bytes, last)
        if self.stream.outgoing_bytes > self.consumes_below_bytes:
            self.owe(cost_bytes)
        elif self.code is None:
            self._link.session.consumed(self.stream, cost_bytes)

    def owe(self, cost_bytes: int) -> None:
        """The handler was given so much, and the peer is to be held back until there is room again."""
        self._owed_bytes += cost_bytes
        self.stream.wants_writable = True

    def peer_finished(self) -> None:
        self._handler.on_finish(self)

    def writable(self) -> None:
        self._settle()
        self._wake()
        if self.stream.local_open or self.stream.remote_open:  # else it is over, and what is sent would vanish
            self._handler.on_writable(self)

    def ended(self, code: Code, reason: str) -> None:
        if self.code is None:
            self.code, self.reason = code, reason
            self._wake()
            self._handler.on_closed(self, code, reason)
            if self._on_over is not None:
                self._on_over()

    def _leave_lane(self) -> None:
        if self.port is not None:
            self.port.leave()

    @property
    def is_paused(self) -> bool:
        """Between `pause_reading` and `resume_reading`."""
        return self._paused

    def _settle(self) -> None:
        """Give back what is owed, unless the service still wants the peer held back."""
        if not self._owed_bytes or self._paused or self.code is not None:
            return
        if self._couples and self.full:
            return
        owed, self._owed_bytes = self._owed_bytes, 0
        self._consume(owed)

    def _consume(self, nbytes: int) -> None:
        self._link.consumed(self.stream, nbytes)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def _closed(self) -> ChannelClosed:
        code = self.code or Code.CANCELLED
        if not self.stream.accepted and code is not Code.LOST:
            return Refused(code, self.reason)
        return (PeerError if code in _PEER_FAULTS else ChannelClosed)(code, self.reason)


class Inbox(ChannelHandler):
    """Messages that wait for a coroutine. They come in batches, one a read; its last message consumes a batch."""

    __slots__ = ("_at", "_batches", "_waiter", "finished", "pieces")

    def __init__(self, pieces: bool) -> None:
        self.pieces = pieces
        self.finished = False
        self._batches: deque[tuple[list[Any], int]] = deque()
        self._at = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_item(self) -> bool:
        return bool(self._batches)

    def put(self, items: list[Any], cost_bytes: int) -> None:
        if self.pieces and type(items[0]) is bytes:
            items = [(item, len(item), True) for item in items]
        self._batches.append((items, cost_bytes))
        self._wake()

    def take(self) -> tuple[Any, int]:
        """The next item, and what its batch costs if it was the last one of it, else 0."""
        items, cost_bytes = self._batches[0]
        item = items[self._at]
        self._at += 1
        if self._at < len(items):
            return item, 0
        self._at = 0
        self._batches.popleft()
        return item, cost_bytes

    async def wait(self) -> None:
        if self._waiter is not None:
            raise UsageError("another task is receiving from this channel: one at a time")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def on_finish(self, channel: Channel) -> None:
        self.finished = True
        self._wake()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
