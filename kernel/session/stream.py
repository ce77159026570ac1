"""KNL/1 over a stream of bytes: many channels in one connection. docs/protocol.md is the specification.

Here stand the state machine, the control frames and the table of channels. The receiving half of the channels is the
inbox, the sending half the outbox, the way to READY the handshake. A peer's fault is raised as `Fault` and becomes
ERROR and `Ended` at one place (`_fail`).

Channels: the client's numbers are odd, the server's even, each side counts up and never uses one twice. So a frame
for a channel that is unknown and not above the last one is late, and for any other unknown channel it is a fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from kernel.api import Buffer
from kernel.errors import ChannelClosed, Code, Refused, UsageError
from kernel.framing import Knl, engine, knl
from kernel.framing.interface import Run
from kernel.limits import Limits
from kernel.session import fields, reasons
from kernel.session.account import NOTHING, account_maker
from kernel.session.base import (
    Closed,
    Ended,
    Event,
    Fault,
    GoingAway,
    Opened,
    OpenRequested,
    Pong,
    Ready,
    Session,
    Stream,
)
from kernel.session.handshake import (
    CREDIT_BYTES_MAX,
    NO_MECHANISM,
    Authenticator,
    Handshake,
    Hello,
)
from kernel.session.inbox import Inbox, ReceiveState, StreamFault
from kernel.session.outbox import CONTROL_BYTES_MAX, Outbox, SendState
from kernel.session.preface import PREFACE
from kernel.slices import FileSlice

SERVICE_BYTES_MAX = 255
PING_BYTES_MAX = 64
CHANNEL_MAX = 2**32 - 1

_OPEN_SERVICE = 1
_CREDIT = struct.Struct(">I")
_GOAWAY = struct.Struct(">HI")
# A CREDIT of at least this much, or of half a window, answers as much data of ours: it counts as no control frame.
_FREE_CREDIT_BYTES = 4 * 1024


class _State:
    """What a stream's two halves keep; both know only their own."""

    __slots__ = ("receive", "send")

    def __init__(self) -> None:
        self.receive = ReceiveState()
        self.send = SendState()


class StreamSession(Session):
    """One connection's KNL/1 state, either role.

    Args:
        client: this side dialled.
        limits: what we allow the peer; HELLO announces it.
        authenticator: made for this connection, or None where nobody asks.
        checksums: ask the peer to checksum its payloads too.
        engine_name: which framing engine; None: the process's own.
    """

    __slots__ = (
        "_client", "_control_tokens", "_ended", "_engine", "_free_credit_bytes", "_going_away", "_handshake", "_heard",
        "_heard_at", "_inbox", "_make_account", "_next_channel", "_outbox", "_peer", "_peer_channel_last",
        "_peer_going_away", "_pinged", "_started_at", "_streams", "_ticked_at", "account", "decoder",
    )  # fmt: skip

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        authenticator: Authenticator | None = None,
        checksums: bool = False,
        engine_name: str | None = None,
    ) -> None:
        self._engine = engine(engine_name)
        self.decoder = self._engine.decoder(Knl(limits.frame_bytes_max))
        super().__init__(limits, self.decoder.wanted)
        self._client = client
        mechanism = authenticator.mechanism if authenticator else NO_MECHANISM
        self._handshake: Handshake | None = Handshake(
            client=client,
            hello=Hello.of(limits, checksums=checksums, mechanism=mechanism),
            authenticator=authenticator,
            limits=limits,
        )
        self._peer: Hello | None = None
        self._make_account = account_maker(self._engine)
        self.account = self._make_account(limits.connection_credit_bytes, 0)
        self._outbox = Outbox(self._engine, self.events, self.account)
        self._inbox = Inbox(limits, self._engine, self._outbox, self.account)
        self._streams: dict[int, Stream] = {}
        self._next_channel = 1 if client else 2
        self._peer_channel_last = 0
        self._ended = False
        self._going_away = False
        self._peer_going_away = False
        self._heard = True
        self._heard_at = 0.0
        self._pinged = False
        self._started_at: float | None = None
        self._ticked_at = 0.0
        self._control_tokens = float(limits.control_frames_per_second_max)
        self._free_credit_bytes = _FREE_CREDIT_BYTES

    # --- life ----------------------------------------------------------------------------------------------------

    def started(self) -> list[Event]:
        assert self._handshake is not None
        self._outbox.raw(PREFACE)
        self._outbox.control(knl.HELLO, 0, self._handshake.hello.pack())
        return []

    @property
    def streams(self) -> list[Stream]:
        return list(self._streams.values())

    def tick(self, now: float) -> list[Event]:
        if self._ended:
            return []
        if self._started_at is None:
            self._started_at = self._heard_at = self._ticked_at = now
        elapsed, self._ticked_at = now - self._ticked_at, now
        rate = self.limits.control_frames_per_second_max
        self._control_tokens = min(rate, self._control_tokens + elapsed * rate)
        if self._handshake is not None and now - self._started_at >= self.limits.handshake_seconds_max:
            self._fail(Fault(Code.HANDSHAKE_TIMEOUT, f"no handshake within {self.limits.handshake_seconds_max:g} s"))
        elif self._heard:
            self._heard, self._heard_at, self._pinged = False, now, False
        elif now - self._heard_at >= self.limits.idle_seconds_max:
            self._fail(Fault(Code.IDLE, f"nothing heard for {self.limits.idle_seconds_max:g} s, pings unanswered"))
        elif now - self._heard_at >= self.limits.ping_interval_seconds and not self._pinged and not self._handshake:
            self._pinged = True
            self.ping(b"")
        return self.take_events()

    @property
    def over(self) -> bool:
        """`Ended` has been given."""
        return self._ended

    def close(self, code: Code, reason: str) -> None:
        if self._ended:
            return
        if code is Code.OK:
            self.go_away(code, reason)
        else:
            self._outbox.control(knl.ERROR, 0, reasons.pack_code(code, reason))
        self._end(code, reason, by_peer=False)

    def received_eof(self) -> list[Event]:
        if self._ended:
            return []
        if self._handshake is not None:
            self._end(Code.LOST, "the peer closed the connection during the handshake", by_peer=True)
        elif self._streams or self.decoder.pending_bytes:
            self._end(Code.LOST, "the peer closed the connection", by_peer=True)
        else:
            self._end(Code.OK, "", by_peer=True)
        return self.take_events()

    def _fail(self, fault: Fault) -> None:
        self._outbox.control(knl.ERROR, 0, reasons.pack_code(fault.code, fault.reason))
        self._end(fault.code, fault.detail, by_peer=True)

    def _end(self, code: Code, reason: str, *, by_peer: bool) -> None:
        self._ended = True
        self._handshake = None
        self._outbox.end()
        for stream in self.streams:
            self._over(stream, Code.LOST if code is Code.OK else code, reason)
        self.events.append(Ended(code, reason, by_peer))

    # --- bytes in ------------------------------------------------------------------------------------------------

    def filled(self, nbytes: int) -> list[Event]:
        return self._take_runs(lambda: self.decoder.filled(nbytes))

    def received(self, data: Buffer) -> list[Event]:
        handshake = self._handshake
        if handshake is None:
            return self._take_runs(lambda: self.decoder.feed(data))
        return self._take_runs(lambda: self._handshake_runs(handshake, bytes(data)))

    def messages(self, packets: list[bytes]) -> list[Event]:
        return [event for packet in packets for event in self.received(packet)]

    def _handshake_runs(self, handshake: Handshake, data: bytes) -> Iterator[Run]:
        """Frame by frame up to READY, then all that came behind it."""
        for frame in handshake.frames(data):
            yield from self.decoder.feed(frame)
            if self.decoder.error is not None:
                return
        if handshake.ready and handshake.rest:
            yield from self.decoder.feed(handshake.rest)

    def _take_runs(self, decode: Callable[[], Iterable[Run]]) -> list[Event]:
        if self._ended:
            return []
        self._heard = True
        try:
            self._check_control_backlog()
            for frame_type, flags, channel, payloads, payload_bytes in decode():
                if frame_type == knl.DATA:
                    self._on_data(flags, channel, payloads, payload_bytes)
                else:
                    self._on_control(frame_type, flags, channel, payloads)
                if self.over:
                    return self.take_events()
            if self.decoder.error is not None:
                raise reasons.framing_fault(self.decoder.error)
        except Fault as fault:
            self._fail(fault)
        return self.take_events()

    # --- for a lane ------------------------------------------------------------------------------------------------

    @property
    def lane_terms(self) -> tuple[int, ...]:
        """What both sides have agreed on, as `knl_lane` (csrc/bridge_lane.c) takes it; after the handshake."""
        windows = (self.limits.channel_credit_bytes, self.limits.connection_credit_bytes)
        return (*self._outbox.terms, self._free_credit_bytes, *windows)

    @property
    def at_rest(self) -> bool:
        """Nothing is queued, ending or to be told: DATA could as well pass without the session's knowing."""
        ready = self._handshake is None and not self._ended and not self.events
        return ready and self._outbox.at_rest and self._inbox.at_rest

    def stream_at_rest(self, stream: Stream) -> bool:
        """Nothing is queued or held on the stream, and both sides may send."""
        is_open = stream.accepted and stream.remote_open and stream.local_open and stream.channel in self._streams
        return is_open and not stream.held_bytes and self._outbox.is_idle(stream) and self._inbox.is_idle(stream)

    def touch(self) -> None:
        """Something was heard, without the session's knowing."""
        self._heard = True

    def decoded(self, runs: list[Run]) -> list[Event]:
        """Somebody else has fed our decoder, and these runs came out."""
        return self._take_runs(lambda: runs)

    def hold(self, stream: Stream, nbytes: int) -> None:
        """The service was given messages that cost so much, without the session's knowing."""
        self._inbox.hold(stream, nbytes, over=stream.channel not in self._streams)

    # --- DATA ----------------------------------------------------------------------------------------------------

    def _on_data(self, flags: int, channel: int, payloads: list[bytes], payload_bytes: int) -> None:
        if self._handshake is not None:
            raise Fault(Code.PROTOCOL, "DATA before the handshake has ended")
        cost = 0 if flags & knl.FIN else payload_bytes + knl.HEADER_BYTES * len(payloads)
        stream = self._streams.get(channel)
        if stream is None:
            self._check_late(channel)
            self._inbox.discard(cost)
            return
        self._inbox.spend(stream, cost)
        if stream.accepted:
            self._deliver(stream, flags, payloads, cost)
        elif self._is_peers(channel):
            stream.state.receive.early.append((flags, payloads, cost))
        else:
            raise Fault(Code.PROTOCOL, f"DATA on channel {channel} before ACCEPT")

    def _deliver(self, stream: Stream, flags: int, payloads: list[bytes], cost: int) -> None:
        if flags & knl.FIN:
            self._inbox.finish(stream, payloads)
            if not stream.local_open:
                self._over(stream, Code.OK, "")
            return
        try:
            self._inbox.receive(stream, flags, payloads, cost)
        except StreamFault as fault:
            self.reset(stream, fault.code, fault.reason)

    def consumed(self, stream: Stream, nbytes: int) -> None:
        if stream.channel in self._streams:
            self._inbox.consumed(stream, nbytes)

    # --- control frames ------------------------------------------------------------------------------------------

    def _on_control(self, frame_type: int, flags: int, channel: int, payloads: list[bytes]) -> None:
        self._control_tokens -= len(payloads)
        handler = _HANDLERS.get(frame_type)
        if handler is not None:
            self._check_place(frame_type, channel)
            for payload in payloads:
                if len(payload) > CONTROL_BYTES_MAX:
                    raise Fault(Code.PROTOCOL, f"a frame of type {frame_type} with {len(payload)} bytes")
                handler(self, channel, payload)
                if self._ended:
                    return
        elif not flags & knl.IGNORABLE:
            raise Fault(Code.PROTOCOL, f"a frame of type {frame_type}, which this version does not know")
        if self._control_tokens < 0:
            limit = self.limits.control_frames_per_second_max
            raise Fault(Code.RATE_LIMITED, f"more than {limit} control frames a second (control_frames_per_second_max)")

    def _check_place(self, frame_type: int, channel: int) -> None:
        """Some frames belong to the connection, and only some may come before READY."""
        if channel and frame_type in _CONNECTION_TYPES:
            raise Fault(Code.PROTOCOL, f"a frame of type {frame_type} on channel {channel}: it has no channel")
        if self._handshake is not None and frame_type not in _HANDSHAKE_TYPES:
            raise Fault(Code.PROTOCOL, f"a frame of type {frame_type} before the handshake has ended")

    def _check_control_backlog(self) -> None:
        """Answers are still here that the last read brought about: a peer that does not read them gets no more."""
        limit = self.limits.control_buffer_bytes_max
        if self._outbox.control_bytes > limit:
            raise Fault(
                Code.SLOW_READER, f"more than {limit} bytes of answers wait to be read (control_buffer_bytes_max)"
            )

    def _on_hello(self, _channel: int, payload: bytes) -> None:
        if self._handshake is None:
            raise Fault(Code.PROTOCOL, "HELLO after the handshake")
        self._continue_handshake(self._handshake, self._handshake.received_hello(payload))

    def _on_auth(self, _channel: int, payload: bytes) -> None:
        if self._handshake is None:
            raise Fault(Code.PROTOCOL, "AUTH after the handshake")
        self._continue_handshake(self._handshake, self._handshake.received_auth(payload))

    def _continue_handshake(self, handshake: Handshake, auth_payload: bytes | None) -> None:
        if auth_payload is not None:
            self._outbox.control(knl.AUTH, 0, auth_payload)
        if not handshake.ready:
            return
        self._handshake = None
        self._peer = peer = handshake.peer
        assert peer is not None
        # Credit comes back in halves of a window: a frame that needs more than a half could wait for ever.
        half_window_bytes = min(peer.channel_credit_bytes, peer.connection_credit_bytes) // 2
        self._free_credit_bytes = min(_FREE_CREDIT_BYTES, half_window_bytes)
        self._outbox.configure(
            peer,
            min(peer.frame_bytes_max, self.limits.frame_bytes_max, half_window_bytes - knl.HEADER_BYTES),
            checksums=peer.checksums or handshake.hello.checksums,
        )
        self.events.append(Ready(handshake.principal, {"software": peer.software, "mechanism": peer.mechanism}))

    def _on_open(self, channel: int, payload: bytes) -> None:
        assert self._peer is not None
        if not self._is_peers(channel) and channel in self._streams:
            raise Fault(
                Code.PROTOCOL,
                f"OPEN of channel {channel}, which is ours: the peer sends back what it gets, "
                "it may serve ?framing=raw, and wants to be asked so",
            )
        if not self._is_peers(channel) or channel <= self._peer_channel_last:
            raise Fault(Code.PROTOCOL, f"OPEN of channel {channel}, which is not the peer's next")
        try:
            name = fields.unpack(payload).get(_OPEN_SERVICE, b"")
        except fields.FieldsError as error:
            raise Fault(Code.PROTOCOL, f"OPEN cannot be read: {error}") from None
        if len(name) > SERVICE_BYTES_MAX:
            raise Fault(Code.PROTOCOL, f"OPEN names a service by {len(name)} bytes, the limit is {SERVICE_BYTES_MAX}")
        self._peer_channel_last = channel
        stream = self._add_stream(channel, fields.printable(name))
        if self._going_away:
            self.refuse(stream, Code.SHUTTING_DOWN, "the server is shutting down")
        elif len(self._streams) > self.limits.channels_max:
            reason = f"{self.limits.channels_max} channels are open, the limit (channels_max)"
            self.refuse(stream, Code.TOO_MANY_CHANNELS, reason)
        else:
            self.events.append(OpenRequested(stream))

    def _on_accept(self, channel: int, _payload: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is None:
            self._check_late(channel)
        elif stream.accepted or self._is_peers(channel):
            raise Fault(Code.PROTOCOL, f"ACCEPT of channel {channel}, which nobody asked for")
        else:
            stream.accepted = True
            self.events.append(Opened(stream))

    def _on_reset(self, channel: int, payload: bytes) -> None:
        code, reason = reasons.unpack_code(payload)
        stream = self._streams.get(channel)
        if stream is None:
            self._check_late(channel)
        else:
            self._over(stream, code, reason)

    def _on_credit(self, channel: int, payload: bytes) -> None:
        if len(payload) != _CREDIT.size:
            raise Fault(Code.PROTOCOL, f"CREDIT of {len(payload)} bytes")
        nbytes: int = _CREDIT.unpack(payload)[0]
        if nbytes >= self._free_credit_bytes:
            self._control_tokens += 1
        stream = self._streams.get(channel) if channel else None
        if channel and stream is None:
            self._check_late(channel)
        elif stream is not None and not stream.accepted and not self._is_peers(channel):
            raise Fault(Code.PROTOCOL, f"CREDIT on channel {channel} before ACCEPT")
        elif not nbytes or self._outbox.credit(stream, nbytes) > CREDIT_BYTES_MAX:
            raise Fault(Code.FLOW_CONTROL, f"CREDIT of {nbytes} bytes on channel {channel}, nothing or too much")

    def _on_ping(self, _channel: int, payload: bytes) -> None:
        if len(payload) > PING_BYTES_MAX:
            raise Fault(Code.PROTOCOL, f"PING of {len(payload)} bytes, the limit is {PING_BYTES_MAX}")
        self._outbox.control(knl.PONG, 0, payload)

    def _on_pong(self, _channel: int, payload: bytes) -> None:
        self.events.append(Pong(payload))

    def _on_go_away(self, _channel: int, payload: bytes) -> None:
        if len(payload) < _GOAWAY.size:
            raise Fault(Code.PROTOCOL, f"GOAWAY of {len(payload)} bytes")
        code, last = _GOAWAY.unpack_from(payload)
        reason = fields.printable(payload[_GOAWAY.size :])
        self._peer_going_away = True
        self.events.append(GoingAway(reasons.code_of(code), reason))
        for stream in self.streams:
            if stream.channel > last and not self._is_peers(stream.channel):
                self._over(stream, Code.SHUTTING_DOWN, reason)

    def _on_error(self, _channel: int, payload: bytes) -> None:
        code, reason = reasons.unpack_code(payload)
        self._end(code or Code.INTERNAL, reason, by_peer=True)

    def _on_info(self, _channel: int, _payload: bytes) -> None:
        """For people who read packet dumps; nothing depends on it."""

    def _check_late(self, channel: int) -> None:
        """A frame for a channel that is gone is late; for one that never was, a fault."""
        known = self._peer_channel_last if self._is_peers(channel) else self._next_channel - 2
        if not 0 < channel <= known:
            raise Fault(Code.PROTOCOL, f"a frame for channel {channel}, which was never opened")

    def _is_peers(self, channel: int) -> bool:
        return bool(channel % 2) != self._client

    # --- from our side ---------------------------------------------------------------------------------------------

    def open(self, service: str, *, pieces: bool = False) -> Stream:
        if self._ended:
            raise ChannelClosed(Code.LOST, "the connection is over: dial again")
        if self._going_away or self._peer_going_away:
            raise Refused(Code.SHUTTING_DOWN, "the connection takes no new channels: dial again")
        if self._handshake is not None or self._peer is None:
            raise UsageError("open a channel after the handshake: wait for Ready")
        name = service.encode("utf-8", "backslashreplace")
        if len(name) > SERVICE_BYTES_MAX:
            raise UsageError(f"a service's name of {len(name)} bytes, the limit is {SERVICE_BYTES_MAX}")
        if len(self._streams) >= self._peer.channels_max:
            raise Refused(Code.TOO_MANY_CHANNELS, f"the peer allows {self._peer.channels_max} channels at a time")
        if self._next_channel > CHANNEL_MAX:
            raise Refused(Code.SHUTTING_DOWN, "all channel numbers of this connection are used: dial again")
        stream = self._add_stream(self._next_channel, service)
        stream.pieces = pieces
        self._next_channel += 2
        self._outbox.control(knl.OPEN, stream.channel, fields.pack({_OPEN_SERVICE: name}))
        return stream

    def accept(self, stream: Stream, *, pieces: bool = False) -> None:
        if stream.channel not in self._streams:
            return
        stream.accepted = True
        stream.pieces = pieces
        self._outbox.control(knl.ACCEPT, stream.channel, b"")
        early = stream.state.receive.early
        try:
            while early:
                self._deliver(stream, *early.popleft())
        except Fault as fault:
            self._fail(fault)

    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        self.reset(stream, code, reason)

    def send(self, stream: Stream, message: Buffer) -> None:
        if self._is_sendable(stream):
            self._outbox.message(stream, message)

    def send_many(self, stream: Stream, messages: list[bytes]) -> None:
        if self._is_sendable(stream):
            self._outbox.messages(stream, messages)

    def send_piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        if self._is_sendable(stream, inside_message=True):
            self._outbox.piece(stream, piece, message_bytes, last)

    @property
    def takes_files(self) -> bool:
        return self._outbox.takes_files

    def send_slice(self, stream: Stream, part: FileSlice) -> None:
        if self._is_sendable(stream):
            self._outbox.file(stream, part)

    def finish(self, stream: Stream) -> None:
        if stream.local_open and not stream.state.send.fin_due and self._is_sendable(stream):
            self._outbox.finish(stream)

    def release(self, stream: Stream) -> None:
        if stream.channel not in self._streams:
            return
        if stream.account.sending_rest_bytes != NOTHING:
            self.reset(stream, Code.CANCELLED, "the last message was not sent to its end")
        elif stream.local_open:
            self._outbox.finish(stream, release=True)
        else:
            self.reset(stream, Code.OK, "")

    def reset(self, stream: Stream, code: Code, reason: str) -> None:
        if stream.channel not in self._streams:
            return
        self._outbox.control(knl.RESET, stream.channel, reasons.pack_code(code, reason))
        self._over(stream, code, reason)

    def ping(self, payload: bytes) -> None:
        if len(payload) > PING_BYTES_MAX:
            raise UsageError(f"a ping of {len(payload)} bytes, the limit is {PING_BYTES_MAX}")
        self._outbox.control(knl.PING, 0, payload)

    def go_away(self, code: Code, reason: str) -> None:
        if not self._going_away and not self._ended:
            self._going_away = True
            self._outbox.control(knl.GOAWAY, 0, _GOAWAY.pack(code, self._peer_channel_last) + reasons.pack(reason))

    def data_to_send(self, bytes_max: int) -> list[Buffer]:
        outbox = self._outbox
        buffers = outbox.take(bytes_max)
        self.has_more = outbox.has_more
        while outbox.over:
            self._over(outbox.over.pop(0), Code.OK, "")
        return buffers

    def _is_sendable(self, stream: Stream, *, inside_message: bool = False) -> bool:
        """False: the stream is over, and whoever sends has not seen that yet."""
        send: SendState = stream.state.send
        if self._ended or stream.channel not in self._streams:
            return False
        if not stream.local_open or send.fin_due:
            raise ChannelClosed(Code.CANCELLED, "this side has finished the channel")
        rest_bytes = stream.account.sending_rest_bytes
        if not inside_message and rest_bytes != NOTHING:
            raise UsageError(f"a message is being sent in pieces: {rest_bytes} bytes of it are missing")
        return True

    def _add_stream(self, channel: int, service: str) -> Stream:
        assert self._peer is not None
        stream = self._streams[channel] = Stream(channel, service)
        stream.account = self._make_account(self.limits.channel_credit_bytes, self._peer.channel_credit_bytes)
        stream.state = _State()
        return stream

    def _over(self, stream: Stream, code: Code, reason: str) -> None:
        """The stream is over: its number is never used again, and what it held of the connection is given back."""
        del self._streams[stream.channel]
        stream.local_open = stream.remote_open = False
        self._outbox.drop(stream)
        self._inbox.forget(stream)
        self.events.append(Closed(stream, code, reason))


def farewell(code: Code, reason: str) -> bytes:
    """What a server says to a client for which it makes no session: it is full."""
    payload = reasons.pack_code(code, reason)
    return PREFACE + engine().encode_knl(knl.ERROR, knl.CHECKSUM, 0, [payload])


_HANDLERS: dict[int, Callable[[StreamSession, int, bytes], None]] = {
    knl.HELLO: StreamSession._on_hello,
    knl.AUTH: StreamSession._on_auth,
    knl.OPEN: StreamSession._on_open,
    knl.ACCEPT: StreamSession._on_accept,
    knl.RESET: StreamSession._on_reset,
    knl.CREDIT: StreamSession._on_credit,
    knl.PING: StreamSession._on_ping,
    knl.PONG: StreamSession._on_pong,
    knl.GOAWAY: StreamSession._on_go_away,
    knl.ERROR: StreamSession._on_error,
    knl.INFO: StreamSession._on_info,
}
_CONNECTION_TYPES = {knl.HELLO, knl.AUTH, knl.PING, knl.PONG, knl.GOAWAY, knl.ERROR}
_HANDSHAKE_TYPES = {knl.HELLO, knl.AUTH, knl.GOAWAY, knl.ERROR, knl.INFO}
