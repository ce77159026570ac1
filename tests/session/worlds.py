"""Sessions without a network: two of them back to back (`Pair`), or one against frames that a test writes (`Lone`).

A `Side` checks what holds always: nothing is told of a stream after its `Closed`, nothing at all after `Ended`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from kernel.errors import Code
from kernel.framing import Knl, engine, knl
from kernel.limits import Limits
from kernel.session import fields
from kernel.session.base import (
    Closed,
    Ended,
    Event,
    Finished,
    Messages,
    OpenRequested,
    Piece,
    Session,
    Stream,
)
from kernel.session.handshake import Hello
from kernel.session.preface import PREFACE
from kernel.session.stream import StreamSession

E = TypeVar("E")
Frame = tuple[int, int, int, bytes]
"""type, flags, channel, payload"""

EVERYTHING = 1 << 40
WITHIN_CREDIT = (Messages, Piece)


class Side:
    """A session, what it has told, and what it has sent and nobody got yet.

    Attributes:
        received: whole messages by stream; of pieces, what they add up to.
        owed: what was delivered and not yet consumed, by stream, a number for each event.
    """

    def __init__(self, session: Session, *, accepts: bool = True, pieces: bool = False) -> None:
        self.session = session
        self.accepts = accepts
        self.pieces = pieces
        self.wire = bytearray()
        self.events: list[Event] = []
        self.received: dict[Stream, list[bytes]] = {}
        self.owed: dict[Stream, list[int]] = {}
        self._over: set[Stream] = set()
        self._partial: dict[Stream, bytearray] = {}
        self.handle(session.started())
        self.collect()

    @property
    def ended(self) -> Ended | None:
        return next(iter(self.all_of(Ended)), None)

    def all_of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def of(self, stream: Stream) -> list[Event]:
        return [event for event in self.events if getattr(event, "stream", None) is stream]

    def closed(self, stream: Stream) -> Closed | None:
        return next((event for event in self.all_of(Closed) if event.stream is stream), None)

    def feed(self, data: bytes) -> None:
        """Bring bytes to the session, into its own buffer where it lends one."""
        rest = memoryview(data)
        while rest:
            view = None if self.ended else self.session.wanted()
            if view is None:
                self.handle(self.session.received(rest))
                return
            nbytes = min(len(view), len(rest))
            view[:nbytes] = rest[:nbytes]
            rest = rest[nbytes:]
            self.handle(self.session.filled(nbytes))

    def collect(self, bytes_max: int = EVERYTHING) -> None:
        """What the link does after each step: take what is to be sent, and what that brought about."""
        for buffer in self.session.data_to_send(bytes_max):
            self.wire += buffer
        self.handle(self.session.take_events())

    def consume(self) -> None:
        """The service is done with all that it was given."""
        owed, self.owed = self.owed, {}
        for stream, costs in owed.items():
            self.session.consumed(stream, sum(costs))

    def handle(self, events: Iterable[Event]) -> None:
        for event in events:
            assert self.ended is None, f"{event} after the end"
            stream = getattr(event, "stream", None)
            assert stream not in self._over, f"{event} after the stream was closed"
            self.events.append(event)
            if isinstance(event, OpenRequested) and self.accepts:
                self.session.accept(event.stream, pieces=self.pieces)
            elif isinstance(event, Messages):
                self._received(event.stream).extend(event.messages)
                self._owe(event.stream, event.cost_bytes)
            elif isinstance(event, Piece):
                self._take_piece(event)
            elif isinstance(event, Closed):
                self._over.add(event.stream)

    def _take_piece(self, event: Piece) -> None:
        so_far = self._partial.setdefault(event.stream, bytearray())
        so_far += event.piece
        assert event.last == (len(so_far) == event.message_bytes)
        if event.last:
            self._received(event.stream).append(bytes(self._partial.pop(event.stream)))
        self._owe(event.stream, event.cost_bytes)

    def _received(self, stream: Stream) -> list[bytes]:
        return self.received.setdefault(stream, [])

    def _owe(self, stream: Stream, cost_bytes: int) -> None:
        assert cost_bytes >= 0
        self.owed.setdefault(stream, []).append(cost_bytes)


@dataclass
class Pair:
    """A client and a server; the test moves the bytes, or lets them `settle`."""

    client: Side
    server: Side

    @classmethod
    def of(
        cls,
        engine_name: str | None = None,
        *,
        client: Limits | None = None,
        server: Limits | None = None,
        pieces: bool = False,
        checksums: bool = False,
    ) -> Pair:
        limits = server or Limits()
        pair = cls(
            Side(StreamSession(client=True, limits=client or limits, engine_name=engine_name, checksums=checksums)),
            Side(StreamSession(client=False, limits=limits, engine_name=engine_name), pieces=pieces),
        )
        pair.settle()
        return pair

    def move(self, sender: Side, nbytes: int) -> int:
        """Bring up to so many bytes of `sender` to the other side."""
        data = bytes(sender.wire[:nbytes])
        del sender.wire[:nbytes]
        (self.server if sender is self.client else self.client).feed(data)
        return len(data)

    def settle(self, *, consume: bool = True) -> None:
        """Until nothing moves any more."""
        moved = -1
        while moved:
            for side in (self.client, self.server):
                if consume:
                    side.consume()
                side.collect()
            moved = self.move(self.client, EVERYTHING) + self.move(self.server, EVERYTHING)

    def open(self, service: str = "echo", *, pieces: bool = False) -> tuple[Stream, Stream]:
        """A stream, as the client and as the server see it."""
        ours = self.client.session.open(service, pieces=pieces)
        self.settle()
        return ours, self.twin(ours)

    def twin(self, stream: Stream) -> Stream:
        """The server's view of a client's stream."""
        return next(
            event.stream for event in self.server.all_of(OpenRequested) if event.stream.channel == stream.channel
        )


class Lone(Side):
    """One KNL/1 session; the test is its peer, and writes and reads frames."""

    def __init__(
        self,
        engine_name: str | None = None,
        *,
        client: bool = False,
        limits: Limits | None = None,
        peer: Limits | None = None,
        ready: bool = True,
        **options: Any,
    ) -> None:
        self._engine = engine(engine_name)
        own = limits or Limits()
        super().__init__(StreamSession(client=client, limits=own, engine_name=engine_name), **options)
        if ready:
            self.feed(PREFACE + hello_frame(peer))
            self.frames()

    def frames(self) -> list[Frame]:
        """What the session has sent since the last time, as frames; a preface is taken off."""
        self.collect()
        data = bytes(self.wire).removeprefix(PREFACE)
        self.wire.clear()
        return decode(data)

    def brings(self, *frames: bytes) -> list[Frame]:
        """Bring frames; returns what the session answers."""
        self.feed(b"".join(frames))
        return self.frames()

    def opened(self, channel: int = 1, service: str = "echo") -> Stream:
        """Open a stream from outside; the session is a server."""
        self.brings(frame(knl.OPEN, channel, open_payload(service)))
        return self.all_of(OpenRequested)[-1].stream


def frame(kind: int, channel: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return engine("python").encode_knl(kind, flags, channel, [payload], 1 << 24)


def decode(data: bytes) -> list[Frame]:
    decoder = engine("python").decoder(Knl(0xFFFFFFFF))
    runs = decoder.feed(data)
    assert decoder.error is None
    assert decoder.pending_bytes == 0
    return [(kind, flags & ~knl.CHECKSUM, channel, p) for kind, flags, channel, payloads, _ in runs for p in payloads]


def hello_frame(limits: Limits | None = None, **changes: Any) -> bytes:
    hello = Hello.of(limits or Limits(), checksums=False, mechanism="none")
    return frame(knl.HELLO, 0, fields.pack(fields.unpack(hello.pack()) | changes.get("values", {})))


def open_payload(service: str = "echo") -> bytes:
    return fields.pack({1: service.encode()})


def code_payload(code: Code, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def credit(nbytes: int, channel: int = 0) -> bytes:
    return frame(knl.CREDIT, channel, nbytes.to_bytes(4, "big"))


def data(payload: bytes = b"", channel: int = 1, flags: int = 0) -> bytes:
    return frame(knl.DATA, channel, payload, flags)


def begin(message_bytes: int, payload: bytes, channel: int = 1, flags: int = knl.MORE) -> bytes:
    return frame(knl.DATA, channel, message_bytes.to_bytes(8, "big") + payload, flags | knl.BEGIN)


def finished(side: Side, stream: Stream) -> bool:
    return any(isinstance(event, Finished) for event in side.of(stream))
