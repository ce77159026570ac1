"""A client and a server of the datagram protocol, back to back, over a network that may lose, repeat and reorder.

Time is the simulation's own: it jumps to whatever is due next. Everything follows from the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel.datagram.gate import DatagramGate
from kernel.datagram.packets import Kind
from kernel.limits import Limits
from kernel.session import base
from kernel.session.datagram import DatagramSession

SOURCE = b"192.0.2.1:50000"
FLUSH_BYTES = 64 * 1024


@dataclass
class Weather:
    """What the network does to a packet: probabilities, and the longest delay in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_seconds_max: float = 0.001


@dataclass
class Side:
    """One end: its session, and everything that it was told."""

    session: DatagramSession
    on_event: Callable[[Side, base.Event], None] = lambda side, event: None
    received: list[bytes] = field(default_factory=list)
    events: list[base.Event] = field(default_factory=list)
    accepts: bool = True
    consumes: bool = True

    @property
    def stream(self) -> base.Stream:
        return self.session.streams[0]

    def told(self, kind: type) -> list[base.Event]:
        return [event for event in self.events if type(event) is kind]

    def handle(self, events: list[base.Event]) -> None:
        while events:
            for event in events:
                self.events.append(event)
                if isinstance(event, base.OpenRequested) and self.accepts:
                    self.session.accept(event.stream)
                elif isinstance(event, base.Messages):
                    self.received += event.messages
                    if self.consumes:
                        self.session.consumed(event.stream, event.cost_bytes)
                self.on_event(self, event)
            events = self.session.take_events()


class Simulation:
    """The client opens `service` as soon as it can. The server exists from the moment at which the gate admits it."""

    def __init__(
        self,
        seed: int = 0,
        weather: Weather | None = None,
        limits: Limits | None = None,
        packet_bytes_max: int = 1200,
        engine_name: str | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.weather = weather or Weather()
        self.limits = limits or Limits()
        self.now = 1000.0
        self.packet_bytes_max = packet_bytes_max
        self.engine_name = engine_name
        self.gate = DatagramGate(16, self.random.randbytes)
        self.client = self.make_side(client=True)
        self.server: Side | None = None
        self.on_server_event: Callable[[Side, base.Event], None] = lambda side, event: None
        self.server_accepts = True
        self.sent: list[tuple[str, bytes]] = []
        self._wire: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self._server_gone = False
        self.client.handle(self.client.session.started())

    def make_side(self, *, client: bool) -> Side:
        return Side(
            DatagramSession(
                client=client,
                limits=self.limits,
                packet_bytes_max=self.packet_bytes_max,
                connection=self.random.randrange(1, 1 << 64) if client else None,
                engine_name=self.engine_name,
            )
        )

    def open(self, service: str = "echo") -> base.Stream:
        """Run until the client's stream is open at both ends."""
        self.run(lambda: bool(self.client.told(base.Ready)))
        stream = self.client.session.open(service)
        self.run(lambda: bool(self.client.told(base.Opened)))
        return stream

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = 3600.0) -> None:
        """Let time pass until the condition holds, nothing is due any more, or so many seconds are over."""
        end = self.now + seconds
        self.flush()
        while not until():
            due = self._next_due()
            if due is None or due > end:
                self.now = max(self.now, end if due is not None else self.now)
                return
            self.now = max(self.now, due)
            self._deliver()
            for side in self.sides():
                deadline = side.session.deadline
                if deadline is not None and deadline <= self.now:
                    side.handle(side.session.tick(self.now))
            self.flush()

    def sides(self) -> list[Side]:
        return [self.client] if self.server is None else [self.client, self.server]

    def flush(self) -> None:
        """Put on the wire what the sessions want to send."""
        for side in self.sides():
            target = "server" if side is self.client else "client"
            while packets := side.session.data_to_send(FLUSH_BYTES):
                for packet in packets:
                    self.send(target, bytes(packet))
                side.handle(side.session.take_events())
        if self.server is not None and self.server.told(base.Ended) and not self._server_gone:
            self._server_gone = True
            last = next(packet for target, packet in reversed(self.sent) if target == "client")
            self.gate.remember_closed(SOURCE, last[4:12], last, self.now)

    def send(self, target: str, packet: bytes) -> None:
        self.sent.append((target, packet))
        copies = 0 if self.random.random() < self.weather.loss else 1
        copies += self.random.random() < self.weather.duplicate
        for _ in range(copies):
            self._count += 1
            at = self.now + self.random.random() * self.weather.delay_seconds_max
            heapq.heappush(self._wire, (at, self._count, target, packet))

    def packets_sent(self, kind: Kind) -> list[bytes]:
        return [packet for _, packet in self.sent if packet[3] & 0x7F == kind]

    def _next_due(self) -> float | None:
        deadlines = [side.session.deadline for side in self.sides()]
        due = [at for at in deadlines if at is not None]
        if self._wire:
            due.append(self._wire[0][0])
        return min(due, default=None)

    def _deliver(self) -> None:
        while self._wire and self._wire[0][0] <= self.now:
            _, _, target, packet = heapq.heappop(self._wire)
            if target == "client":
                self.client.handle(self.client.session.messages([packet]))
            elif self.server is not None and not self._server_gone:
                self.server.handle(self.server.session.messages([packet]))
            else:
                self._knock(packet)

    def _knock(self, packet: bytes) -> None:
        reply, admitted = self.gate.admit(packet, SOURCE, self.now)
        if reply is not None:
            assert len(reply) <= len(packet)
            self.send("client", reply)
        if admitted:
            self.server = self.make_side(client=False)
            self.server.on_event = self.on_server_event
            self.server.accepts = self.server_accepts
            self.server.handle(self.server.session.started())
            self.server.handle(self.server.session.messages([packet]))
