"""Bad weather around any transport: `chaos+tcp://127.0.0.1:0?delay_seconds=50ms&loss=1%&seed=7`.

What passes in either direction is held back, lost, doubled or overtaken as `weather` says, on this side only: the other
one needs to know nothing of it. A reliable transport stays reliable: what is "lost" comes later, as if it had been sent
again, until the connection is cut. Datagrams are lost.

Invariants: what is held back of outgoing data is pending; of incoming data it is about `buffer_bytes` at most, then the
transport inside is paused. What comes first arrives first on a reliable transport, the end of a direction included.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from kernel.api import Acceptor, Buffer, Capabilities, Connection, Layer, Listener, Principal, Receiver

from .transit import Transit
from .weather import Cut, Path, Weather, check_stream, paths


class _Signal(Enum):
    """What travels besides data."""

    FINISH = 1
    CLOSE = 2


@dataclass(frozen=True, slots=True)
class _Lost:
    """The transport inside has lost the connection; known when what came before has arrived."""

    error: Exception | None


_Item = Buffer | _Signal | _Lost


class ChaosConnection(Connection):
    """A connection in bad weather. It is the kernel's connection, and the receiver of the one inside."""

    def __init__(
        self, inner: Connection, weather: Weather, capabilities: Capabilities, there: Path, back: Path
    ) -> None:
        self._inner = inner
        self._buffer_bytes = weather.buffer_bytes
        self._has_messages = capabilities.preserves_messages
        self._is_reliable = capabilities.reliable
        self._there, self._back = there, back
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._outgoing: Transit[_Item] = Transit(self._on_outgoing)
        self._outgoing_bytes = 0
        self._owes_drained = False
        self._incoming: Transit[_Item] = Transit(self._on_incoming)
        self._arrived: deque[_Item] = deque()
        self._incoming_bytes = 0
        self._latest = {True: 0.0, False: 0.0}
        self._delivering = False
        self._paused = False
        self._eof = False
        self._finishing = False
        self._closing = False
        self._over = False

    def __getattr__(self, name: str) -> Any:
        """What a transport tells its session beyond the interface is the inner one's to say."""
        return getattr(self._inner, name)

    @property
    def local(self) -> str:
        return self._inner.local

    @property
    def peer(self) -> str:
        return self._inner.peer

    @property
    def principal(self) -> Principal:
        return self._inner.principal

    @property
    def established(self) -> bool:
        return self._inner.established

    @property
    def channel_binding(self) -> bytes:
        return self._inner.channel_binding

    @property
    def write_pending_bytes(self) -> int:
        return self._outgoing_bytes + self._inner.write_pending_bytes

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._inner.start(self)

    # --- outgoing --------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self._finishing or self._over:
            return
        try:
            for item in buffers if self._has_messages else _pieces(buffers, self._there):
                self._depart(item, len(item), out=True)
        except Cut as cut:
            self._break(cut)

    def finish_writing(self) -> None:
        if not self._finishing and not self._over:
            self._finishing = True
            self._outgoing.add(self._latest[True], _Signal.FINISH)

    def close(self) -> None:
        if not self._closing and not self._over:
            self._closing = self._finishing = True
            self._outgoing.add(self._latest[True], _Signal.CLOSE)

    def abort(self) -> None:
        if not self._over:
            self._end()
            self._closing = True
            self._inner.abort()

    def _depart(self, item: Buffer, nbytes: int, *, out: bool) -> None:
        """Put something on its way, or not, as the weather says."""
        path, transit = (self._there, self._outgoing) if out else (self._back, self._incoming)
        for arrival in path.send(self._loop.time(), nbytes):
            self._latest[out] = max(self._latest[out], arrival)
            transit.add(arrival, item)
            if out:
                self._outgoing_bytes += nbytes
                self._owes_drained = True
            else:
                self._incoming_bytes += nbytes

    def _on_outgoing(self, items: list[_Item]) -> None:
        """These leave now."""
        buffers = [item for item in items if not isinstance(item, _Signal | _Lost)]
        self._outgoing_bytes -= sum(map(len, buffers))
        if buffers:
            self._inner.write(buffers)
        if _Signal.CLOSE in items:
            self._inner.close()
        elif _Signal.FINISH in items:
            self._inner.finish_writing()
        self._tell_drained()

    def _tell_drained(self) -> None:
        if self._owes_drained and not self.write_pending_bytes and not self._finishing and self._receiver is not None:
            self._owes_drained = False
            self._receiver.write_drained()

    # --- incoming: the connection inside calls -----------------------------------------------------------------------

    def wanted(self) -> None:
        """What comes is held back, so it needs a place of its own."""

    def filled(self, nbytes: int) -> None:
        raise AssertionError("filled() without wanted()")

    def data_received(self, data: Buffer) -> None:
        self._hold(_pieces([bytes(data)], self._back))

    def messages_received(self, messages: list[bytes]) -> None:
        self._hold(messages)

    def eof_received(self) -> None:
        self._incoming.add(self._latest[False], _Signal.FINISH)

    def write_drained(self) -> None:
        self._tell_drained()

    def connection_established(self) -> None:
        if self._receiver is not None:
            self._receiver.connection_established()

    def connection_lost(self, error: Exception | None) -> None:
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._finishing = True
        if self._closing:
            self._lose(error)
        elif not self._over:
            self._incoming.add(self._latest[False], _Lost(error))

    def _hold(self, items: Sequence[Buffer]) -> None:
        """These have come, and are delivered later."""
        if self._closing or self._over:
            return
        try:
            for item in items:
                if self._is_reliable or self._incoming_bytes < self._buffer_bytes:
                    self._depart(item, len(item), out=False)
        except Cut as cut:
            self._break(cut)
        if self._is_reliable and self._incoming_bytes >= self._buffer_bytes:
            self._inner.pause_reading()

    # --- incoming: the kernel is called ------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused and not self._over:
            self._paused = False
            if not self._delivering:
                self._delivering = True
                self._loop.call_soon(self._deliver)

    def _on_incoming(self, items: list[_Item]) -> None:
        self._arrived.extend(items)
        self._deliver()

    def _deliver(self) -> None:
        self._delivering = False
        while self._arrived and not (self._paused or self._over):
            item = self._arrived.popleft()
            if isinstance(item, _Lost):
                self._lose(item.error)
            elif isinstance(item, _Signal):
                self._tell_eof()
            else:
                self._hand_over(item)
        if not self._over and self._incoming_bytes < self._buffer_bytes:
            self._inner.resume_reading()

    def _hand_over(self, item: Buffer) -> None:
        receiver = self._receiver
        size = len(item)
        if receiver is None or self._closing:
            pass
        elif self._has_messages:
            receiver.messages_received([cast(bytes, item)])
        elif (view := receiver.wanted()) is None:
            receiver.data_received(item)
        else:
            size = min(size, len(view))
            view[:size] = item[:size]
            if size < len(item):
                self._arrived.appendleft(item[size:])
            receiver.filled(size)
        self._incoming_bytes -= size

    def _tell_eof(self) -> None:
        if not self._closing and self._receiver is not None:
            self._receiver.eof_received()

    # --- ends ------------------------------------------------------------------------------------------------------

    def _break(self, cut: Cut) -> None:
        """The weather has ended the connection: nobody asked for it, so it is an error on both sides."""
        if not self._over:
            self._end()
            self._inner.abort()
            self._loop.call_soon(self._lose, ConnectionResetError(str(cut)))

    def _end(self) -> None:
        self._over = self._finishing = True
        self._outgoing.clear()
        self._incoming.clear()
        self._arrived.clear()
        self._outgoing_bytes = self._incoming_bytes = 0

    def _lose(self, error: Exception | None) -> None:
        self._end()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(error)


@dataclass(frozen=True, slots=True)
class ChaosOptions(Weather):
    """`?key=value` of the layer chaos."""


class Chaos(Layer):
    """`chaos+...`."""

    name = "chaos"
    example = "chaos+tcp://127.0.0.1:0"
    Options = ChaosOptions

    def capabilities(self) -> Capabilities:
        given = self.inner.capabilities()
        if given.reliable:
            check_stream(self._weather, str(self.endpoint))
        return given

    async def listen(self, accept: Acceptor) -> Listener:
        numbers = itertools.count(1)
        return await self.inner.listen(lambda connection: accept(self._wrap(connection, next(numbers))))

    async def dial(self) -> Connection:
        return self._wrap(await self.inner.dial(), 0)

    @property
    def _weather(self) -> Weather:
        return cast(ChaosOptions, self.options)

    def _wrap(self, connection: Connection, number: int) -> Connection:
        capabilities = self.inner.capabilities()
        there, back = paths(self._weather, number, is_stream=capabilities.reliable)
        return ChaosConnection(connection, self._weather, capabilities, there, back)


def _pieces(buffers: Sequence[Buffer], path: Path) -> list[Buffer]:
    """A stream's bytes as they travel together."""
    pieces: list[Buffer] = []
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        while len(rest):
            size = path.piece_bytes()
            pieces.append(rest[:size])
            rest = rest[size:]
    return pieces
