"""Strangers: plain sockets that say whatever they like, and the frames of KNL/1 made by hand.

Nothing here uses the product's own protocol code, so that a mistake there cannot hide here. Every wait has a guard: a
stranger that is left waiting for `GUARD_SECONDS` fails its test.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from kernel import Endpoint, Limits, Server, Service

GUARD_SECONDS = 20.0
LOOPBACK = "tcp://127.0.0.1:0"

PREFACE = bytes.fromhex("004b4e4c01000000")
DATA, HELLO, AUTH, OPEN, ACCEPT, RESET, CREDIT, PING, PONG, GOAWAY, ERROR, INFO = range(12)
MORE, FIN, CHECKSUM, IGNORABLE, BEGIN = 1, 2, 4, 8, 16
HEADER_BYTES = 16


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(GUARD_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    channel: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of ERROR, RESET and GOAWAY."""
        return int.from_bytes(self.payload[:2], "big")

    @property
    def reason(self) -> str:
        """Of ERROR and RESET."""
        return self.payload[2:].decode()


def frame(kind: int, payload: bytes = b"", *, channel: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """A frame with a right checksum; `length` says something else than the payload's length."""
    head = struct.pack(">BBHII", 1, kind, flags, channel, len(payload) if length is None else length)
    covered = head + payload if flags & CHECKSUM else head
    return head + zlib.crc32(covered).to_bytes(4, "big") + payload


def fields(values: Mapping[int, bytes]) -> bytes:
    """Named values, as HELLO, AUTH and OPEN carry them."""
    return b"".join(struct.pack(">HH", key, len(value)) + value for key, value in values.items())


def hello(mechanism: bytes = b"none", credit_bytes: int = 1 << 20, **more: bytes) -> bytes:
    """A HELLO that an honest client could send."""
    size = credit_bytes.to_bytes(4, "big")
    values = {1: (65536).to_bytes(4, "big"), 2: size, 3: size, 4: (256).to_bytes(4, "big"), 5: b"\0", 6: mechanism}
    values |= {int(key.removeprefix("field_")): value for key, value in more.items()}
    return frame(HELLO, fields(values), flags=CHECKSUM)


def opening(channel: int = 1, service: bytes = b"echo") -> bytes:
    """OPEN."""
    return frame(OPEN, fields({1: service}), channel=channel, flags=CHECKSUM)


class Stranger:
    """One end of a stream socket. `was_reset` says how it ended, once it has."""

    _connected: ClassVar[set[Stranger]] = set()

    def __init__(self, sock: socket.socket) -> None:
        self._connected.add(self)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._greeted = False
        self.was_reset = False

    @classmethod
    async def connect(cls, endpoint: Endpoint, source: str = "", receive_buffer_bytes: int = 0) -> Stranger:
        """Connect, from a given loopback address if one is named."""
        if endpoint.scheme == "unix":
            sock, address = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), endpoint.address
        else:
            sock, address = socket.socket(socket.AF_INET, socket.SOCK_STREAM), endpoint.host_port()  # type: ignore[assignment]
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if source:
            sock.bind((source, 0))
        stranger = cls(sock)
        async with asyncio.timeout(GUARD_SECONDS):
            try:
                await asyncio.get_running_loop().sock_connect(sock, address)
            except ConnectionResetError:  # the server was faster
                stranger.was_reset = True
        return stranger

    async def send(self, data: bytes) -> None:
        """Send all of it; a server that has hung up in between is no error, reading will tell."""
        async with asyncio.timeout(GUARD_SECONDS):
            with contextlib.suppress(ConnectionError):
                await self._loop.sock_sendall(self._sock, data)

    async def read(self, nbytes: int) -> bytes:
        """Exactly so many bytes, or fewer when the connection ends."""
        async with asyncio.timeout(GUARD_SECONDS):
            while len(self._received) < nbytes and (more := await self._receive()):
                self._received += more
        taken, self._received = self._received[:nbytes], self._received[nbytes:]
        return taken

    async def read_to_end(self) -> bytes:
        """All that comes until the server has hung up."""
        async with asyncio.timeout(GUARD_SECONDS):
            while more := await self._receive():
                self._received += more
        taken, self._received = self._received, b""
        return taken

    async def frame(self) -> Frame | None:
        """The next frame, the server's preface passed over; None at the end."""
        if not self._greeted:
            self._greeted = True
            assert PREFACE.startswith(await self.read(len(PREFACE)))
        head = await self.read(HEADER_BYTES)
        if len(head) < HEADER_BYTES:
            return None
        _, kind, flags, channel, length, _ = struct.unpack(">BBHIII", head)
        return Frame(kind, flags, channel, await self.read(length))

    async def frames(self) -> AsyncIterator[Frame]:
        """All frames up to the end."""
        while (found := await self.frame()) is not None:
            yield found

    async def await_frame(self, kind: int) -> Frame:
        """The next frame of a kind; those before it are passed over."""
        async for found in self.frames():
            if found.kind == kind:
                return found
        raise AssertionError(f"the server hung up without a frame of type {kind}")

    async def greet(self, hello_frame: bytes | None = None) -> None:
        """Preface and HELLO, both ways."""
        await self.send(PREFACE + (hello() if hello_frame is None else hello_frame))
        await self.await_frame(HELLO)

    async def open(self, channel: int = 1, service: bytes = b"echo") -> Frame:
        """Ask for a channel; returns ACCEPT or RESET."""
        await self.send(opening(channel, service))
        async for found in self.frames():
            if found.kind in (ACCEPT, RESET) and found.channel == channel:
                return found
        raise AssertionError("the server hung up")

    def close(self) -> None:
        self._connected.discard(self)
        self._sock.close()

    @classmethod
    def close_all(cls) -> None:
        """All that are still there."""
        for stranger in list(cls._connected):
            stranger.close()

    async def _receive(self) -> bytes:
        if self.was_reset:
            return b""
        try:
            return await self._loop.sock_recv(self._sock, 65536)
        except ConnectionResetError:
            self.was_reset = True
            return b""


@asynccontextmanager
async def serving(service: Service, endpoint: str = LOOPBACK, **limits: float) -> AsyncIterator[Server]:
    """A server under attack. Its strangers hang up before it stops, so that it need not wait for them."""
    async with Server([service], [endpoint], limits=Limits(**limits)) as server:  # type: ignore[arg-type]
        try:
            yield server
        finally:
            Stranger.close_all()


def split_preface(said: bytes) -> list[Frame]:
    """The frames in all that a server said, which begins with its preface."""
    assert said.startswith(PREFACE)
    found, at = [], len(PREFACE)
    while at < len(said):
        _, kind, flags, channel, length, _ = struct.unpack_from(">BBHIII", said, at)
        at += HEADER_BYTES
        found.append(Frame(kind, flags, channel, said[at : at + length]))
        at += length
    return found
