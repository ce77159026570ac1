"""TLS over any connection of a stream: the protocol is OpenSSL's, in memory; the bytes go through the connection below.

    below.data_received -> incoming -> OpenSSL -> receiver.data_received        plaintext into one buffer for all
    write -> OpenSSL -> outgoing -> below.write                                 one write below for each write above

asyncio's own TLS keeps 256 KiB for each connection; here a connection keeps what OpenSSL keeps, and a server's not even
that until the client has said something. OpenSSL's buffers in memory never shrink, so what is large goes through them
in steps of `_STEP_BYTES`, which also lie in the processor's cache while they are worked on.

Invariants: nothing is delivered, and nobody is told that the connection is established, before the peer has been
verified. While reading is paused nothing is decrypted: what arrived waits below or in `_incoming`. Half-close is TLS's
own goodbye (close_notify), so an end without it is a truncation, and told as an error. `_held` is filled only by a
goodbye of ours: OpenSSL cannot say it with undecrypted input before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from kernel.api import Buffer, Connection, Principal, Receiver
from kernel.errors import ChannelClosed, Code

from .tls_opening import Opening
from .tls_words import explain, is_foreign

RECORD_BYTES = 16 * 1024
_STEP_BYTES = 4 * RECORD_BYTES
# OpenSSL answers some records by itself (key updates); a peer that does not read the answers gets no more.
_ANSWERS_BYTES_MAX = 1024 * 1024
# "Nothing to read for now", without asking OpenSSL, whose way to say it costs as much as a small record.
_NO_MORE = ssl.SSLWantReadError()
# What a server says in the clear, as fatal alerts: access denied, when it does not even begin; and protocol version, to
# who does not speak TLS.
_TURNED_AWAY = bytes.fromhex("15030300020231")
_WRONG_VERSION = bytes.fromhex("15030300020246")

Wrap = Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]
Verify = Callable[[ssl.SSLObject], tuple[Principal | None, bytes]]
"""Looks at the peer when the handshake is over: who it is, if it says so, and the channel binding. Raises ChannelClosed
to refuse it."""


class TlsConnection(Connection):
    """A connection with TLS around it. See `Connection` for what each method promises.

    Args:
        below: a stream, not started.
        wrap: makes the OpenSSL side of it.
        verify: see above.
        scratch: where plaintext is put before it is handed on; shared by the connections of an event loop.
        handshake_bytes_max: what the peer may send before the handshake is over.
    """

    __slots__ = (
        "_arrived", "_below", "_binding", "_closing", "_early", "_early_bytes", "_ended", "_error", "_established",
        "_finishing", "_handshake_bytes_left", "_held", "_incoming", "_loop", "_opening", "_outgoing", "_paused",
        "_principal", "_receiver", "_resuming", "_scratch", "_shaken", "_started", "_stop", "_tls", "_verify", "_wrap",
    )  # fmt: skip

    def __init__(
        self, below: Connection, wrap: Wrap, verify: Verify, scratch: memoryview, handshake_bytes_max: int
    ) -> None:
        self._below = below
        self._wrap = wrap
        self._verify = verify
        self._scratch = scratch
        self._handshake_bytes_left = handshake_bytes_max
        self._opening: Opening | None = Opening(handshake_bytes_max)
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        # What arrived and did not go to OpenSSL yet; only while it is being handed over.
        self._arrived: memoryview | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._tls: ssl.SSLObject | None = None
        self._principal = below.principal
        self._binding = b""
        self._early: list[Buffer] = []
        self._early_bytes = 0
        self._held: deque[bytes] = deque()
        # What reading has run into: no more input for now, the peer's goodbye, or an error.
        self._stop: ssl.SSLError | None = None
        self._shaken: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._started = False
        self._established = False
        self._paused = False
        self._resuming = False
        self._ended = False
        self._finishing = False
        self._closing = False

    @property
    def local(self) -> str:
        return self._below.local

    @property
    def peer(self) -> str:
        return self._below.peer

    @property
    def principal(self) -> Principal:
        return self._principal

    @property
    def channel_binding(self) -> bytes:
        return self._binding

    @property
    def established(self) -> bool:
        return self._established

    @property
    def write_pending_bytes(self) -> int:
        return self._early_bytes + self._below.write_pending_bytes

    # --- the handshake -----------------------------------------------------------------------------------------------

    async def shake_hands(self) -> None:
        """The client's side, before `start`: returns when the server has been verified.

        Raises:
            ChannelClosed: it is not who it should be, or does not speak TLS.
            OSError: the connection below was lost.
        """
        self._shaken = self._loop.create_future()
        self._opening = None
        self._begin()
        self._shake_hands(self._engine())
        await self._shaken

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if not self._started:
            self._begin()
        elif self._closing:
            self._loop.call_soon(self.connection_lost, None)
        else:
            self.resume_reading()

    def _begin(self) -> None:
        self._started = True
        self._below.start(self)

    def _engine(self) -> ssl.SSLObject:
        if self._tls is None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = self._wrap(self._incoming, self._outgoing)
        return self._tls

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        try:
            tls.do_handshake()
            principal, self._binding = self._verify(tls)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            if tls.server_side and is_foreign(error):
                self._below.write([_WRONG_VERSION])
            self._fail(explain(error, client=not tls.server_side))
        except ChannelClosed as error:
            self._fail(error)
        else:
            self._principal = principal or self._principal
            self._become_established()

    def _become_established(self) -> None:
        self._established = True
        self._opening = None
        early, self._early, self._early_bytes = self._early, [], 0
        self._encrypt(early)
        if self._shaken is not None:
            self._paused = True  # until the receiver is there
        if self._paused:
            self._below.pause_reading()
        if self._finishing:
            self._say_goodbye()
        if self._shaken is None and self._receiver is not None:
            self._receiver.connection_established()
        elif self._shaken is not None and not self._shaken.done():
            self._shaken.set_result(None)

    # --- the connection below calls ----------------------------------------------------------------------------------

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> None:
        raise AssertionError("filled() without wanted()")

    def messages_received(self, messages: list[bytes]) -> None:
        raise AssertionError("TLS needs a stream below")

    def connection_established(self) -> None:
        """A TLS beneath this one has come to terms; ours goes on."""

    def data_received(self, data: Buffer) -> None:
        if self._closing:
            return
        if not self._established:
            self._handshake_received(bytes(data))
            self._input_changed()
            return
        assert self._incoming is not None
        if len(data) <= _STEP_BYTES:
            self._incoming.write(data)
            self._input_changed()
            return
        self._arrived = memoryview(data)
        try:
            self._pass_on()
            self._input_changed()
        finally:
            while self._pass_on():
                pass

    def _pass_on(self) -> bool:
        """Let OpenSSL have the next step of what arrived; False: there is no more."""
        arrived = self._arrived
        if arrived is None:
            return False
        assert self._incoming is not None
        self._incoming.write(arrived[:_STEP_BYTES])
        self._arrived = arrived[_STEP_BYTES:] if len(arrived) > _STEP_BYTES else None
        return True

    def _handshake_received(self, data: bytes) -> None:
        self._handshake_bytes_left -= len(data)
        permitted = data if self._opening is None else self._opening.take(data)
        if permitted:
            tls = self._engine()
            assert self._incoming is not None
            self._incoming.write(permitted)
            self._shake_hands(tls)
        if permitted is None or (self._handshake_bytes_left < 0 and not self._established):
            reason = "more than a TLS handshake may bring (tls_handshake_bytes_max)"
            self._fail(ChannelClosed(Code.PROTOCOL, reason))

    def eof_received(self) -> None:
        if self._closing:
            return
        if self._incoming is None or not self._established:
            self._fail(ChannelClosed(Code.LOST, "the peer hung up during the TLS handshake"))
            return
        self._incoming.write_eof()
        self._input_changed()

    def write_drained(self) -> None:
        if self._established and not self._closing and self._receiver is not None:
            self._receiver.write_drained()

    def connection_lost(self, error: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        self._closing = True
        self._early, self._early_bytes = [], 0
        self._held.clear()
        self._error = self._error or error
        if receiver is not None:
            receiver.connection_lost(self._error)
        elif self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(self._error or ConnectionResetError("the server hung up"))

    # --- reading -----------------------------------------------------------------------------------------------------

    def _input_changed(self) -> None:
        if isinstance(self._stop, ssl.SSLWantReadError):
            self._stop = None
        if self._established:
            self._deliver()

    def _deliver(self) -> None:
        """Decrypt and hand on what there is, as long as the receiver takes it."""
        while self._receiver is not None and not (self._paused or self._ended or self._closing):
            if self._held:
                self._receiver.data_received(self._held.popleft())
            elif self._stop is None:
                self._deliver_next(self._receiver)
            else:
                self._deliver_stop(self._receiver, self._stop)
                break
        if self._outgoing is not None and self._outgoing.pending:
            self._answer()

    def _deliver_next(self, receiver: Receiver) -> None:
        view = receiver.wanted()
        nbytes = self._decrypt(self._scratch if view is None else view)
        if nbytes and view is None:
            receiver.data_received(self._scratch[:nbytes])
        elif nbytes:
            receiver.filled(nbytes)

    def _deliver_stop(self, receiver: Receiver, stop: ssl.SSLError) -> None:
        if isinstance(stop, ssl.SSLZeroReturnError):
            self._ended = True
            receiver.eof_received()
        elif not isinstance(stop, ssl.SSLWantReadError):
            self._fail(explain(stop, client=self._shaken is not None))

    def _decrypt(self, view: memoryview) -> int:
        """Fill the view as far as the input goes; `_stop` says what it ran into, if anything."""
        assert self._tls is not None
        assert self._incoming is not None
        read, incoming = self._tls.read, self._incoming
        filled, room = 0, len(view)
        while room:
            try:
                nbytes: int = read(room, view[filled:] if filled else view)  # type: ignore[assignment]
            except ssl.SSLError as stop:
                if not (isinstance(stop, ssl.SSLWantReadError) and self._pass_on()):
                    self._stop = stop.with_traceback(None)  # which would hold on to the view
                    break
                continue
            if not nbytes:
                self._stop = ssl.SSLZeroReturnError()
                break
            filled += nbytes
            room -= nbytes
            if room and not (incoming.pending or incoming.eof or self._pass_on()):
                self._stop = _NO_MORE
                break
        return filled

    def pause_reading(self) -> None:
        self._paused = True
        if self._established:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._below.resume_reading()
            if not self._resuming:
                self._resuming = True
                self._loop.call_soon(self._on_resumed)

    def _on_resumed(self) -> None:
        self._resuming = False
        if self._established:
            self._deliver()

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self._finishing or self._closing:
            return
        if self._established:
            self._encrypt(buffers)
        else:
            self._early += buffers
            self._early_bytes += sum(map(len, buffers))

    def _encrypt(self, buffers: Sequence[Buffer]) -> None:
        assert self._tls is not None
        assert self._outgoing is not None
        write, outgoing = self._tls.write, self._outgoing
        said: list[Buffer] = []  # leaves by one call
        failure: ssl.SSLError | None = None
        try:
            for piece in _pieces(buffers):
                write(piece)
                if outgoing.pending > _STEP_BYTES:
                    said.append(outgoing.read())
        except ssl.SSLError as error:
            failure = error.with_traceback(None)  # which would hold on to this frame, and so to us
        if outgoing.pending:
            said.append(outgoing.read())
        if said:
            self._below.write(said)
        if failure is not None:
            self._fail(explain(failure, client=self._shaken is not None))

    def _flush(self) -> None:
        if self._outgoing is not None and self._outgoing.pending:
            said = self._outgoing.read()
            if self._opening is not None:
                self._opening.answered(said)
            self._below.write([said])

    def _answer(self) -> None:
        """What OpenSSL has to say to what the peer sent."""
        self._flush()
        if self._below.write_pending_bytes > _ANSWERS_BYTES_MAX:
            self._error = self._error or ChannelClosed(Code.SLOW_READER, "the peer does not read")
            self.abort()

    # --- ends --------------------------------------------------------------------------------------------------------

    def finish_writing(self) -> None:
        if not self._finishing and not self._closing:
            self._finishing = True
            if self._established:
                self._say_goodbye()

    def _say_goodbye(self) -> None:
        assert self._tls is not None
        while self._stop is None:
            if nbytes := self._decrypt(self._scratch):
                self._held.append(bytes(self._scratch[:nbytes]))
        with contextlib.suppress(ssl.SSLError):  # the peer's goodbye is still to come
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        if self._closing:
            return
        if self._established and not self._finishing:
            self._say_goodbye()
        elif self._tls is None:
            self._below.write([_TURNED_AWAY])
        self._closing = True
        self._held.clear()
        self._below.close()

    def abort(self) -> None:
        self._closing = True
        self._below.abort()

    def _fail(self, error: Exception) -> None:
        """Say by an alert what was wrong, if OpenSSL has one to say, and end."""
        if not self._closing:
            self._closing = True
            self._error = error
            self._flush()
            self._below.close()
            if self._shaken is not None and not self._shaken.done():
                self._shaken.set_exception(error)


def _pieces(buffers: Sequence[Buffer]) -> Iterable[Buffer]:
    """What OpenSSL gets at once: small buffers are joined to a record's length, large ones cut into steps."""
    total_bytes = sum(map(len, buffers))
    if total_bytes > RECORD_BYTES:
        return _records(buffers)
    return (b"".join(buffers),) if total_bytes else ()


def _records(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """The same, where it is more than a record."""
    batch: list[Buffer] = []
    room = RECORD_BYTES
    for buffer in buffers:
        if len(buffer) > room:
            if batch:
                yield b"".join(batch)
            batch, room = [], RECORD_BYTES
            if len(buffer) > room:
                view = memoryview(buffer)
                yield from (view[at : at + _STEP_BYTES] for at in range(0, len(view), _STEP_BYTES))
                continue
        if len(buffer):
            batch.append(buffer)
            room -= len(buffer)
    if batch:
        yield b"".join(batch)
