"""UDP, IPv4 and IPv6. `framing=knl`: the datagram protocol, with messages up to 1 MiB. `framing=raw`: a datagram is a
message.

A listener has one socket for all its peers, and a table of them: at most so many, by source address (raw), or by source
and connection id (knl). In knl nobody gets into the table before the gate has seen his cookie. In raw nothing proves
that
a source is genuine: off the loopback it gets no more bytes than it has sent, and everywhere a conversation is cut
once in a million datagrams, which ends the loop of two echo servers that a forged packet has set upon each other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Literal, cast

from kernel.api import Acceptor, Capabilities, Connection, Listener, Transport
from kernel.datagram.gate import DatagramGate
from kernel.datagram.peers import PeerTable
from kernel.datagram.reassembly import ReassemblyBudget
from kernel.endpoint import Endpoint, format_host_port
from kernel.errors import DialError, StartError
from kernel.limits import KIB, MIB, Limits
from kernel.options import Meta

from .addresses import Address, cannot_dial, cannot_listen, is_loopback, resolve
from .binding import kept_if_bound
from .buffers import ReceiveBufferBytes, SendBufferBytes, set_buffers
from .datagrams import DATAGRAM_BYTES_MAX, Datagrams, DatagramSocket, UdpConnection

log = logging.getLogger("kernel.transports.udp")

MESSAGE_BYTES_MAX = 1 * MIB
RAW_DATAGRAMS_MAX = 1_000_000

_REFUSALS_MAX = 3
# A socket buffer counts the system's own costs too, about as much again as a packet of the default size; and a listener
# has several peers that may send at once.
_WINDOWS_PER_DIALLED_SOCKET = 4
_WINDOWS_PER_LISTENER = 8
_WINDOW_BYTES_MIN = 32 * KIB
_WINDOW_BYTES_MAX = 1 * MIB
# On a real path a longer burst overruns the queues of routers, until there is congestion control.
_WINDOW_BYTES_MAX_ON_A_PATH = 128 * KIB
_SWEEP_SECONDS_MIN = 0.1
# Strangers can cause these records, so there is at most one in so many seconds.
_FOREIGN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """`?key=value` of a udp endpoint."""

    framing: Annotated[
        Literal["knl", "raw"], Meta(description="knl: our protocol; raw: each datagram is a message, for any client")
    ] = "knl"
    packet_bytes_max: Annotated[
        int, Meta(ge=512, le=DATAGRAM_BYTES_MAX, description="knl: longest datagram; longer messages go in several")
    ] = 1200
    peers_max: Annotated[int, Meta(ge=0, description="peers that are remembered; 0: the limit datagram_peers_max")] = 0
    idle_seconds_max: Annotated[
        float, Meta(ge=0, description="raw: silence after which a source is forgotten; 0: the limit idle_seconds_max")
    ] = 0.0
    reply_factor_max: Annotated[
        int, Meta(ge=0, description="raw, off the loopback: bytes to a source for each byte from it; 0: no limit")
    ] = 1
    dual_stack: Annotated[bool, Meta(description="an IPv6 listener takes IPv4 too")] = False
    send_buffer_bytes: SendBufferBytes = 4 * MIB
    receive_buffer_bytes: ReceiveBufferBytes = 4 * MIB


class UdpListener(Listener):
    """A bound socket, and the peers that talk to it.

    Args:
        datagrams: a bound socket; ours from now on.
        endpoint: what was really bound.
        accept: the kernel's; called for each new peer.
        local_only: nobody can forge a source there.

    Attributes:
        gate: decides who becomes a peer (knl).
        counters: what the socket did not send or receive.
    """

    def __init__(
        self,
        datagrams: Datagrams,
        endpoint: Endpoint,
        options: UdpOptions,
        limits: Limits,
        accept: Acceptor,
        *,
        local_only: bool,
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._is_raw = options.framing == "raw"
        # Each peer takes one of the server's places; half of them stay free for other transports.
        peers_max = min(options.peers_max or limits.datagram_peers_max, max(1, limits.connections_max // 2))
        # In knl the session knows better who is idle: a peer that does not answer its pings.
        idle_seconds_max = (options.idle_seconds_max or limits.idle_seconds_max) if self._is_raw else float("inf")
        self._peers: PeerTable[UdpConnection] = PeerTable(peers_max, idle_seconds_max)
        self._reply_factor = options.reply_factor_max if self._is_raw and not local_only else 0
        self.gate = DatagramGate(closed_max=peers_max)
        self._budget = ReassemblyBudget(limits.reassembly_bytes_max)
        self._foreign_told = 0
        self._foreign_quiet_until = float("-inf")
        self._sweeper: asyncio.TimerHandle | None = None
        self._paused = False
        self._closed = False
        self._window_bytes = _window_bytes(datagrams, _WINDOWS_PER_LISTENER, local_only=local_only)
        self._datagrams = datagrams
        self.counters = self._datagrams.counters
        # What the system reports here is of one of many peers, and it does not say of which one.
        self._datagrams.start(self._on_raw_batch if self._is_raw else self._on_batch, lambda error: None)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    async def close(self) -> None:
        """Take no new peers; the socket is closed with the last of those that are there."""
        self._closed = self.gate.closing = True
        if self._is_raw:
            for connection in self._peers:
                connection.finish_reading()
        self._close_if_deserted()

    def _on_raw_batch(self, batch: list[tuple[bytes, Address]]) -> None:
        now = self._loop.time()
        for source, group in groupby(batch, key=itemgetter(1)):
            datagrams = [datagram for datagram, _ in group]
            connection = self._peers.heard(source, now) or self._add(source, source, now)
            if connection is not None:
                connection.received(datagrams)

    def _on_batch(self, batch: list[tuple[bytes, Address]]) -> None:
        now = self._loop.time()
        for key, group in groupby(batch, key=_source_and_connection):
            packets = [packet for packet, _ in group]
            connection = self._peers.heard(key, now)
            if connection is not None:
                connection.received(packets)
            else:
                self._knock(key, packets, now)

    def _knock(self, key: tuple[Address, bytes], packets: list[bytes], now: float) -> None:
        """Packets of no connection that we know: whatever is not admitted leaves nothing behind."""
        source = _name(key[0])
        for at, packet in enumerate(packets):
            reply, admitted = self.gate.admit(packet, source, now)
            if admitted:
                connection = self._add(key, key[0], now)
                if connection is not None and not connection.ended:
                    connection.received(packets[at:])
                    return
                reply, _ = self.gate.admit(packet, source, now)  # the kernel turned it away: say so
            if reply is not None:
                self._datagrams.send([reply], key[0], None)
        if self.gate.counters.foreign > self._foreign_told and now >= self._foreign_quiet_until:
            self._tell_foreign(key[0], packets[-1], now)

    def _tell_foreign(self, source: Address, packet: bytes, now: float) -> None:
        count = self.gate.counters.foreign - self._foreign_told
        self._foreign_told, self._foreign_quiet_until = self.gate.counters.foreign, now + _FOREIGN_SECONDS
        told = {
            "endpoint": str(self._endpoint),
            "peer": format_host_port(*source[:2]),
            "datagrams": count,
            "reason": f"they do not begin as ours ({packet[:8].hex(' ')}): plain clients need ?framing=raw",
        }
        log.info("datagrams were not understood", extra=told)

    def _add(self, key: Hashable, source: Address, now: float) -> UdpConnection | None:
        if self._paused or self._closed:
            self.counters.turned_away += 1
            return None
        connection = UdpConnection(
            self._datagrams,
            source,
            local=self._endpoint.address,
            peer=format_host_port(*source[:2]),
            on_end=lambda ended: self._forget(key, source, ended),
            packet_bytes_max=self._options.packet_bytes_max,
            window_bytes=self._window_bytes,
            budget=self._budget,
            reply_factor=self._reply_factor,
            datagrams_max=RAW_DATAGRAMS_MAX if self._is_raw else 0,
        )
        evicted = self._peers.add(key, connection, now)
        if evicted is not None:
            evicted.end(ConnectionAbortedError("another peer took its place, the table is full (peers_max)"))
        if self._is_raw and self._sweeper is None:
            self._sweep()
        try:
            self._accept(connection)
        except BaseException:
            connection.end(None)
            raise
        return connection

    def _forget(self, key: Any, source: Address, connection: UdpConnection) -> None:
        self._peers.remove(key, connection)
        if self._closed:
            self._close_if_deserted()
        if not self._is_raw:
            self.gate.remember_closed(_name(source), key[1], bytes(connection.last_packet), self._loop.time())

    def _sweep(self) -> None:
        """Give up raw peers that have fallen silent; that is how a raw conversation ends."""
        now = self._loop.time()
        for connection in self._peers.take_idle(now):
            connection.end(None)
        deadline = self._peers.deadline
        self._sweeper = None
        if deadline is not None:
            self._sweeper = self._loop.call_at(max(deadline, now + _SWEEP_SECONDS_MIN), self._sweep)

    def _close_if_deserted(self) -> None:
        if not self._peers:
            self._datagrams.close()
            if self._sweeper is not None:
                self._sweeper.cancel()


class Udp(Transport):
    """`udp://host:port`."""

    name = "udp"
    example = "udp://127.0.0.1:0"
    Options = UdpOptions

    def capabilities(self) -> Capabilities:
        return datagram_capabilities(cast(UdpOptions, self.options), self.limits, local_only=is_loopback(self.endpoint))

    async def listen(self, accept: Acceptor) -> Listener:
        options = cast(UdpOptions, self.options)
        family, address = (await resolve(self.endpoint, socket.SOCK_DGRAM, StartError))[0]
        sock = self._make_socket(family)
        with kept_if_bound(sock, lambda error: cannot_listen(self.endpoint, error)):
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not options.dual_stack)
            sock.bind(address)
            bound = self.endpoint.with_address(format_host_port(self.endpoint.host_port()[0], sock.getsockname()[1]))
            datagrams = DatagramSocket(sock, connected=False)
            return UdpListener(datagrams, bound, options, self.limits, accept, local_only=is_loopback(self.endpoint))

    async def dial(self) -> Connection:
        failure: OSError | None = None
        for family, address in await resolve(self.endpoint, socket.SOCK_DGRAM, DialError):
            sock = self._make_socket(family)
            try:
                sock.connect(address)
                local, peer = format_host_port(*sock.getsockname()[:2]), format_host_port(*sock.getpeername()[:2])
                datagrams = DatagramSocket(sock, connected=True)
                options = cast(UdpOptions, self.options)
                local_only = is_loopback(self.endpoint)
                return dialled(datagrams, options, self.limits, local=local, peer=peer, local_only=local_only)
            except OSError as error:
                sock.close()
                failure = error
        raise DialError(cannot_dial(self.endpoint, failure))

    def _make_socket(self, family: socket.AddressFamily) -> socket.socket:
        options = cast(UdpOptions, self.options)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        set_buffers(sock, options.send_buffer_bytes, options.receive_buffer_bytes)
        return sock


def dialled(
    datagrams: Datagrams, options: UdpOptions, limits: Limits, *, local: str, peer: str, local_only: bool
) -> UdpConnection:
    """The connection that has a connected socket to itself."""
    return UdpConnection(
        datagrams,
        None,
        local=local,
        peer=peer,
        on_end=lambda ended: datagrams.close(),
        packet_bytes_max=options.packet_bytes_max,
        window_bytes=_window_bytes(datagrams, _WINDOWS_PER_DIALLED_SOCKET, local_only=local_only),
        budget=ReassemblyBudget(limits.reassembly_bytes_max),
        refusals_max=1 if options.framing == "raw" else _REFUSALS_MAX,
    )


def datagram_capabilities(options: UdpOptions, limits: Limits, *, local_only: bool) -> Capabilities:
    """What datagrams give, under the framing that the options name."""
    is_raw = options.framing == "raw"
    return Capabilities(
        preserves_messages=True,
        reliable=False,
        ordered=False,
        message_bytes_max=DATAGRAM_BYTES_MAX if is_raw else min(MESSAGE_BYTES_MAX, limits.message_bytes_max),
        half_close=not is_raw,
        local_only=local_only,
    )


def _source_and_connection(received: tuple[bytes, Address]) -> tuple[Address, bytes]:
    """What tells connections apart; the id stands where every packet has it, and others match nothing."""
    packet, source = received
    return source, packet[4:12]


def _name(source: Address) -> bytes:
    """The source as the gate knows it."""
    return repr(source).encode()


def _window_bytes(datagrams: Datagrams, windows: int, *, local_only: bool) -> int:
    """What a peer may have on its way to us: a part of what the socket's buffer was really given."""
    share = datagrams.receive_buffer_bytes // windows
    most = _WINDOW_BYTES_MAX if local_only else _WINDOW_BYTES_MAX_ON_A_PATH
    return max(_WINDOW_BYTES_MIN, min(share, most))
