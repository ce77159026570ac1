"""A stream transport over sockets in Linux's abstract namespace: `abstract://name`.

asyncio's own transport reads, writes and buffers; the classes here translate between its callbacks and the kernel's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from kernel import (
    Acceptor,
    Buffer,
    Capabilities,
    Connection,
    DialError,
    Endpoint,
    Listener,
    Receiver,
    StartError,
    Transport,
)


class AbstractConnection(Connection, asyncio.Protocol):
    """One connected socket. asyncio calls the protocol's methods, the kernel those of `Connection`."""

    def __init__(self, address: str, made: Callable[[AbstractConnection], None]) -> None:
        self._address = address
        self._made = made
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        transport.pause_reading()
        self._made(self)

    def data_received(self, data: bytes) -> None:
        assert self._receiver is not None
        self._receiver.data_received(data)

    def eof_received(self) -> bool:
        assert self._receiver is not None
        self._receiver.eof_received()
        return True  # our direction stays open

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.write_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._receiver is not None:
            self._receiver.connection_lost(exc)

    @property
    def local(self) -> str:
        return self._address

    @property
    def peer(self) -> str:
        return self._address

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport.resume_reading()

    def write(self, buffers: Sequence[Buffer]) -> None:
        if not self._transport.is_closing():
            self._transport.writelines(buffers)

    @property
    def write_pending_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def finish_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class AbstractListener(Listener):
    """A bound name. asyncio's server accepts; one that may accept no more closes what comes."""

    def __init__(self, endpoint: Endpoint, accept: Acceptor) -> None:
        self._endpoint = endpoint
        self._accept = accept
        self._paused = False
        self._server: asyncio.Server

    async def bind(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: AbstractConnection(self._endpoint.address, self._accepted), path
        )

    def _accepted(self, connection: AbstractConnection) -> None:
        if self._paused:
            connection.abort()
        else:
            self._accept(connection)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    async def close(self) -> None:
        self._server.close()


class Abstract(Transport):
    """Sockets with a name and without a file, for processes of one machine (Linux)."""

    name = "abstract"

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=True)

    def _path(self) -> str:
        return "\0" + self.endpoint.address

    async def listen(self, accept: Acceptor) -> Listener:
        if sys.platform != "linux":
            raise StartError(f"{self.endpoint} needs Linux: take unix:/path instead")
        listener = AbstractListener(self.endpoint, accept)
        try:
            await listener.bind(self._path())
        except OSError as error:
            raise StartError(f"{self.endpoint} cannot be bound ({error.strerror}): choose another name") from None
        return listener

    async def dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(
                lambda: AbstractConnection(self.endpoint.address, lambda _: None), self._path()
            )
        except OSError as error:
            raise DialError(f"{self.endpoint} does not answer ({error.strerror}): is the server running?") from None
        return connection
