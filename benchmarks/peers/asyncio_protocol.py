"""Length-framed echo as a careful `asyncio.Protocol`: one scan, one join and one write a read. For either loop."""

from __future__ import annotations

import asyncio
from struct import Struct

from benchmarks.peers import command

HEADER = Struct(">I")


class LengthEcho(asyncio.Protocol):
    """Messages are cut into bytes objects, handed to `handle`, and framed anew: a service, not a loop-back of bytes."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.have = 0
        self.need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self.chunks:
            self.chunks.append(data)
            self.have += len(data)
            if self.have < self.need:
                return
            data = b"".join(self.chunks)
            self.chunks.clear()
        messages, start, end = [], 0, len(data)
        unpack = HEADER.unpack_from
        self.need = 4
        while end - start >= 4:
            stop = start + 4 + unpack(data, start)[0]
            if stop > end:
                self.need = stop - start
                break
            messages.append(data[start + 4 : stop])
            start = stop
        if start < end:
            self.chunks.append(data[start:])
            self.have = end - start
        if messages:
            self.handle(messages)

    def handle(self, messages: list[bytes]) -> None:
        pack = HEADER.pack
        out = []
        for message in messages:
            out.append(pack(len(message)))
            out.append(message)
        self.write(b"".join(out))


async def main(address: str) -> None:
    await command.start(address, LengthEcho)


if __name__ == "__main__":
    command.run(main, __doc__ or "")
