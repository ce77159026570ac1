"""One connection of the datagram protocol: one stream, unreliable and unordered. docs/protocol-datagrams.md specifies
it.

    client   INIT .. COOKIE (Ready) .. open: CONNECT .. ACCEPT (Opened) .. FINISH / FINISHED .. CLOSE
    server   (the gate has checked the cookie) CONNECT (Ready, OpenRequested) .. ACCEPT .. FINISH / FINISHED .. CLOSE

A message is handed on whole and once, or never. What needs an answer (INIT, CONNECT, FINISH) is sent again, less and
less often, until the answer is there; the peer answers each copy alike. Everything else is sent once.

Invariants: a packet of our own direction, of another connection, or that makes no sense, is counted and changes
nothing; beside data at most one packet of each sort waits to be sent (`_due`), whatever the peer sends; data leaves
within the window that the peer announced (`kernel.datagram.flow`), so that its socket buffer is not overrun.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from kernel.api import Buffer
from kernel.datagram import packets
from kernel.datagram.counters import SessionCounters
from kernel.datagram.flow import WINDOW_BYTES_DEFAULT, ReceiveWindow
from kernel.datagram.identity import Identity, PacketAuthenticator
from kernel.datagram.liveness import Liveness, Verdict
from kernel.datagram.packets import PACKET_BYTES_DEFAULT, Hello, Kind, PacketError
from kernel.datagram.pieces import Pieces
from kernel.datagram.reassembly import Reassembler, ReassemblyBudget
from kernel.datagram.sender import Sender
from kernel.datagram.timers import Timers
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.framing import engine, knl
from kernel.framing.errors import DecodeError
from kernel.limits import Limits
from kernel.session.base import (
    Closed,
    Ended,
    Event,
    Finished,
    GoingAway,
    Messages,
    Opened,
    OpenRequested,
    Pong,
    Ready,
    Session,
    Stream,
    Writable,
)

_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
_FINISH_TRIES_MAX = 4
# FINISH may overtake data: so long we wait for what is missing.
_STRAGGLER_SECONDS = 0.2
# No receipt for so long: what is on its way is lost, or all receipts are.
_STALL_SECONDS = 0.5
# In probes of the liveness, of which there are several in a ping interval.
_REASSEMBLY_PROBES_MAX = 3
_KEEPALIVE = bytes(8)
_ASKED_FOR = 1


class DatagramSession(Session):
    """One end of a connection.

    Args:
        client: this side dialled.
        limits: what we allow the peer.
        packet_bytes_max: the longest packet that we send; the peer may ask for shorter ones.
        window_bytes: what the transport can hold for us until we read it; so much may be on its way to us.
        budget: memory for unfinished messages, shared by the sessions of a listener; None: one of its own.
        authenticator: proves who we are, and asks the peer for the same; None: nobody asks.
        connection: the client's connection id; None: a random one.
        engine_name: which framing engine; None: the process's own.

    Attributes:
        counters: what came and was not taken.
    """

    __slots__ = (
        "_client", "_connection", "_cookie", "_data_kind", "_direction", "_due", "_ended", "_engine",
        "_finish_acknowledged", "_finish_due", "_going_away", "_identity", "_liveness", "_packet_bytes_max", "_peer",
        "_peer_messages", "_pieces", "_reassembler", "_releasing", "_sender", "_stream", "_timers", "_tries", "_window",
        "counters",
    )  # fmt: skip

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        packet_bytes_max: int = PACKET_BYTES_DEFAULT,
        window_bytes: int = WINDOW_BYTES_DEFAULT,
        budget: ReassemblyBudget | None = None,
        authenticator: PacketAuthenticator | None = None,
        connection: int | None = None,
        engine_name: str | None = None,
    ) -> None:
        super().__init__(limits)
        self.has_more = False
        self.timed = True
        self.counters = SessionCounters()
        self._client = client
        self._direction = 0 if client else knl.FROM_SERVER
        self._identity = Identity(authenticator, client=client)
        self._engine = engine(engine_name)
        self._packet_bytes_max = packet_bytes_max
        self._connection = (connection or secrets.randbits(64)) if client else None
        self._data_kind = Kind.DATA | (knl.FROM_SERVER if client else 0)
        budget = budget or ReassemblyBudget(limits.reassembly_bytes_max)
        self._reassembler = Reassembler(self._message_bytes_max, budget, self._engine, self.counters)
        self._window = ReceiveWindow(window_bytes, limits.channel_credit_bytes)
        self._timers = Timers()
        self._due: dict[Kind, bytes] = {}
        self._stream: Stream | None = None
        self._peer: Hello | None = None
        self._sender: Sender | None = None
        self._cookie = b""
        self._tries = self._peer_messages = 0
        self._pieces = Pieces()
        self._liveness = Liveness(limits.ping_interval_seconds, limits.idle_seconds_max)
        self._finish_due = self._finish_acknowledged = self._releasing = self._going_away = self._ended = False

    # --- life ----------------------------------------------------------------------------------------------------

    def started(self) -> list[Event]:
        self._timers.arm("handshake", self.limits.handshake_seconds_max)
        if self._client:
            self._ask()
        return []

    @property
    def streams(self) -> list[Stream]:
        return [] if self._stream is None or self._ended else [self._stream]

    @property
    def deadline(self) -> float | None:
        return self._timers.deadline

    def tick(self, now: float) -> list[Event]:
        for name in self._timers.tick(now):
            if not self._ended:
                _TIMERS[name](self)
        return self.take_events()

    def close(self, code: Code, reason: str) -> None:
        if self._ended:
            return
        if code is Code.OK and self._has_said_all:
            self._end_in_order()
            return
        if code is Code.OK:
            code, reason = Code.LOST, reason or "the peer closed the connection"
        self._farewell(code, reason)
        self._end(code, reason, by_peer=False)

    def received_eof(self) -> list[Event]:
        """Datagrams have no end; the transport lost its socket."""
        if not self._ended:
            self._end(Code.LOST, "the connection was lost", by_peer=True)
        return self.take_events()

    def _ask(self) -> None:
        """Client: send what the server has to answer next, and again later."""
        if self._stream is not None:
            self._send_sealed(Kind.CONNECT, self._cookie + self._hello(self._stream.service).pack())
        else:
            self._send(Kind.INIT, bytes(packets.INIT_BYTES_MIN - knl.PACKET_HEADER_BYTES))
        self._retry_later("ask")

    def _retry_later(self, name: str) -> None:
        self._timers.arm(name, _RETRY_SECONDS[min(self._tries, len(_RETRY_SECONDS) - 1)])
        self._tries += 1

    def _hello(self, service: str = "") -> Hello:
        return Hello(service, self._message_bytes_max, self._packet_bytes_max, self._window.announced_bytes)

    @property
    def _message_bytes_max(self) -> int:
        return min(self.limits.message_bytes_max, packets.MESSAGE_BYTES_MAX)

    def _give_up_handshake(self) -> None:
        seconds = self.limits.handshake_seconds_max
        remedy = "is a server with framing=knl listening there?" if self._client else "no CONNECT from the peer"
        reason = f"no answer within {seconds:g} s: {remedy}"
        self._end(Code.HANDSHAKE_TIMEOUT, reason, by_peer=False)

    def _probe(self) -> None:
        if not self._window.is_narrow:
            self._reassembler.expire(_REASSEMBLY_PROBES_MAX)
        verdict = self._liveness.probe()
        if verdict is Verdict.GONE:
            reason = f"nothing heard for {self.limits.idle_seconds_max:g} s, pings unanswered"
            self._farewell(Code.IDLE, reason)
            self._end(Code.IDLE, reason, by_peer=True)
            return
        if verdict is Verdict.ASK and Kind.PING not in self._due:
            self._send(Kind.PING, _KEEPALIVE)
        self._timers.arm("probe", self._liveness.probe_seconds)

    def _farewell(self, code: Code, reason: str) -> None:
        """Only CLOSE still matters, and only where the peer knows of the connection."""
        self._due.clear()
        if self._stream is not None:
            self._send(Kind.CLOSE, packets.pack_reason(code, reason))

    def _end_in_order(self) -> None:
        self._farewell(Code.OK, "")
        self._end(Code.OK, "", by_peer=False)

    def _end(self, code: Code, reason: str, *, by_peer: bool) -> None:
        self._ended = True
        self._timers.clear()
        self._reassembler.clear()
        self._sender = None
        self._window.due = False
        stream = self._stream
        if stream is not None:
            stream.local_open = stream.remote_open = False
            stream.outgoing = None
            stream.outgoing_bytes = 0
            self.events.append(Closed(stream, code, reason))
        self.events.append(Ended(code, reason, by_peer))

    # --- from the peer -------------------------------------------------------------------------------------------

    def received(self, data: Buffer) -> list[Event]:
        raise AssertionError("the datagram protocol needs a transport that preserves messages")

    def messages(self, packets: list[bytes]) -> list[Event]:
        whole: list[bytes] = []
        data_bytes = 0
        for packet in packets:
            if self._ended:
                break
            try:
                kind, connection, sequence, index, count, message_bytes, payload = self._engine.parse_packet(packet)
            except DecodeError:
                self.counters.malformed += 1
                continue
            if kind == self._data_kind and connection == self._connection and self._sender is not None:
                data_bytes += len(packet)
                last = sequence, index
                message = self._reassembler.add(sequence, index, count, message_bytes, payload)
                if message is not None:
                    whole.append(message)
            else:
                self._deliver(whole)
                whole = []
                self._on_control(kind, connection, sequence, count, payload)
        if data_bytes and not self._ended:
            self._liveness.heard = True
            self._window.received(*last, data_bytes)
            self._deliver(whole)
            if "straggler" in self._timers and self._reassembler.delivered >= self._peer_messages:
                self._finish_remote()
        return self.take_events()

    def _deliver(self, messages: list[bytes]) -> None:
        stream = self._stream
        if not messages or stream is None:
            return
        if not stream.remote_open:
            self.counters.late += len(messages)
            return
        if stream.held_bytes >= self.limits.channel_credit_bytes + self._window.bytes_max:
            self.counters.overrun += len(messages)
            return
        cost = sum(map(len, messages)) + knl.PACKET_HEADER_BYTES * len(messages)
        stream.held_bytes += cost
        self.events.append(Messages(stream, messages, cost))

    def _on_control(self, kind: int, connection: int, sequence: int, count: int, payload: bytes) -> None:
        if bool(kind & knl.FROM_SERVER) != self._client:
            self.counters.own_direction += 1
            if self._client and kind == Kind.INIT and connection == self._connection and not self._cookie:
                self._end(
                    Code.PROTOCOL, "the server sends back what it gets: it listens with framing=raw", by_peer=True
                )
            return
        handler = (_CLIENT_HANDLERS if self._client else _SERVER_HANDLERS).get(kind & ~knl.FROM_SERVER)
        if self._connection is None and handler is DatagramSession._on_connect:
            self._connection = connection
        if handler is None or connection != self._connection:
            self.counters.foreign += 1
            return
        try:
            if count != 1:
                raise PacketError("a control packet in fragments")
            handler(self, sequence, payload)
        except PacketError:
            self.counters.malformed += 1
            return
        self._liveness.heard = True

    def _on_cookie(self, _sequence: int, payload: bytes) -> None:
        """A second cookie means that the first has expired; the next CONNECT, in its own time, takes the new one."""
        if len(payload) < packets.COOKIE_BYTES:
            raise PacketError(f"a cookie of {len(payload)} bytes")
        is_first = not self._cookie
        self._cookie = payload[: packets.COOKIE_BYTES]
        if is_first:
            self._tries = 0
            self._timers.cancel("ask")
            self._timers.cancel("handshake")
            self.events.append(Ready())

    def _on_connect(self, _sequence: int, payload: bytes) -> None:
        if self._stream is not None:
            if self._sender is not None and self._is_verified(payload):
                self._send_sealed(Kind.ACCEPT, self._hello().pack())
            return
        self._peer = Hello.unpack(payload[packets.COOKIE_BYTES :])
        if not self._is_verified(payload):
            return
        self._stream = stream = Stream(0, self._peer.service)
        self._timers.cancel("handshake")
        self._timers.arm("probe", self._liveness.probe_seconds)
        self.events.append(Ready(self._identity.of_peer))
        if self._going_away:
            self.refuse(stream, Code.SHUTTING_DOWN, "the server is shutting down")
        else:
            self.events.append(OpenRequested(stream))

    def _on_accept(self, _sequence: int, payload: bytes) -> None:
        stream = self._stream
        if stream is None or self._sender is not None:
            return
        self._peer = Hello.unpack(payload)
        if not self._is_verified(payload):
            return
        self._timers.cancel("ask")
        self._timers.cancel("handshake")
        self._timers.arm("probe", self._liveness.probe_seconds)
        self.events.append(Opened(stream))
        self._begin(stream, self._peer)

    def _is_verified(self, payload: bytes) -> bool:
        """The peer's CONNECT or ACCEPT is from whom it has to be; else that is the end of it."""
        assert self._connection is not None
        fault = self._identity.fault(self._connection, payload)
        if fault is not None:
            self._due.clear()
            self._send(Kind.CLOSE if self._client else Kind.REFUSE, packets.pack_reason(fault.code, fault.reason))
            self._end(fault.code, fault.detail, by_peer=True)
        return fault is None

    def _on_refuse(self, _sequence: int, payload: bytes) -> None:
        if self._sender is None:
            code, reason = packets.unpack_reason(payload)
            self._due.clear()
            self._end(code, reason, by_peer=True)

    def _on_receipt(self, number: int, payload: bytes) -> None:
        receipt = packets.unpack_receipt(payload)
        if self._sender is not None and self._sender.window.received(number, *receipt):
            self._timers.cancel("stall")

    def _on_ping(self, sequence: int, payload: bytes) -> None:
        self._send(Kind.PONG, payload[: packets.PING_BYTES_MAX], sequence)
        self._window.due = self._sender is not None

    def _on_pong(self, sequence: int, payload: bytes) -> None:
        if sequence == _ASKED_FOR:
            self.events.append(Pong(payload))

    def _on_finish(self, _sequence: int, payload: bytes) -> None:
        stream = self._stream
        if stream is None or self._sender is None:
            return
        self._peer_messages = packets.unpack_count(payload)
        if not stream.remote_open or self._reassembler.delivered >= self._peer_messages:
            self._finish_remote()
        elif "straggler" not in self._timers:
            self._timers.arm("straggler", _STRAGGLER_SECONDS)

    def _finish_remote(self) -> None:
        """The peer's direction is over: say so to it, each time it asks, and once to the service."""
        stream = self._stream
        assert stream is not None
        self._timers.cancel("straggler")
        self._send(Kind.FINISHED, packets.pack_count(self._peer_messages))
        if stream.remote_open:
            stream.remote_open = False
            self.events.append(Finished(stream))
            if self._finish_acknowledged:
                self._end_in_order()

    def _on_finished(self, _sequence: int, _payload: bytes) -> None:
        stream = self._stream
        if stream is None or stream.local_open:
            return
        self._finish_acknowledged = True
        self._timers.cancel("finish")
        self._due.pop(Kind.FINISH, None)
        if self._releasing or not stream.remote_open:
            self._end_in_order()

    def _on_go_away(self, _sequence: int, payload: bytes) -> None:
        code, reason = packets.unpack_reason(payload)
        self._going_away = True
        self.events.append(GoingAway(code, reason))

    def _on_close(self, _sequence: int, payload: bytes) -> None:
        code, reason = packets.unpack_reason(payload)
        if code is Code.LOST and not reason:
            reason = "unknown connection"
        self._due.clear()
        self._end(code, reason, by_peer=True)

    # --- from our side -------------------------------------------------------------------------------------------

    def open(self, service: str, *, pieces: bool = False) -> Stream:
        if self._ended or self._going_away:
            raise ChannelClosed(Code.SHUTTING_DOWN, "the connection takes no new channels")
        if self._stream is not None:
            raise UsageError("a datagram connection carries one channel: dial again for another one")
        if not self._cookie:
            raise UsageError("open a channel after the handshake: wait for Ready")
        if len(service.encode()) > packets.SERVICE_BYTES_MAX:
            raise UsageError(
                f"a service's name of {len(service.encode())} bytes, the limit is {packets.SERVICE_BYTES_MAX}"
            )
        self._stream = Stream(0, service, pieces=pieces)
        self._timers.arm("handshake", self.limits.handshake_seconds_max)
        self._ask()
        return self._stream

    def accept(self, stream: Stream, *, pieces: bool = False) -> None:
        assert self._peer is not None
        stream.pieces = pieces
        self._send_sealed(Kind.ACCEPT, self._hello().pack())
        self._begin(stream, self._peer)

    def _begin(self, stream: Stream, peer: Hello) -> None:
        assert self._connection is not None
        stream.accepted = True
        kind = Kind.DATA | self._direction
        self._sender = Sender(self._engine, kind, self._connection, peer, self._packet_bytes_max)
        if max(map(len, stream.outgoing or ()), default=0) > peer.message_bytes_max:
            reason = f"a message longer than the {peer.message_bytes_max} bytes that the server takes"
            self.reset(stream, Code.MESSAGE_TOO_LARGE, reason)

    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        if not self._ended:
            self._due.clear()
            self._send(Kind.REFUSE, packets.pack_reason(code, reason))
            self._end(code, reason, by_peer=False)

    def send(self, stream: Stream, message: Buffer) -> None:
        self._check_sendable(stream, len(message))
        stream.queue().append(message)
        stream.outgoing_bytes += len(message)

    def send_many(self, stream: Stream, messages: list[bytes]) -> None:
        self._check_sendable(stream, max(map(len, messages), default=0))
        stream.queue().extend(messages)
        stream.outgoing_bytes += sum(map(len, messages))

    def send_piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        self._check_sendable(stream, message_bytes)
        message = self._pieces.add(piece, message_bytes, last)
        if message is not None:
            self.send(stream, message)

    def consumed(self, stream: Stream, nbytes: int) -> None:
        stream.held_bytes -= nbytes
        self._window.reopen(self._room_bytes)

    def finish(self, stream: Stream) -> None:
        if stream.local_open and not self._ended:
            self._finish_due = True

    def release(self, stream: Stream) -> None:
        if self._ended:
            return
        self._releasing = True
        self.finish(stream)
        if self._finish_acknowledged:
            self._end_in_order()

    def reset(self, stream: Stream, code: Code, reason: str) -> None:
        if not self._ended:
            self._farewell(code, reason)
            self._end(code, reason, by_peer=False)

    def ping(self, payload: bytes) -> None:
        if len(payload) > packets.PING_BYTES_MAX:
            raise UsageError(f"a ping of {len(payload)} bytes, the limit is {packets.PING_BYTES_MAX}")
        if self._sender is None:
            raise UsageError("ping after the channel was opened: before that, no server knows of the connection")
        if not self._ended:
            self._send(Kind.PING, payload, _ASKED_FOR)

    def go_away(self, code: Code, reason: str) -> None:
        if not self._going_away and not self._ended:
            self._going_away = True
            if self._sender is not None:
                self._send(Kind.GOAWAY, packets.pack_reason(code, reason))

    def data_to_send(self, bytes_max: int) -> list[Buffer]:
        data: list[Buffer] = []
        self.has_more = False
        if self._sender is not None and self._stream is not None:
            data = self._sender.take(self._stream, bytes_max)
            if not self._sender.has_data(self._stream):
                self._emptied(self._stream)
            elif self._sender.window.room_bytes > 0:
                self.has_more = True
            elif "stall" not in self._timers:
                self._timers.arm("stall", _STALL_SECONDS)
        if self._window.due:
            self._send(Kind.RECEIPT, self._window.report(self._room_bytes), self._window.receipts & 0xFFFFFFFF)
        finish = self._due.pop(Kind.FINISH, None)
        control = list(self._due.values())
        self._due.clear()
        return control + data + ([] if finish is None else [finish])

    def _emptied(self, stream: Stream) -> None:
        if stream.wants_writable:
            stream.wants_writable = False
            self.events.append(Writable(stream))
        if self._finish_due and stream.local_open:
            stream.local_open = False
            self._tries = 0
            self._send_finish()

    def _send_finish(self) -> None:
        """FINISH, and again until the peer has acknowledged it; one that has finished too may have gone already."""
        assert self._stream is not None
        assert self._sender is not None
        if self._tries >= _FINISH_TRIES_MAX and (self._releasing or not self._stream.remote_open):
            self._end_in_order()
            return
        self._send(Kind.FINISH, packets.pack_count(self._sender.messages))
        self._retry_later("finish")

    def _stalled(self) -> None:
        assert self._sender is not None
        if self._sender.window.limit_bytes:
            self._sender.window.reset()
        else:
            self._send(Kind.PING, _KEEPALIVE)

    @property
    def _room_bytes(self) -> int:
        """What the service leaves free of its credit."""
        return self.limits.channel_credit_bytes - (0 if self._stream is None else self._stream.held_bytes)

    @property
    def _has_said_all(self) -> bool:
        """Our direction was finished, and nothing of it waits here any more."""
        if not self._finish_due or self._sender is None or self._stream is None:
            return False
        return not self._sender.has_data(self._stream)

    def _send(self, kind: Kind, payload: bytes, sequence: int = 0) -> None:
        """Queue a control packet; one of the same sort that waits already is replaced."""
        assert self._connection is not None
        self._due[kind] = packets.control(kind | self._direction, self._connection, payload, sequence)

    def _send_sealed(self, kind: Kind, payload: bytes) -> None:
        assert self._connection is not None
        self._send(kind, self._identity.seal(self._connection, payload))

    def _check_sendable(self, stream: Stream, message_bytes: int) -> None:
        if self._ended or self._finish_due or not stream.local_open:
            raise ChannelClosed(Code.CANCELLED, "this side has finished the channel, or it is over")
        message_bytes_max = packets.MESSAGE_BYTES_MAX if self._peer is None else self._peer.message_bytes_max
        if message_bytes > message_bytes_max:
            raise UsageError(
                f"a message of {message_bytes} bytes, over datagrams the limit is {message_bytes_max}: use tcp or unix"
            )


_Handler = Callable[[DatagramSession, int, bytes], None]
_COMMON_HANDLERS: dict[int, _Handler] = {
    Kind.RECEIPT: DatagramSession._on_receipt,
    Kind.PING: DatagramSession._on_ping,
    Kind.PONG: DatagramSession._on_pong,
    Kind.FINISH: DatagramSession._on_finish,
    Kind.FINISHED: DatagramSession._on_finished,
    Kind.GOAWAY: DatagramSession._on_go_away,
    Kind.CLOSE: DatagramSession._on_close,
}
_CLIENT_HANDLERS: dict[int, _Handler] = {
    **_COMMON_HANDLERS,
    Kind.COOKIE: DatagramSession._on_cookie,
    Kind.ACCEPT: DatagramSession._on_accept,
    Kind.REFUSE: DatagramSession._on_refuse,
}
_SERVER_HANDLERS: dict[int, _Handler] = {**_COMMON_HANDLERS, Kind.CONNECT: DatagramSession._on_connect}
_TIMERS: dict[str, Callable[[DatagramSession], None]] = {
    "ask": DatagramSession._ask,
    "finish": DatagramSession._send_finish,
    "handshake": DatagramSession._give_up_handshake,
    "probe": DatagramSession._probe,
    "stall": DatagramSession._stalled,
    "straggler": DatagramSession._finish_remote,
}
