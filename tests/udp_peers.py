"""Who the tests of udp talk to and with: a receiver that writes down what it is told, a plain socket, a service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from kernel import Connection, Endpoint, Limits, Receiver
from kernel.options import parse
from kernel.transports.udp import Udp, UdpConnection, UdpListener, UdpOptions

TIMEOUT_SECONDS = 20.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds; for what tells nobody."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def make_udp(endpoint: str, limits: Limits | None = None) -> Udp:
    """The transport, with its options parsed as the kernel does it."""
    parsed = Endpoint.parse(endpoint)
    return Udp(parsed, parse(UdpOptions, parsed.options, "the transport udp"), limits or Limits())


OnMessages = Callable[["Recorder", list[bytes]], None]


class Recorder(Receiver):
    """The kernel's side of a connection. `on_messages` may answer."""

    def __init__(self, connection: Connection, on_messages: OnMessages | None = None) -> None:
        self.connection = connection
        self.batches: list[list[bytes]] = []
        self.drained = 0
        self.eof = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._on_messages = on_messages
        self._news = asyncio.Event()
        connection.start(self)

    @property
    def messages(self) -> list[bytes]:
        return [message for batch in self.batches for message in batch]

    def messages_received(self, messages: list[bytes]) -> None:
        self.batches.append(messages)
        self._news.set()
        if self._on_messages is not None:
            self._on_messages(self, messages)

    def eof_received(self) -> None:
        self.eof = True

    def write_drained(self) -> None:
        self.drained += 1
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()


def echo(recorder: Recorder, messages: list[bytes]) -> None:
    recorder.connection.write(messages)


class Peers:
    """The acceptor: keeps the recorders of all connections, in order of their arrival."""

    def __init__(self, on_messages: OnMessages | None = None) -> None:
        self.all: list[Recorder] = []
        self._on_messages = on_messages
        self._news = asyncio.Event()

    def accept(self, connection: Connection) -> None:
        self.all.append(Recorder(connection, self._on_messages))
        self._news.set()

    async def until(self, number: int) -> Recorder:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(self.all) < number:
                self._news.clear()
                await self._news.wait()
        return self.all[number - 1]


@contextlib.asynccontextmanager
async def listening(endpoint: str, peers: Peers, limits: Limits | None = None) -> AsyncIterator[UdpListener]:
    listener = await make_udp(endpoint, limits).listen(peers.accept)
    assert isinstance(listener, UdpListener)
    try:
        yield listener
    finally:
        await listener.close()
        for recorder in peers.all:
            recorder.connection.abort()


class Plain:
    """A plain UDP socket, as any program has one."""

    def __init__(self, to: Endpoint, bind: str = "") -> None:
        host, port = to.host_port()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        if bind:
            self.socket.bind((bind, 0))
        self.socket.connect(("127.0.0.1" if host == "0.0.0.0" else host, port))

    async def ask(self, datagram: bytes) -> bytes:
        """Send, and wait for what comes back."""
        self.socket.send(datagram)
        return await self.receive()

    async def receive(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    def is_silent(self) -> bool:
        """Nothing has come."""
        try:
            self.socket.recv(65536)
        except BlockingIOError:
            return True
        return False

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()


async def dial(endpoint: Endpoint | str, limits: Limits | None = None) -> UdpConnection:
    connection = await make_udp(str(endpoint), limits).dial()
    assert isinstance(connection, UdpConnection)
    return connection
