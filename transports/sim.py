"""A simulated network inside one process: `sim://name?delay_seconds=50ms&loss=1%&seed=7`.

Who listens is found by name, in the event loop in which it listens. What one end sends travels in packets, each of
which arrives when `weather` says, and nothing else depends on chance. Under a virtual clock
(`kernel.testing.VirtualLoop`) a failing seed replays exactly. `mode=stream` behaves as tcp does, `mode=datagram` is the
udp transport over simulated sockets.

The listener's options are the weather of what it sends, the dialler's of what it sends: who dials the endpoint that a
listener prints has the same in both directions.

Invariants (streams): a direction's packets are delivered in order by one timer. What is on its way, or arrived and not
yet read, is at most `buffer_bytes`; the rest is pending with who wrote it. The kernel is called from the loop only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, cast

from kernel.api import Acceptor, Buffer, Capabilities, Connection, Listener, Receiver, Transport
from kernel.endpoint import Endpoint, format_host_port
from kernel.errors import DialError, EndpointError, OptionError, StartError
from kernel.options import Meta

from .simdatagrams import Ether, SimDatagramSocket
from .transit import Transit
from .udp import UdpListener, UdpOptions, datagram_capabilities, dialled
from .weather import Cut, Path, Weather, check_stream, paths

# After close: how long we wait for the peer's end, as on a real socket.
_LINGER_SECONDS = 2.0
# What a packet costs on the line without payload: the beginning and the end of a connection.
_CONTROL_BYTES = 40


class _Signal(Enum):
    """What travels besides bytes."""

    FINISH = 1
    RESET = 2


_Item = memoryview | _Signal


class Network:
    """Who listens where, and how many connections there have been. One for each event loop."""

    def __init__(self) -> None:
        self.listeners: dict[str, SimListener] = {}
        self.ether = Ether()
        self.connections = itertools.count(1)


_networks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Network] = weakref.WeakKeyDictionary()


def network() -> Network:
    """The network of the running loop."""
    return _networks.setdefault(asyncio.get_running_loop(), Network())


class SimConnection(Connection):
    """One end of a simulated stream. `twin` is the other one."""

    def __init__(self, path: Path, buffer_bytes: int, local: str, peer: str) -> None:
        self.twin: SimConnection
        self._path = path
        self._buffer_bytes = buffer_bytes
        self._local = local
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        # Outgoing: what waits for room, what is on its way with its time of arrival, and what of that is unread.
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        self._flight: Transit[_Item] = Transit(self._arrive)
        self._unread_bytes = 0
        # Incoming: what has arrived and cannot be delivered yet.
        self._inbound: deque[_Item] = deque()
        self._delivering = False
        self._paused = False
        self._eof = False
        self._finishing = False
        self._finished = False
        self._closing = False
        self._over = False
        self._error: Exception | None = None
        self._linger: asyncio.TimerHandle | None = None

    @property
    def local(self) -> str:
        return self._local

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def write_pending_bytes(self) -> int:
        return self._pending_bytes

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._over:
            self._loop.call_soon(self._lose)
        self._deliver_soon()

    async def handshake(self) -> None:
        """Wait as long as a packet without payload is on its way to the twin.

        Raises:
            Cut: it does not arrive.
        """
        now = self._loop.time()
        await asyncio.sleep(self._path.send(now, _CONTROL_BYTES)[0] - now)

    # --- outgoing --------------------------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self._finishing or self._over:
            return
        for buffer in buffers:
            if len(buffer):
                self._pending.append(memoryview(buffer).cast("B"))
                self._pending_bytes += len(buffer)
        self._send_pending()

    def finish_writing(self) -> None:
        if not self._finishing and not self._over:
            self._finishing = True
            self._send_pending()

    def _send_pending(self) -> None:
        """Put on the way what there is room for."""
        try:
            while self._pending and self._unread_bytes < self._buffer_bytes:
                self._depart(self._take_piece())
            if self._finishing and not self._pending and not self._finished:
                self._finished = True
                self._depart(_Signal.FINISH)
        except Cut as cut:
            for end in (self, self.twin):
                end._end(ConnectionResetError(str(cut)))
            return
        if self._closing and self._finished and self._eof:
            self._end(None)

    def _take_piece(self) -> memoryview:
        first, size = self._pending[0], self._path.piece_bytes()
        if len(first) > size:
            self._pending[0] = first[size:]
        else:
            self._pending.popleft()
        piece = first[:size]
        self._pending_bytes -= len(piece)
        self._unread_bytes += len(piece)
        return piece

    def _depart(self, item: _Item) -> None:
        nbytes = _CONTROL_BYTES if isinstance(item, _Signal) else len(item)
        self._flight.add(self._path.send(self._loop.time(), nbytes)[0], item)

    def _arrive(self, items: list[_Item]) -> None:
        for item in items:
            self.twin._take(item)

    def _was_read(self, nbytes: int) -> None:
        """The peer has read so much: there is room again."""
        self._unread_bytes -= nbytes
        if self._closing and not self._over:
            self._expect_progress()
        was_pending = self._pending_bytes
        self._send_pending()
        if was_pending and not self._pending_bytes and not self._finishing and self._receiver is not None:
            self._receiver.write_drained()

    # --- incoming --------------------------------------------------------------------------------------------------

    def _take(self, item: _Item) -> None:
        """This has arrived here."""
        if item is _Signal.RESET:
            self._end(ConnectionResetError("the peer reset the connection"))
        elif self._over:
            if item is not _Signal.FINISH:
                self._reset_twin()
        else:
            self._inbound.append(item)
            self._deliver()

    def _deliver(self) -> None:
        self._delivering = False
        while self._inbound and self._receiver is not None and not (self._paused or self._eof or self._over):
            item = self._inbound.popleft()
            if isinstance(item, _Signal):
                self._on_finish()
            else:
                self._on_data(self._receiver, item)

    def _on_data(self, receiver: Receiver, data: memoryview) -> None:
        """Hand over as much as the receiver takes in one go; who is closing takes it all, and drops it."""
        size = len(data)
        if not self._closing:
            view = receiver.wanted()
            if view is None:
                receiver.data_received(data)
            else:
                size = min(size, len(view))
                view[:size] = data[:size]
                receiver.filled(size)
        if size < len(data):
            self._inbound.appendleft(data[size:])
        self.twin._was_read(size)

    def _on_finish(self) -> None:
        self._eof = True
        if self._closing:
            self._send_pending()
        elif self._receiver is not None:
            self._receiver.eof_received()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        """From the loop, and not from inside the kernel's call."""
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    # --- ends ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing or self._over:
            return
        self._closing = self._finishing = True
        self._paused = False
        self._expect_progress()
        self._deliver_soon()
        self._send_pending()

    def _expect_progress(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._loop.call_later(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        if not self._over:
            self._reset_twin()
            self._end(None)

    def _reset_twin(self) -> None:
        """What is on its way arrives, and then the reset."""
        try:
            self._depart(_Signal.RESET)
        except Cut:
            self.twin._end(ConnectionResetError("the connection was cut"))

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._error = error
        self._pending.clear()
        self._pending_bytes = 0
        self._inbound.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(self._error)


class SimListener(Listener):
    """A name in the network.

    Attributes:
        weather: of what the accepted connections send.
    """

    def __init__(self, endpoint: Endpoint, weather: Weather, accept: Acceptor) -> None:
        self.weather = weather
        self._endpoint = endpoint
        self._accept = accept
        self._network = network()
        self._accepting = asyncio.Event()
        self._closed = False
        self._network.listeners[endpoint.address] = self
        self.resume()

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def pause(self) -> None:
        self._accepting.clear()

    def resume(self) -> None:
        self._accepting.set()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            del self._network.listeners[self._endpoint.address]
            self._accepting.set()

    async def admit(self, connection: SimConnection) -> bool:
        """Accept, as soon as that is allowed; False: the listener is closed."""
        await self._accepting.wait()
        if not self._closed:
            self._accept(connection)
        return not self._closed


@dataclass(frozen=True, slots=True)
class SimOptions(Weather):
    """`?key=value` of a sim endpoint."""

    mode: Annotated[
        Literal["stream", "datagram"], Meta(description="stream: bytes, as over tcp; datagram: packets, as over udp")
    ] = "stream"
    framing: Annotated[str, Meta(description="as for every endpoint; datagrams take knl or raw")] = "knl"


class Sim(Transport):
    """`sim://name`: a simulated network inside one process."""

    name = "sim"
    example = "sim://{unique}"
    Options = SimOptions

    def capabilities(self) -> Capabilities:
        if self._is_stream:
            check_stream(self._weather, str(self.endpoint))
            return Capabilities(local_only=True)
        return datagram_capabilities(self._udp_options, self.limits, local_only=True)

    def hint(self) -> str:
        names = [field.name for field in dataclasses.fields(Weather)]
        weather = {name: value for name, value in self.endpoint.options.items() if name in names}
        real = Endpoint("tcp" if self._is_stream else "udp", "127.0.0.1:0", weather, ("chaos",))
        return f"only this process can dial it; the same weather around a real port: --listen '{real}'"

    async def listen(self, accept: Acceptor) -> Listener:
        name, net = self.endpoint.address, network()
        if not name:
            raise EndpointError(f"'{self.endpoint}' names no place in the simulated network: write sim://lab")
        if name in net.listeners or (name, 0) in net.ether.sockets:
            raise StartError(f"cannot listen on {self.endpoint.without_options()}: the name is taken: take another one")
        if self._is_stream:
            return SimListener(self.endpoint, self._weather, accept)
        datagrams = SimDatagramSocket(net.ether, (name, 0), None, self._weather)
        return UdpListener(datagrams, self.endpoint, self._udp_options, self.limits, accept, local_only=True)

    async def dial(self) -> Connection:
        name, net = self.endpoint.address, network()
        number = next(net.connections)
        if not self._is_stream:
            local = (f"{name}/client", number)
            datagrams = SimDatagramSocket(net.ether, local, (name, 0), self._weather)
            return dialled(
                datagrams,
                self._udp_options,
                self.limits,
                local=format_host_port(*local),
                peer=name,
                local_only=True,
            )
        listener = net.listeners.get(name)
        if listener is None:
            raise self._cannot_dial("nobody listens there in this process")
        client, server = self._join(number, listener.weather)
        try:
            await client.handshake()
            if not await listener.admit(server):
                raise self._cannot_dial("the listener has closed")
            await server.handshake()
        except Cut as cut:
            client.abort()
            raise self._cannot_dial(str(cut)) from None
        except BaseException:
            client.abort()
            raise
        return client

    def _join(self, number: int, weather: Weather) -> tuple[SimConnection, SimConnection]:
        """Both ends of a new connection, ours and the listener's."""
        name = self.endpoint.address
        client_name = format_host_port(f"{name}/client", number)
        there, _ = paths(self._weather, number, is_stream=True)
        _, back = paths(weather, number, is_stream=True)
        client = SimConnection(there, self._weather.buffer_bytes, client_name, name)
        server = SimConnection(back, weather.buffer_bytes, name, client_name)
        client.twin, server.twin = server, client
        return client, server

    @property
    def _weather(self) -> Weather:
        return cast(SimOptions, self.options)

    @property
    def _is_stream(self) -> bool:
        return cast(SimOptions, self.options).mode == "stream"

    @property
    def _udp_options(self) -> UdpOptions:
        framing = cast(SimOptions, self.options).framing
        if framing not in ("knl", "raw"):
            raise OptionError(f"'{self.endpoint}': datagrams take framing=knl or framing=raw")
        return UdpOptions(framing=cast(Literal["knl", "raw"], framing))

    def _cannot_dial(self, reason: str) -> DialError:
        return DialError(f"cannot connect to {self.endpoint.without_options()}: {reason}: start the server first")
