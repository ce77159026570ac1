"""A UDP socket in the event loop, and the connection of one peer over it.

The socket is read in batches, up to a budget, so that the event loop stays fair. What a batch makes us send is queued
and leaves at its end. A batch is one system call each way, where the system has such a one (`datagram_batches`).

When the system's buffer is full, packets wait in a queue: its bytes count as pending for the connection that wrote
them, which holds back who listens to that. The queue is bounded; beyond, the newest packet is dropped and counted.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kernel.api import Buffer, Connection, Receiver
from kernel.batches import datagram_batches
from kernel.datagram.reassembly import ReassemblyBudget
from kernel.limits import MIB

from .addresses import Address

DATAGRAM_BYTES_MAX = 65507
"""What a datagram over IPv4 holds; IPv6 has the same 64 KiB, less its headers."""

_EARLY_MAX = 64
_QUEUE_BYTES_MAX = 4 * MIB
_IP_AND_UDP_BYTES = 28


@dataclass(slots=True)
class UdpCounters:
    """What a socket did not send or receive.

    Attributes:
        send_dropped: datagrams that found the queue full.
        send_failed: datagrams that the system refused to send.
        receive_failed: errors that the system reported instead of a datagram.
        paused: datagrams for a peer whose service has its hands full.
        unanswerable: replies that would have been more than their source had sent (raw).
        turned_away: datagrams of new sources while the listener took none.
        cut: datagrams dropped so that no loop lasts for ever (raw).
    """

    send_dropped: int = 0
    send_failed: int = 0
    receive_failed: int = 0
    paused: int = 0
    unanswerable: int = 0
    turned_away: int = 0
    cut: int = 0


class Datagrams(Protocol):
    """A socket of datagrams, in batches: a real one (`DatagramSocket`), or a simulated one."""

    @property
    def counters(self) -> UdpCounters: ...

    @property
    def receive_buffer_bytes(self) -> int:
        """What may wait to be read."""

    def start(self, on_batch: Callable[[list[Any]], None], on_error: Callable[[OSError], None]) -> None:
        """Begin to read.

        Args:
            on_batch: gets what a wake-up brought.
            on_error: gets what the system reports of a datagram that we sent before.
        """

    def resume(self) -> None:
        """Read, also after `pause`."""

    def pause(self) -> None:
        """Leave what comes to the system's buffer."""

    def send(self, packets: Sequence[Buffer], address: Address | None, connection: UdpConnection | None) -> None:
        """Send, or queue while there is no room. No address: to the one to which the socket is connected."""

    def close(self) -> None:
        """Send what can still be sent, and be gone. May be called twice."""


class DatagramSocket:
    """A UDP socket in the event loop: batches in, a queue out.

    Args:
        sock: bound or connected, and non-blocking; ours from now on.
        connected: batches hold the bare datagrams, and not pairs of datagram and source.
    """

    def __init__(self, sock: socket.socket, *, connected: bool) -> None:
        self.counters = UdpCounters()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._batches = datagram_batches(sock, connected=connected)
        self._on_batch: Callable[[list[Any]], None] | None = None
        self._on_error: Callable[[OSError], None] | None = None
        self._in_batch = False
        self._blocked = False
        self._queue: deque[tuple[list[Buffer], Address | None, UdpConnection | None]] = deque()
        self._queued_bytes = 0
        self._drained: list[UdpConnection] = []

    @property
    def receive_buffer_bytes(self) -> int:
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def start(self, on_batch: Callable[[list[Any]], None], on_error: Callable[[OSError], None]) -> None:
        self._on_batch, self._on_error = on_batch, on_error
        self.resume()

    def resume(self) -> None:
        if self._sock.fileno() != -1:
            self._loop.add_reader(self._sock, self._on_readable)

    def pause(self) -> None:
        if self._sock.fileno() != -1:
            self._loop.remove_reader(self._sock)

    def send(self, packets: Sequence[Buffer], address: Address | None, connection: UdpConnection | None) -> None:
        """Send, or queue: during a batch until its end, and while the system's buffer is full. Not after `close`."""
        if self._sock.fileno() == -1:
            return
        if self._blocked:
            packets = [packet for packet in packets if self._hold(packet, connection)]
        self._queue.append((packets if type(packets) is list else list(packets), address, connection))
        if not self._in_batch and not self._blocked:
            self._flush()

    def close(self) -> None:
        if self._sock.fileno() != -1:
            try:
                self._flush()
            finally:
                self._loop.remove_reader(self._sock)
                self._loop.remove_writer(self._sock)
                self._sock.close()
                self._queue.clear()
                self._on_batch = self._on_error = None

    def _on_readable(self) -> None:
        batch: list[object] = []
        error: OSError | None = None
        try:
            batch = self._batches.receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as failure:
            error = failure
            self.counters.receive_failed += 1
        self._in_batch = True
        try:
            if batch and self._on_batch is not None:
                self._on_batch(batch)
            if error is not None and self._on_error is not None:
                self._on_error(error)
        finally:
            self._in_batch = False
            if not self._blocked:
                self._flush()

    def _flush(self) -> None:
        """Send what is queued, until the system's buffer is full."""
        queue = self._queue
        while queue:
            packets, address, connection = queue.popleft()
            at = 0
            while at < len(packets):
                try:
                    sent = self._batches.send(packets, at, address)
                except (BlockingIOError, InterruptedError):
                    queue.appendleft((packets[at:], address, connection))
                    self._block()
                    return
                except OSError as error:
                    sent = 1
                    self.counters.send_failed += 1
                    if connection is not None:
                        connection.send_failed(error, len(packets[at]))
                    if self._sock.fileno() == -1:  # that was the end of who had the socket to itself
                        return
                if self._blocked:
                    self._release(packets[at : at + sent], connection)
                at += sent

    def _block(self) -> None:
        """The system's buffer is full: from now on, what waits is counted, and bounded."""
        if self._blocked:
            return
        self._blocked = True
        waiting = list(self._queue)
        self._queue.clear()
        for packets, address, connection in waiting:
            self._queue.append(([p for p in packets if self._hold(p, connection)], address, connection))
        self._loop.add_writer(self._sock, self._on_writable)

    def _hold(self, packet: Buffer, connection: UdpConnection | None) -> bool:
        """Account for a packet that has to wait; False: it has to go, the newest first."""
        if self._queued_bytes + len(packet) > _QUEUE_BYTES_MAX:
            self.counters.send_dropped += 1
            return False
        self._queued_bytes += len(packet)
        if connection is not None:
            connection.pending_bytes += len(packet)
        return True

    def _release(self, packets: list[Buffer], connection: UdpConnection | None) -> None:
        """Packets that were held are gone."""
        nbytes = sum(map(len, packets))
        self._queued_bytes -= nbytes
        if connection is not None:
            connection.pending_bytes -= nbytes
            if not connection.pending_bytes:
                self._drained.append(connection)

    def _on_writable(self) -> None:
        self._flush()
        if not self._queue and self._sock.fileno() != -1:
            self._blocked = False
            self._loop.remove_writer(self._sock)
        drained, self._drained = self._drained, []
        for connection in drained:
            if not connection.pending_bytes:
                connection.drained()


class UdpConnection(Connection):
    """One peer: a row in a listener's table, or the only user of a dialled socket.

    Args:
        datagrams: the socket.
        address: where to send; None: the socket is connected, and this connection's alone.
        on_end: called once, at the moment at which the connection ends.
        reply_factor: bytes that may leave for each byte that has come, headers counted; 0: no limit.
        datagrams_max: after so many datagrams from the peer a batch is dropped; 0: never.
        refusals_max: so many "port unreachable" in a row mean that nobody is there; 0: they are not ours to judge.

    Attributes:
        packet_bytes_max, window_bytes, budget: what the kernel's session wants to know of its transport.
        pending_bytes: what waits in the socket's queue; the socket keeps this number.
        last_packet: what was written last.
        ended: nothing more comes from here, and nothing leaves.
    """

    __slots__ = (
        "_address", "_at_eof", "_closing", "_datagrams", "_datagrams_max", "_early", "_local", "_loop", "_on_end",
        "_paused", "_peer", "_received", "_receiver", "_refusals", "_refusals_max", "_reply_bytes", "_reply_factor",
        "budget", "ended", "last_packet", "packet_bytes_max", "pending_bytes", "window_bytes",
    )  # fmt: skip

    def __init__(
        self,
        datagrams: Datagrams,
        address: Address | None,
        *,
        local: str,
        peer: str,
        on_end: Callable[[UdpConnection], None],
        packet_bytes_max: int,
        window_bytes: int,
        budget: ReassemblyBudget,
        reply_factor: int = 0,
        datagrams_max: int = 0,
        refusals_max: int = 0,
    ) -> None:
        self.packet_bytes_max = packet_bytes_max
        self.window_bytes = window_bytes
        self.budget = budget
        self.pending_bytes = 0
        self.last_packet: Buffer = b""
        self.ended = False
        self._datagrams = datagrams
        self._address = address
        self._local = local
        self._peer = peer
        self._on_end = on_end
        self._reply_factor = reply_factor
        self._reply_bytes = 0
        self._datagrams_max = datagrams_max
        self._received = 0
        self._refusals_max = refusals_max
        self._refusals = 0
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._at_eof = False
        self._paused = False
        self._closing = False

    @property
    def local(self) -> str:
        return self._local

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def write_pending_bytes(self) -> int:
        return self.pending_bytes

    # --- the kernel calls ------------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._address is None:
            self._datagrams.start(self.received, self.refused)
        if self._early:
            early, self._early = self._early, []
            self._loop.call_soon(self.received, early)

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self._closing:
            return
        if self._reply_factor:
            buffers = [buffer for buffer in buffers if self._may_answer(len(buffer))]
        if buffers:
            self.last_packet = buffers[-1]
            self._datagrams.send(buffers, self._address, self)

    def pause_reading(self) -> None:
        """On a socket of our own the system's buffer holds what comes; on a shared one it is lost, and counted."""
        self._paused = True
        if self._address is None:
            self._datagrams.pause()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            if self._address is None:
                self._datagrams.resume()

    def finish_writing(self) -> None:
        """A datagram says nothing of those that follow."""

    def close(self) -> None:
        self._closing = True
        if not self.pending_bytes:
            self.end(None)

    def abort(self) -> None:
        self.end(None)

    # --- the socket and the listener call --------------------------------------------------------------------------

    def received(self, datagrams: list[bytes]) -> None:
        """These came from the peer."""
        if self._closing or self._at_eof:
            return
        self._refusals = 0
        if self._paused:
            self._datagrams.counters.paused += len(datagrams)
            return
        if self._reply_factor:
            self._reply_bytes += self._reply_factor * (sum(map(len, datagrams)) + _IP_AND_UDP_BYTES * len(datagrams))
        if self._datagrams_max and self._is_cut(len(datagrams)):
            return
        if self._receiver is not None:
            self._receiver.messages_received(datagrams)
        elif len(self._early) < _EARLY_MAX:
            self._early += datagrams

    def drained(self) -> None:
        """All that had waited is sent."""
        if self._closing:
            self.end(None)
        elif self._receiver is not None:
            self._receiver.write_drained()

    def send_failed(self, error: OSError, nbytes: int) -> None:
        """A datagram of ours could not be sent: lost, as datagrams are, unless the next one would fare no better."""
        if error.errno == errno.EMSGSIZE:
            reason = f"a datagram of {nbytes} bytes is too long for the path to {self._peer}: lower packet_bytes_max"
            if nbytes > DATAGRAM_BYTES_MAX:
                reason = f"a message of {nbytes} bytes does not fit a datagram, which holds {DATAGRAM_BYTES_MAX}"
            self.end(OSError(errno.EMSGSIZE, reason))
        else:
            self.refused(error)

    def refused(self, error: OSError) -> None:
        """The system reports that something we sent did not arrive. Once is bad luck, or a server that restarts."""
        self._refusals += 1
        if self._refusals == self._refusals_max:
            if error.errno == errno.ECONNREFUSED:
                reason = f"nobody listens on udp://{self._peer}: check the port, or start the server"
                error = ConnectionRefusedError(errno.ECONNREFUSED, reason)
            self.end(error)

    def finish_reading(self) -> None:
        """The listener takes no more; what the service still has to send may leave."""
        if not self._at_eof and self._receiver is not None:
            self._at_eof = True
            self._receiver.eof_received()

    def end(self, error: Exception | None) -> None:
        """It is over; the receiver learns it after whoever is calling now."""
        if not self.ended:
            self.ended = self._closing = True
            receiver, self._receiver = self._receiver, None
            if receiver is not None:
                self._loop.call_soon(receiver.connection_lost, error)
            self._on_end(self)

    def _may_answer(self, nbytes: int) -> bool:
        cost = nbytes + _IP_AND_UDP_BYTES
        if cost > self._reply_bytes:
            self._datagrams.counters.unanswerable += 1
            return False
        self._reply_bytes -= cost
        return True

    def _is_cut(self, number: int) -> bool:
        self._received += number
        if self._received <= self._datagrams_max:
            return False
        self._received = 0
        self._datagrams.counters.cut += number
        return True
