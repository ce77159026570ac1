"""A client that speaks the file protocol by hand, and says what no client of ours would."""

from __future__ import annotations

import os
from types import TracebackType

from kernel import ChannelClosed, Client, Code, Limits, dial
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.messages import VERSION, Again, Block, Failed, Hello, Message, Put, Ready, Start, Welcome
from kernel.plugins.file.sums import block_sum
from kernel.plugins.file.wire import Wire


class Hand:
    """One channel. Enter it with `async with`.

    Args:
        client: dialled already, for several channels on one connection; None: one of our own.
    """

    def __init__(self, endpoint: str, *, sums: bool = True, packed: bool = False, client: Client | None = None) -> None:
        self.endpoint = endpoint
        self.hello = Hello(VERSION, sums, packed)
        self._client = client
        self._owns = client is None
        self.wire: Wire

    async def __aenter__(self) -> Hand:
        if self._client is None:
            self._client = await dial(self.endpoint, limits=Limits().for_bulk())
        self.wire = Wire(await self._client.open("file", pieces=True))
        self.wire.send(self.hello)
        await self.wire.expect(Welcome)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._client is not None
        self.wire.channel.reset(Code.CANCELLED)
        if self._owns:
            self._client.abort()

    def say(self, *messages: Message | bytes) -> None:
        """Messages as they are encoded, and bytes as they are."""
        for message in messages:
            if isinstance(message, bytes):
                self.wire.channel.send(message)
            else:
                self.wire.send(message)

    async def hear(self) -> Message | None:
        return await self.wire.receive()

    async def refusal(self) -> FileError | ChannelClosed | None:
        """Why the server does not do what was asked; None: it has done it."""
        try:
            while isinstance(answer := await self.wire.receive(), Again):
                pass
        except (FileError, ChannelClosed) as error:
            return error
        return FileError(answer.kind, answer.text) if isinstance(answer, Failed) else None

    async def begin(self, path: bytes, size: int, mtime_ns: int = 1) -> Ready:
        """Announce an upload and begin it."""
        self.say(Put(path, size, mtime_ns, 0o644, "refuse"))
        ready = await self.wire.expect(Ready)
        self.say(Start(ready.held))
        return ready

    def block(self, index: int, data: bytes, sum_: bytes | None = None) -> None:
        """One block, with the right checksum unless another one is given."""
        self.say(Block(index, len(data), block_sum([data]) if sum_ is None else sum_), data)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))
