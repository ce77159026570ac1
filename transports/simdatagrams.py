"""Simulated datagrams: the `Datagrams` of the udp transport over `weather`, in place of a socket of the system's.

All that udp does above its socket (the table of peers, the gate, replies, limits) is the same code here: what a seed
proves, it proves for udp.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Any

from kernel.api import Buffer

from .addresses import Address
from .datagrams import UdpConnection, UdpCounters
from .transit import Transit
from .weather import Path, Weather, paths


class Ether:
    """The sockets of one simulated network, by address. What finds nobody is answered with "port unreachable"."""

    def __init__(self) -> None:
        self.sockets: dict[Address, SimDatagramSocket] = {}


class SimDatagramSocket:
    """One socket. Each pair of addresses has a path of its own, which the seed and the client's port decide.

    Args:
        local: our address; the port of a client is unique, a listener has 0.
        remote: to whom we are connected; None: to nobody, batches hold pairs of datagram and source.
        weather: of what we send. `buffer_bytes` is also what we hold while we are paused.
    """

    def __init__(self, ether: Ether, local: Address, remote: Address | None, weather: Weather) -> None:
        self.counters = UdpCounters()
        self._ether = ether
        self._local = local
        self._remote = remote
        self._weather = weather
        self._loop = asyncio.get_running_loop()
        self._paths: dict[Address, Path] = {}
        self._on_batch: Callable[[list[Any]], None] | None = None
        self._on_error: Callable[[OSError], None] | None = None
        self._coming: Transit[tuple[Address, bytes | None]] = Transit(self._arrive)
        self._paused = False
        self._held: list[tuple[Address, bytes]] = []
        self._held_bytes = 0
        ether.sockets[local] = self

    @property
    def receive_buffer_bytes(self) -> int:
        return self._weather.buffer_bytes

    def start(self, on_batch: Callable[[list[Any]], None], on_error: Callable[[OSError], None]) -> None:
        self._on_batch, self._on_error = on_batch, on_error

    def resume(self) -> None:
        self._paused = False
        self._loop.call_soon(self._receive, [])

    def pause(self) -> None:
        self._paused = True

    def send(self, packets: Sequence[Buffer], address: Address | None, connection: UdpConnection | None) -> None:
        to = address or self._remote
        assert to is not None
        path = self._paths.get(to) or self._new_path(to)
        now = self._loop.time()
        for packet in packets:
            data = bytes(packet)
            for arrival in path.send(now, len(data)):
                receiver = self._ether.sockets.get(to)
                if receiver is not None:
                    receiver.expect(arrival, self._local, data)
                else:
                    self.expect(arrival + self._weather.delay_seconds, to, None)

    def expect(self, arrival: float, source: Address, packet: bytes | None) -> None:
        """A datagram is on its way to us; None: the news that one of ours found nobody."""
        self._coming.add(arrival, (source, packet))

    def close(self) -> None:
        if self._ether.sockets.get(self._local) is self:
            del self._ether.sockets[self._local]
        self._on_batch = self._on_error = None
        self._coming.clear()

    def _new_path(self, to: Address) -> Path:
        client_port = self._local[1] or to[1]
        there, back = paths(self._weather, client_port, is_stream=False)
        path = self._paths[to] = there if self._local[1] else back
        return path

    def _arrive(self, due: list[tuple[Address, bytes | None]]) -> None:
        batch: list[tuple[Address, bytes]] = []
        for source, packet in due:
            if packet is not None:
                batch.append((source, packet))
            elif self._on_error is not None:
                self._on_error(ConnectionRefusedError(errno.ECONNREFUSED, "connection refused"))
        self._receive(batch)

    def _receive(self, batch: list[tuple[Address, bytes]]) -> None:
        """Hand over what has come, or hold it while we are paused, as far as there is room."""
        if self._paused or self._on_batch is None:
            for source, packet in batch:
                if self._held_bytes + len(packet) <= self._weather.buffer_bytes:
                    self._held.append((source, packet))
                    self._held_bytes += len(packet)
            return
        held, self._held, self._held_bytes = self._held, [], 0
        received: list[Any] = [
            packet if self._remote is not None else (packet, source) for source, packet in [*held, *batch]
        ]
        if received:
            self._on_batch(received)
