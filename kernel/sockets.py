"""Stream sockets under the event loop: the connection and the listener that tcp and unix share, free for others too.

Our own socket driver instead of asyncio's transports, for three reasons: all connections of a loop share one receive
buffer, so that an idle one holds none; large frames are received straight into their own buffer; and many buffers leave
by one `sendmsg` without being joined. `add_reader` costs the same as asyncio's own transports (docs/decisions).

Invariants: at most one reader and one writer are registered for a socket; `connection_lost` is called once, from the
loop, never from inside a call of the kernel's; after it nothing is registered, the descriptor is closed, and no cycle
of references is left, so that the connection is freed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from kernel.api import ANONYMOUS, Acceptor, Buffer, Connection, Listener, Principal, Receiver
from kernel.endpoint import Endpoint
from kernel.hangups import hangups
from kernel.loop import watch
from kernel.slices import FileSlice
from kernel.throttle import Throttle

_accept_failed = Throttle(logging.getLogger("kernel.sockets"))

RECEIVE_BYTES = 256 * 1024
# Reads in one wake-up while the socket fills our buffer; then others have their turn.
_READS_PER_TURN = 4
_ACCEPTS_PER_TURN = 64
_BUFFERS_PER_SEND = 512
# Sends in one go where slices of files are among the buffers; then others have their turn.
_SENDS_PER_TURN = 8
# Behind a large frame comes the header of the next one, which should be received into a buffer of its own: so much of
# it may be copied.
_BETWEEN_FRAMES_BYTES = 4 * 1024
# The next bytes follow at once: do not send a packet for these alone.
_MORE = getattr(socket, "MSG_MORE", 0)
# After close: so long nothing of what is pending leaves, or, once all has left, so long we read on for the peer's end
# (unread input would turn our close into a reset). Then the connection is aborted.
_LINGER_SECONDS = 2.0
# Out of descriptors: the listener rests this long instead of spinning.
_ACCEPT_RETRY_SECONDS = 1.0
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_receive_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The loop's one receive buffer: whoever reads into it has it consumed before the callback returns."""
    view = _receive_buffers.get(loop)
    if view is None:
        view = _receive_buffers[loop] = memoryview(bytearray(RECEIVE_BYTES))
    return view


class SocketConnection(Connection):
    """A connected, non-blocking stream socket. See `Connection` for what each method promises.

    Args:
        sock: connected and non-blocking; ours from now on.
        local, peer: the addresses for people.
        principal: what the operating system says of the peer.
    """

    __slots__ = (
        "_abandoned", "_closing", "_eof", "_fd", "_finishing", "_hangups", "_hung_up", "_linger", "_local", "_loop",
        "_paused", "_peer", "_pending", "_pending_bytes", "_principal", "_reader", "_receiver", "_sock", "scratch",
    )  # fmt: skip

    sends_files = hasattr(os, "sendfile")

    def __init__(self, sock: socket.socket, local: str, peer: str, principal: Principal = ANONYMOUS) -> None:
        self._sock = sock
        self._local = local
        self._peer = peer
        self._principal = principal
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self.scratch = receive_buffer(self._loop)
        self._reader: Callable[[], object] = self.read
        self._hangups = hangups(self._loop)
        self._hung_up = False
        self._receiver: Receiver | None = None
        self._pending: deque[memoryview | FileSlice] | None = None
        self._pending_bytes = 0
        self._paused = False
        self._eof = False
        self._finishing = False
        self._closing = False
        self._abandoned = False
        self._linger: asyncio.TimerHandle | None = None

    @property
    def local(self) -> str:
        return self._local

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def principal(self) -> Principal:
        return self._principal

    @property
    def write_pending_bytes(self) -> int:
        return self._pending_bytes

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        watch(self._loop, self._fd, self._reader)
        if self._hangups is not None:
            self._hangups.add(self._fd, self._on_hangup)

    # --- reading -------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The socket's descriptor, for who receives in C."""
        return self._fd

    def divert(self, reader: Callable[[], object]) -> None:
        """From now on somebody else reads from the socket, and calls `read` or `read_ended` where that is our part."""
        self._reader = reader
        if not self._paused and not self._eof and not self._closing:
            watch(self._loop, self._fd, reader)

    def read(self) -> None:
        """Read what is there, and hand it to the receiver."""
        receiver = self._receiver
        assert receiver is not None
        scratch = self.scratch
        for _ in range(_READS_PER_TURN):
            view = receiver.wanted()
            try:
                nbytes = self._sock.recv_into(scratch if view is None else view)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(error)
                return
            if not nbytes:
                self._on_eof(receiver)
                return
            if view is None:
                full = nbytes == len(scratch)
                receiver.data_received(scratch[:nbytes])
            else:
                full = nbytes == len(view)
                receiver.filled(nbytes)
                scratch = self.scratch[:_BETWEEN_FRAMES_BYTES]
            if not (full or self._hung_up) or self._paused or self._closing or self._abandoned:
                return
        if self._hung_up:
            self._loop.call_soon(self._on_hangup)

    def _on_hangup(self) -> None:
        """No more comes, and nobody may wake us again: read to the end."""
        self._hung_up = True
        if not (self._receiver is None or self._eof or self._paused or self._closing or self._abandoned):
            self.read()

    def read_ended(self, error: OSError | None) -> None:
        """Whoever reads in our place has met the end of the stream, or an error."""
        if error is not None:
            self._lose(error)
        elif self._receiver is not None:
            self._on_eof(self._receiver)

    def _on_eof(self, receiver: Receiver) -> None:
        self._eof = True
        self._loop.remove_reader(self._fd)
        receiver.eof_received()

    def _discard(self) -> None:
        """Reading on after our last byte: what comes is of no interest, its end is."""
        try:
            if self._sock.recv_into(self.scratch):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._lose(None)

    def pause_reading(self) -> None:
        if not self._paused and not self._eof and not self._closing:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._paused and not self._closing and not self._abandoned:
            self._paused = False
            watch(self._loop, self._fd, self._reader)

    # --- writing -------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer | FileSlice]) -> None:
        if self._finishing or self._closing or self._abandoned:
            return
        if self._pending:
            self._keep(buffers, 0)
            return
        try:
            single = len(buffers) == 1
            sent = self._sock.send(buffers[0]) if single else self._sock.sendmsg(buffers[:_BUFFERS_PER_SEND])  # type: ignore[arg-type]
        except (BlockingIOError, InterruptedError):
            sent = 0
        except TypeError:  # a slice of a file is among them; nobody else pays for the question
            self._queue(buffers, 0)
            if self._send_pending(self._abandon) and self._pending:
                self._loop.add_writer(self._fd, self._on_writable)
            return
        except OSError as error:
            self._abandon(error)
            return
        if not single or sent < len(buffers[0]):
            self._keep(buffers, sent)

    def write_rest(self, buffers: Sequence[Buffer], sent: int) -> None:
        """As `write`, where somebody else has sent the first `sent` bytes already."""
        if sent:
            self._keep(buffers, sent)
        else:
            self.write(buffers)

    def _keep(self, buffers: Sequence[Buffer | FileSlice], sent: int) -> None:
        """Queue what could not be sent: everything behind the first `sent` bytes."""
        was_empty = not self._pending
        self._queue(buffers, sent)
        if was_empty and self._pending:
            self._loop.add_writer(self._fd, self._on_writable)

    def _queue(self, buffers: Sequence[Buffer | FileSlice], sent: int) -> None:
        pending = self._pending
        if pending is None:
            pending = self._pending = deque()
        for buffer in buffers:
            if sent >= len(buffer):
                sent -= len(buffer)
                continue
            rest = buffer[sent:] if isinstance(buffer, FileSlice) else memoryview(buffer)[sent:]
            sent = 0
            pending.append(rest)
            self._pending_bytes += len(rest)

    def _on_writable(self) -> None:
        if self._send_pending(self._lose) and not self._pending:
            self._all_sent()

    def _send_pending(self, fail: Callable[[OSError], None]) -> bool:
        """Send what the socket takes of what is pending; False: it failed, and `fail` was told."""
        pending = self._pending
        assert pending
        for _ in range(_SENDS_PER_TURN):
            try:
                due, sent = self._send_some(pending)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as error:
                fail(error)
                return False
            self._pending_bytes -= sent
            if self._closing:
                self._expect_progress()
            full = sent < due
            while pending and sent >= len(pending[0]):
                sent -= len(pending.popleft())
            if not pending:
                return True
            pending[0] = pending[0][sent:]
            if full:
                return True
        return True

    def _send_some(self, pending: deque[memoryview | FileSlice]) -> tuple[int, int]:
        """Offer the socket the slice of a file that is first, or all buffers before the next slice; what it took."""
        first = pending[0]
        if isinstance(first, FileSlice):
            return len(first), first.send(self._sock)
        buffers: list[memoryview] = []
        flags = 0
        for buffer in itertools.islice(pending, _BUFFERS_PER_SEND):
            if isinstance(buffer, FileSlice):
                flags = _MORE
                break
            buffers.append(buffer)
        return sum(map(len, buffers)), self._sock.sendmsg(buffers, (), flags)

    def _all_sent(self) -> None:
        self._pending = None
        self._loop.remove_writer(self._fd)
        if self._closing:
            self._end_writing()
        elif self._finishing:
            self._shutdown()
        elif self._receiver is not None:
            self._receiver.write_drained()

    # --- ends ----------------------------------------------------------------------------------------------------

    def finish_writing(self) -> None:
        if not self._finishing and not self._closing:
            self._finishing = True
            if not self._pending:
                self._shutdown()

    def close(self) -> None:
        if self._closing or self._abandoned:
            return
        self._closing = True
        self._expect_progress()
        if not self._eof:
            self._loop.remove_reader(self._fd)
        if not self._pending:
            self._end_writing()

    def _expect_progress(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._loop.call_later(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        if not self._abandoned:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._abandon(None)

    def _shutdown(self) -> None:
        with contextlib.suppress(OSError):  # the peer is gone already, and reading will say so
            self._sock.shutdown(socket.SHUT_WR)

    def _end_writing(self) -> None:
        """All is sent: say so, and wait for the peer's own end, without listening to it."""
        self._shutdown()
        if self._eof:
            self._abandon(None)
        else:
            self._loop.add_reader(self._fd, self._discard)

    def _abandon(self, error: Exception | None) -> None:
        """Lose the connection, but not from inside the caller's call; at once where nobody is to be told."""
        if not self._abandoned:
            self._abandoned = True
            if self._receiver is None:
                self._lose(error)
            else:
                self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        self._abandoned = self._closing = True
        if self._sock.fileno() != -1:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            if self._hangups is not None:
                self._hangups.remove(self._fd)
            self._sock.close()
        self._reader = _nothing_to_read
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._pending = None
        self._pending_bytes = 0
        if receiver is not None:
            receiver.connection_lost(error)


def _nothing_to_read() -> None:
    """The reader of a connection that is lost."""


MakeConnection = Callable[[socket.socket], Connection]


class SocketListener(Listener):
    """A bound, listening, non-blocking stream socket.

    Args:
        sock: ours from now on.
        endpoint: what was really bound.
        make: turns an accepted, non-blocking socket into a connection.
        accept: the kernel's; called for each connection.
        on_close: called once after the socket was closed (removes the socket file).
    """

    def __init__(
        self,
        sock: socket.socket,
        endpoint: Endpoint,
        make: MakeConnection,
        accept: Acceptor,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._sock = sock
        self._endpoint = endpoint
        self._make = make
        self._accept = accept
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self._paused = True
        self._retry: asyncio.TimerHandle | None = None
        self.resume()

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def resume(self) -> None:
        if self._paused and self._sock.fileno() != -1:
            self._paused = False
            self._loop.add_reader(self._fd, self._on_acceptable)

    async def close(self) -> None:
        self.pause()
        if self._sock.fileno() != -1:
            self._sock.close()
            if self._on_close is not None:
                self._on_close()

    def _on_acceptable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            sock.setblocking(False)
            self._admit(sock)
            if self._paused:
                return

    def _admit(self, sock: socket.socket) -> None:
        try:
            connection = self._make(sock)
        except OSError:  # reset before we looked at it
            sock.close()
            return
        try:
            self._accept(connection)
        except BaseException:
            connection.abort()
            raise

    def _rest(self, error: OSError) -> None:
        """Accepting fails: what is out of resources now is still so at once, so wait a little instead of spinning."""
        remedy = ""
        if error.errno in _OUT_OF_RESOURCES:
            remedy = ": raise the limit of open files (ulimit -n), or lower connections_max"
        _accept_failed.record(
            logging.WARNING, f"connections cannot be accepted{remedy}", endpoint=self._endpoint, reason=error.strerror
        )
        self.pause()
        self._retry = self._loop.call_later(_ACCEPT_RETRY_SECONDS, self.resume)


async def dial_socket(sock: socket.socket, address: object) -> None:
    """Connect a new socket; it is closed when that fails or is cancelled, and left non-blocking.

    Raises:
        OSError: what the system says.
    """
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
