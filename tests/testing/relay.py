"""A layer that changes nothing: what deliberately broken transports start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kernel import Acceptor, Buffer, Connection, Layer, Listener, Principal, Receiver

made: list[Relay] = []
"""All relays, to clean up after those that close nothing."""


class Relay(Connection):
    """Hands every call on: the kernel's to the connection inside, that one's to the kernel."""

    def __init__(self, inner: Connection) -> None:
        made.append(self)
        self.inner = inner
        self.receiver: Receiver

    @property
    def local(self) -> str:
        return self.inner.local

    @property
    def peer(self) -> str:
        return self.inner.peer

    @property
    def principal(self) -> Principal:
        return self.inner.principal

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.inner.start(self)

    def write(self, buffers: Sequence[Buffer]) -> None:
        self.inner.write(buffers)

    @property
    def write_pending_bytes(self) -> int:
        return self.inner.write_pending_bytes

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()

    def finish_writing(self) -> None:
        self.inner.finish_writing()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    # --- the connection inside calls ---------------------------------------------------------------------------------

    def wanted(self) -> memoryview | None:
        return self.receiver.wanted()

    def filled(self, nbytes: int) -> None:
        self.receiver.filled(nbytes)

    def data_received(self, data: Buffer) -> None:
        self.receiver.data_received(data)

    def messages_received(self, messages: list[bytes]) -> None:
        self.receiver.messages_received(messages)

    def eof_received(self) -> None:
        self.receiver.eof_received()

    def write_drained(self) -> None:
        self.receiver.write_drained()

    def connection_lost(self, error: Exception | None) -> None:
        self.receiver.connection_lost(error)


class RelayLayer(Layer):
    """`relay+tcp://...`: a `Relay`, or what derives from it, around each connection."""

    name = "relay"
    wrap: ClassVar[type[Relay]] = Relay

    async def listen(self, accept: Acceptor) -> Listener:
        return await self.inner.listen(lambda connection: accept(self.wrap(connection)))

    async def dial(self) -> Connection:
        return self.wrap(await self.inner.dial())
