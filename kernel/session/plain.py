"""A plain framing: one connection is one channel, bound to one service. No handshake, no credit, nothing in band.

What the protocol cannot say, the connection says: half-close is the connection's half-close, a reset aborts it, and
back-pressure is not to read (`wants_data`). Receiving and sending may be framed differently.
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
)

# What a queued message costs beside its bytes, so that empty ones are not free.
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
    """

    __slots__ = (
        "_client", "_ended", "_finishing", "_measure", "_moved", "_pieces", "_quiet_seconds_max",
        "_quiet_since", "_releasing", "_service", "_stream", "decoder", "encode", "layout",
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
    ) -> None:
        super().__init__(limits, None if decoder is None else decoder.wanted)
        self._client = client
        self.decoder = decoder
        self.encode = encode
        self.layout = layout
        self._measure = engine().measure
        self._service = service
        self._stream: Stream | None = None
        self._pieces: list[Buffer] = []
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
        return (
            stream is not None
            and stream.local_open
            and stream.remote_open
            and not (self._ended or self._finishing or self.events or stream.outgoing or stream.held_bytes)
        )

    def touch(self) -> None:
        """Something has moved, without the session's knowing."""
        self._moved = True

    def decoded(self, messages: list[bytes], nbytes: int) -> list[Event]:
        """Somebody else has fed our decoder `nbytes`, and these messages came out."""
        assert self.decoder is not None
        return self._take(self.decoder, messages, nbytes)

    def hold(self, nbytes: int) -> None:
        """The service was given messages of so many bytes, without the session's knowing."""
        assert self._stream is not None
        self._stream.held_bytes += nbytes
        self.wants_data = self._stream.held_bytes < self.limits.channel_credit_bytes

    def started(self) -> list[Event]:
        self.events.append(Ready())
        if not self._client:
            self._stream = Stream(0, self._service)
            self.events.append(OpenRequested(self._stream))
        return self.take_events()

    @property
    def streams(self) -> list[Stream]:
        return [self._stream] if self._stream is not None and not self._ended else []

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
        return self._take(self.decoder, self.decoder.filled(nbytes), nbytes)

    def received(self, data: Buffer) -> list[Event]:
        if self._ended or self.decoder is None:
            return []
        return self._take(self.decoder, self.decoder.feed(data), len(data))

    def messages(self, packets: list[bytes]) -> list[Event]:
        self._moved = True
        self._deliver(packets, sum(map(len, packets)) + _MESSAGE_COST_BYTES * len(packets))
        return self.take_events()

    def received_eof(self) -> list[Event]:
        self._moved = True
        if self._ended or self._stream is None:
            self._ended = True
            self.events.append(Ended(Code.OK, "", by_peer=True))
            return self.take_events()
        if self.decoder is not None:
            self._deliver(self.decoder.finish(), 0)
            if self.decoder.error is not None:
                return self._corrupt(self.decoder.error)
        self._stream.remote_open = False
        self.events.append(Finished(self._stream))
        self._end_if_over()
        return self.take_events()

    def _take(self, decoder: Decoder[bytes], messages: list[bytes], nbytes: int) -> list[Event]:
        stream = self._stream
        self._moved = True
        if decoder.error is not None:
            self._deliver(messages, nbytes)
            return self._corrupt(decoder.error)
        if not messages or stream is None:
            return self.take_events()
        stream.held_bytes += nbytes
        if stream.held_bytes >= self.limits.channel_credit_bytes:
            self.wants_data = False
        if not self.events:
            return [Messages(stream, messages, nbytes)]
        self.events.append(Messages(stream, messages, nbytes))
        return self.take_events()

    def _deliver(self, messages: list[bytes], cost: int) -> None:
        stream = self._stream
        if messages and stream is not None and not self._ended:
            stream.held_bytes += cost
            if stream.held_bytes >= self.limits.channel_credit_bytes:
                self.wants_data = False
            self.events.append(Messages(stream, messages, cost))

    def _corrupt(self, error: DecodeError) -> list[Event]:
        code = Code.FRAME_TOO_LARGE if error.code is ErrorCode.TOO_LARGE else Code.PROTOCOL
        self._end(code, str(error), by_peer=True)
        return self.take_events()

    def _end(self, code: Code, reason: str, *, by_peer: bool) -> None:
        if self._ended:
            return
        self._ended = True
        if self._stream is not None:
            self._stream.local_open = self._stream.remote_open = False
            self.events.append(Closed(self._stream, code, reason))
        self.events.append(Ended(code, reason, by_peer, abrupt=code is not Code.OK))

    def _end_if_over(self) -> None:
        stream = self._stream
        if stream is not None and not stream.local_open and (self._releasing or not stream.remote_open):
            self._end(Code.OK, "", by_peer=False)

    # --- from our side -------------------------------------------------------------------------------------------

    def open(self, service: str, *, pieces: bool = False) -> Stream:
        if self._stream is not None:
            raise UsageError("a plain framing has one channel in a connection: use framing=knl for many")
        if self._ended:
            raise ChannelClosed(Code.LOST, "the connection is over")
        self._stream = Stream(0, service)
        self._stream.accepted = True
        self.events.append(Opened(self._stream))
        return self._stream

    def accept(self, stream: Stream, *, pieces: bool = False) -> None:
        stream.accepted = True

    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        self._end(code, reason, by_peer=False)

    def send(self, stream: Stream, message: Buffer) -> None:
        if self._finishing or not stream.local_open:
            self._check_unfinished()
            return
        stream.outgoing.append(message)
        stream.outgoing_bytes += len(message)

    def send_many(self, stream: Stream, messages: list[bytes]) -> None:
        if self._finishing or not stream.local_open:
            self._check_unfinished()
            return
        stream.outgoing.extend(messages)
        stream.outgoing_bytes += self._measure(messages)[0]

    def send_piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        if message_bytes > self.limits.message_bytes_max:
            raise UsageError(
                f"a message of {message_bytes} bytes over a plain framing, the limit is "
                f"{self.limits.message_bytes_max} (message_bytes_max): use framing=knl"
            )
        self._pieces.append(piece)
        if last:
            message = b"".join(self._pieces)
            self._pieces = []
            if len(message) != message_bytes:
                raise UsageError(f"the pieces add up to {len(message)} bytes, {message_bytes} were announced")
            self.send(stream, message)

    def consumed(self, stream: Stream, nbytes: int) -> None:
        stream.held_bytes -= nbytes
        self.wants_data = stream.held_bytes < self.limits.channel_credit_bytes

    def finish(self, stream: Stream) -> None:
        if stream.local_open:
            self._finishing = True

    def release(self, stream: Stream) -> None:
        self._releasing = True
        self.finish(stream)
        if not stream.local_open:
            self._end_if_over()

    def reset(self, stream: Stream, code: Code, reason: str) -> None:
        stream.outgoing.clear()
        self._end(code, reason, by_peer=False)

    def ping(self, payload: bytes) -> None:
        raise UsageError("a plain framing has no ping: use framing=knl")

    def go_away(self, code: Code, reason: str) -> None:
        """Nothing in band says it; the channel that is open goes on."""

    def close(self, code: Code, reason: str) -> None:
        self._end(code, reason, by_peer=False)

    def data_to_send(self, bytes_max: int) -> list[Buffer]:
        stream = self._stream
        if stream is None or self._ended:
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
            stream.outgoing_bytes -= len(message)
            bytes_max -= len(message)
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

    def _check_unfinished(self) -> None:
        if self._finishing and not self._ended:
            raise ChannelClosed(Code.CANCELLED, "this side has finished the channel")
