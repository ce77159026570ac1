"""A plain framing: one connection is one channel, bound to one service. No handshake, no credit, nothing in band.

What the protocol cannot say, the connection says: half-close is the connection's half-close, a reset aborts it, and
back-pressure is not to read (`wants_data`). Receiving and sending may be framed differently. A client's session reads
only when its channel is open: the first words of a server that speaks first must not be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernel.api import Buffer
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.framing import engine
from kernel.framing.errors import DecodeError, EncodeError, ErrorCode
from kernel.framing.interface import Decoder
from kernel.framing.layout import Length
from kernel.limits import Limits
from kernel.session.base import (
    Closed,
    Ended,
    Event,
    Finished,
    Messages,
    Opened,
    OpenRequested,
    Ready,
    Session,
    Stream,
    Writable,
    rest_after_piece,
)

# What a message costs beside its bytes, on its way in and out, so that empty ones are not free.
_MESSAGE_COST_BYTES = 16

Encode = Callable[[Sequence[Buffer]], list[Buffer]]


class PlainSession(Session):
    """One channel over one connection.

    Args:
        client: this side dialled.
        decoder: cuts what arrives into messages; None where the transport preserves messages.
        encode: makes the buffers to write from queued messages.
        service: at the server, the service that the listener is bound to.
        layout: the length layout, where it is the same both ways.
        check: raises EncodeError for a message that the framing cannot carry, when it is sent; None: nobody looks
            before it is encoded.
    """

    __slots__ = (
        "_check", "_client", "_early", "_ended", "_finishing", "_measure", "_moved", "_opened", "_piece_rest_bytes",
        "_pieces", "_quiet_seconds_max", "_quiet_since", "_releasing", "_sends", "_stream", "decoder", "encode",
        "layout",
    )  # fmt: skip

    def __init__(
        self,
        *,
        client: bool,
        decoder: Decoder[bytes] | None,
        encode: Encode,
        limits: Limits,
        service: str = "",
        layout: Length | None = None,
        check: Callable[[Buffer], None] | None = None,
    ) -> None:
        super().__init__(limits, None if decoder is None else decoder.wanted)
        self._client = client
        self.decoder = decoder
        self.encode = encode
        self.layout = layout
        self._check = check
        self._measure = engine().measure
        self._stream = Stream(0, service)
        self._opened = not client
        self.wants_data = self._opened
        self._early: list[Event] = []
        self._pieces: list[Buffer] = []
        self._piece_rest_bytes: int | None = None
        self._sends = True
        self._ended = False
        self._releasing = False
        self._finishing = False
        self._moved = False
        self._quiet_since: float | None = None
        self._quiet_seconds_max = limits.first_byte_seconds_max

    @property
    def at_rest(self) -> bool:
        """Nothing is queued, held, ending or to be told: a message could as well pass without the session's knowing."""
        stream = self._stream
        busy = self.events or stream.outgoing or stream.held_bytes
        return self._opened and self._sends and stream.remote_open and not busy

    def stream_at_rest(self, stream: Stream) -> bool:
        """There is only this stream."""
        return self.at_rest

    def touch(self) -> None:
        """Something has moved, without the session's knowing."""
        self._moved = True

    def decoded(self, messages: list[bytes]) -> list[Event]:
        """Somebody else has fed our decoder, and these messages came out."""
        assert self.decoder is not None
        return self._take(self.decoder, messages)

    def hold(self, stream: Stream, nbytes: int) -> None:
        """The service was given messages of so many bytes, without the session's knowing."""
        stream.held_bytes += nbytes
        self.wants_data = self._stream.held_bytes < self.limits.channel_credit_bytes

    def started(self) -> list[Event]:
        self.events.append(Ready())
        if not self._client:
            self.events.append(OpenRequested(self._stream))
        return self.take_events()

    @property
    def streams(self) -> list[Stream]:
        return [self._stream] if self._opened and not self._ended else []

    def tick(self, now: float) -> list[Event]:
        """There is no ping: what a server sees is whether anything moves at all. Clients wait as long as they like."""
        if self._moved or self._quiet_since is None:
            if self._moved:
                self._quiet_seconds_max = self.limits.silence_seconds_max
            self._moved, self._quiet_since = False, now
        elif not self._client and now - self._quiet_since >= self._quiet_seconds_max:
            self._end(Code.IDLE, f"nothing has moved for {self._quiet_seconds_max:g} s", by_peer=True)
        return self.take_events()

    # --- from the peer -------------------------------------------------------------------------------------------

    def filled(self, nbytes: int) -> list[Event]:
        assert self.decoder is not None
        return [] if self._ended else self._take(self.decoder, self.decoder.filled(nbytes))

    def received(self, data: Buffer) -> list[Event]:
        if self._ended or self.decoder is None:
            return []
        return self._take(self.decoder, self.decoder.feed(data))

    def messages(self, packets: list[bytes]) -> list[Event]:
        if self._ended or not packets:
            return []
        self._moved = True
        self._tell(self._hold(packets))
        return self.take_events()

    def received_eof(self) -> list[Event]:
        if self._ended:
            return []
        self._moved = True
        if self.decoder is not None:
            last = self.decoder.finish()
            if last:
                self._tell(self._hold(last))
            if self.decoder.error is not None:
                return self._corrupt(self.decoder.error)
        self._stream.remote_open = False
        self._tell(Finished(self._stream))
        self._end_if_over()
        return self.take_events()

    def _take(self, decoder: Decoder[bytes], messages: list[bytes]) -> list[Event]:
        self._moved = True
        if messages:
            event = self._hold(messages)
            if self._opened and not self.events and decoder.error is None:
                return [event]
            self._tell(event)
        return self.take_events() if decoder.error is None else self._corrupt(decoder.error)

    def _hold(self, messages: list[bytes]) -> Messages:
        """The service holds so much more; from its window on, nothing more is read."""
        stream = self._stream
        cost = self._measure(messages)[0] + _MESSAGE_COST_BYTES * len(messages)
        stream.held_bytes += cost
        if stream.held_bytes >= self.limits.channel_credit_bytes:
            self.wants_data = False
        return Messages(stream, messages, cost)

    def _tell(self, event: Event) -> None:
        """Of the stream; a client is told when it has opened it."""
        (self.events if self._opened else self._early).append(event)

    def _corrupt(self, error: DecodeError) -> list[Event]:
        code = Code.FRAME_TOO_LARGE if error.code is ErrorCode.TOO_LARGE else Code.PROTOCOL
        self._end(code, str(error), by_peer=True)
        return self.take_events()

    def _end(self, code: Code, reason: str, *, by_peer: bool) -> None:
        if self._ended:
            return
        stream = self._stream
        self._ended = True
        self._sends = False
        self._pieces.clear()
        stream.local_open = stream.remote_open = stream.wants_writable = False
        stream.outgoing = None
        stream.outgoing_bytes = 0
        if self._opened:
            self.events.append(Closed(stream, code, reason))
        self.events.append(Ended(code, reason, by_peer, abrupt=code is not Code.OK))

    def _end_if_over(self) -> None:
        stream = self._stream
        if not stream.local_open and (self._releasing or not stream.remote_open):
            self._end(Code.OK, "", by_peer=False)

    # --- from our side -------------------------------------------------------------------------------------------

    def open(self, service: str, *, pieces: bool = False) -> Stream:
        stream = self._stream
        if self._opened:
            raise UsageError("a plain framing has one channel in a connection: use framing=knl for many")
        if self._ended:
            raise ChannelClosed(Code.LOST, "the connection is over: dial again")
        stream.service = service
        stream.accepted = self._opened = True
        self.wants_data = stream.held_bytes < self.limits.channel_credit_bytes
        self.events += [Opened(stream), *self._early]
        self._early.clear()
        return stream

    def accept(self, stream: Stream, *, pieces: bool = False) -> None:
        stream.accepted = True

    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        self._end(code, reason, by_peer=False)

    def send(self, stream: Stream, message: Buffer) -> None:
        if not self._sends:
            self._check_sendable()
            return
        if self._check is not None:
            self._check_content(message)
        stream.queue().append(message)
        stream.outgoing_bytes += _MESSAGE_COST_BYTES + len(message)

    def send_many(self, stream: Stream, messages: list[bytes]) -> None:
        if not self._sends:
            self._check_sendable()
            return
        if self._check is not None:
            for message in messages:
                self._check_content(message)
        stream.queue().extend(messages)
        stream.outgoing_bytes += self._measure(messages)[0] + _MESSAGE_COST_BYTES * len(messages)

    def send_piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        """The pieces are kept until the message is whole: most framings say its length in front of it."""
        if self._ended or self._finishing:
            self._check_sendable()
            return
        if message_bytes > self.limits.message_bytes_max:
            raise UsageError(
                f"a message of {message_bytes} bytes over a plain framing, the limit is "
                f"{self.limits.message_bytes_max} (message_bytes_max): use framing=knl"
            )
        rest = rest_after_piece(self._piece_rest_bytes, len(piece), message_bytes, last)
        self._pieces.append(piece)
        self._sends = last
        self._piece_rest_bytes = None if last else rest
        if last:
            message = b"".join(self._pieces)
            self._pieces.clear()
            self.send(stream, message)

    def _check_content(self, message: Buffer) -> None:
        assert self._check is not None
        try:
            self._check(message)
        except EncodeError as error:
            raise UsageError(str(error)) from None

    def _check_sendable(self) -> None:
        """Why no message can be sent now. On a stream that is over, and nobody has seen that yet, it goes nowhere."""
        if self._finishing and not self._ended:
            raise ChannelClosed(Code.CANCELLED, "this side has finished the channel")
        if self._piece_rest_bytes is not None and not self._ended:
            raise UsageError(f"a message is being sent in pieces: {self._piece_rest_bytes} bytes of it are missing")

    def consumed(self, stream: Stream, nbytes: int) -> None:
        stream.held_bytes -= nbytes
        self.wants_data = stream.held_bytes < self.limits.channel_credit_bytes

    def finish(self, stream: Stream) -> None:
        if stream.local_open and not self._finishing:
            self._check_sendable()
            self._finishing = True
            self._sends = False

    def release(self, stream: Stream) -> None:
        if self._piece_rest_bytes is not None:
            self._end(Code.CANCELLED, "the last message was not sent to its end", by_peer=False)
            return
        self._releasing = True
        self.finish(stream)
        self._end_if_over()

    def reset(self, stream: Stream, code: Code, reason: str) -> None:
        self._end(code, reason, by_peer=False)

    def ping(self, payload: bytes) -> None:
        raise UsageError("a plain framing has no ping: use framing=knl")

    def go_away(self, code: Code, reason: str) -> None:
        """Nothing in band says it; the channel that is open goes on."""

    def close(self, code: Code, reason: str) -> None:
        self._end(code, reason, by_peer=False)

    def data_to_send(self, bytes_max: int) -> list[Buffer]:
        stream = self._stream
        if self._ended:
            return []
        buffers: list[Buffer] = []
        outgoing = stream.outgoing
        if outgoing:
            self._moved = True
            if stream.outgoing_bytes <= bytes_max:
                messages: Sequence[Buffer] = list(outgoing)
                outgoing.clear()
                stream.outgoing_bytes = 0
            else:
                messages = self._take_some(stream, bytes_max)
            try:
                buffers = self.encode(messages)
            except EncodeError as error:
                self._end(Code.INTERNAL, str(error), by_peer=False)
                return []
        self.has_more = bool(outgoing)
        if not outgoing and (stream.wants_writable or self._finishing):
            self._emptied(stream)
        return buffers

    def _take_some(self, stream: Stream, bytes_max: int) -> list[Buffer]:
        messages: list[Buffer] = []
        while stream.outgoing and bytes_max > 0:
            message = stream.outgoing.popleft()
            cost = _MESSAGE_COST_BYTES + len(message)
            stream.outgoing_bytes -= cost
            bytes_max -= cost
            messages.append(message)
        return messages

    def _emptied(self, stream: Stream) -> None:
        if stream.wants_writable:
            stream.wants_writable = False
            self.events.append(Writable(stream))
        if self._finishing and stream.local_open:
            stream.local_open = False
            self.write_finished = True
            self._end_if_over()
