"""Many datagrams of one socket at a time: in one system call each way where the C engine can, one by one elsewhere.

Both ways are one to whoever uses them (`DatagramBatches`). The space into which a batch is received is the event
loop's, not the socket's: it is used within a call only. Its pages cost nothing until they are used.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from kernel.api import Buffer
from kernel.framing import engine

BATCH = 64
"""Datagrams that are received at a time."""
_DATAGRAM_BYTES = 64 * 1024

_spaces: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, bytearray] = weakref.WeakKeyDictionary()


class DatagramBatches(Protocol):
    """One socket's."""

    def receive(self) -> list[Any]:
        """What is there, at most `BATCH`: the bare datagrams of a connected socket, else pairs of datagram and source.

        Raises:
            BlockingIOError: nothing.
            OSError: what the system reports instead of a datagram.
        """

    def send(self, packets: list[Buffer], start: int, address: Any, /) -> int:
        """Send from `start` on, as many as go; returns how many that were. No address: to whom we are connected.

        Raises:
            BlockingIOError: the system's buffer is full.
            OSError: the first of them cannot be sent.
        """


class _OneByOne:
    def __init__(self, sock: socket.socket, *, connected: bool) -> None:
        self._receive: Callable[[int], object] = sock.recv if connected else sock.recvfrom
        self._sock = sock

    def receive(self) -> list[Any]:
        batch: list[Any] = []
        try:
            for _ in range(BATCH):
                batch.append(self._receive(_DATAGRAM_BYTES))  # noqa: PERF401  what came before an error counts
        except OSError:
            if not batch:
                raise
        return batch

    def send(self, packets: list[Buffer], start: int, address: Any, /) -> int:
        if address is None:
            self._sock.send(packets[start])
        else:
            self._sock.sendto(packets[start], address)
        return 1


def datagram_batches(sock: socket.socket, *, connected: bool) -> DatagramBatches:
    """The batches of a non-blocking datagram socket, for use in the running event loop."""
    if engine().name == "c" and sock.family in (socket.AF_INET, socket.AF_INET6):
        from kernel.framing import native  # there for sure only where the engine is C

        if native.make_batches is not None:
            loop = asyncio.get_running_loop()
            space = _spaces.get(loop)
            if space is None:
                space = _spaces[loop] = bytearray(native.BATCH_BYTES)
            made: DatagramBatches = native.make_batches(sock.fileno(), space, connected)
            return made
    return _OneByOne(sock, connected=connected)
