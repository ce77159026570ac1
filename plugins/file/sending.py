"""The sending half of a transfer, the same at the client (put) and at the server (get).

    thread:      read and sum a block, some ahead ->
    event loop:  Block(index, sum), then the block itself, left to sendfile where the connection can

A compressed block travels as zstd makes it; one that would not become smaller travels as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from kernel.errors import Code

from . import sums
from .messages import Block, End, Hole
from .source import Outgoing, Source
from .sums import SUM_BYTES, block_count
from .threads import Ahead
from .wire import Wire

# Blocks that are read and summed, and wait for the network.
_AHEAD = 4

Moved = Callable[[int], None]
Pack = Callable[[bytes], bytes | None]
"""Compresses a block; None: it is not worth it."""


class Limiter:
    """Holds a transfer to a rate. One for all files of a command; 0: no limit."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        self._rate = bytes_per_second
        self._due = 0.0

    async def spend(self, nbytes: int) -> None:
        """Wait until so much more may move."""
        if self._rate:
            now = time.monotonic()
            self._due = max(self._due, now) + nbytes / self._rate
            if self._due - nbytes / self._rate > now:
                await asyncio.sleep(self._due - nbytes / self._rate - now)

    @property
    def piece_bytes(self) -> int:
        """So much at a time: what moves within a second, else a peer would take a low rate for silence."""
        return min(self._rate or sums.BLOCK_BYTES, sums.BLOCK_BYTES)


def ignore(nbytes: int) -> None:
    """Nobody wants to know how far it is."""


async def send_block(wire: Wire, block: Block, data: bytes, limiter: Limiter) -> None:
    """A block and its bytes. Who is cancelled between them resets the channel: half a block has left."""
    wire.send(block)
    try:
        for at in range(0, len(data), limiter.piece_bytes):
            piece = data[at : at + limiter.piece_bytes]
            await limiter.spend(len(piece))
            await wire.channel.drain()
            wire.channel.send_piece(piece, len(data), at + len(piece) == len(data))
    except BaseException:
        wire.channel.reset(Code.CANCELLED, "the sender stopped inside a block")
        raise
    await wire.channel.drain()


class Sender:
    """Sends one file's blocks, and at last its `End`.

    Args:
        first: where it begins; the blocks before are there already.
        summed: with checksums.
        pack: compresses blocks; None: they are sent as they are.
        moved: is told of each block's bytes, as it is handed over.
    """

    def __init__(
        self,
        wire: Wire,
        source: Source,
        *,
        first: int = 0,
        summed: bool = True,
        pack: Pack | None = None,
        moved: Moved = ignore,
        limiter: Limiter | None = None,
    ) -> None:
        self._wire = wire
        self._source = source
        self._first = first
        self._summed = summed
        self._pack = pack
        self._moved = moved
        self._limiter = limiter or Limiter()
        self._sent = bytearray()
        self._sums = bytearray((block_count(source.size) - first) * SUM_BYTES if summed else 0)

    async def send(self, indices: Iterable[int]) -> None:
        """Send these blocks, then `End`.

        Raises:
            FileError: the file changed meanwhile.
            ChannelClosed: the peer is gone.
            OSError: it cannot be read.
        """
        wire, source = self._wire, self._source
        self._sent.clear()
        ahead = Ahead(self._produce(indices), _AHEAD)
        try:
            with wire.talks():
                async for item in ahead:
                    await self._send(item)
        finally:
            await ahead.end()
        source.check_unchanged()
        digest = sums.digest(self._sent, source.size) if self._summed else b""
        wire.send(End(source.size, digest))
        await wire.channel.drain()

    async def send_all(self) -> None:
        """Everything from `first` on."""
        await self.send(range(self._first, block_count(self._source.size)))

    @property
    def sums(self) -> bytearray:
        """The sums of all blocks from `first` on, as far as they were sent."""
        return self._sums

    def _produce(self, indices: Iterable[int]) -> Iterator[Outgoing]:
        paced = self._limiter.piece_bytes < sums.BLOCK_BYTES
        read = paced or self._pack is not None or not self._wire.channel.sends_files
        for item in self._source.blocks(indices, summed=self._summed, read=read):
            if self._pack is not None and item.data is not None:
                packed = self._pack(item.data)
                yield Outgoing(item.index, item.nbytes, item.sum, item.data, packed)
            else:
                yield item

    async def _send(self, item: Outgoing) -> None:
        if item.count:
            self._send_hole(item.index, item.count)
            return
        self._remember(item.index, item.sum)
        if item.packed is not None:
            block = Block(item.index, item.nbytes, item.sum, len(item.packed))
            await send_block(self._wire, block, item.packed, self._limiter)
        elif item.data is not None:
            await send_block(self._wire, Block(item.index, item.nbytes, item.sum), item.data, self._limiter)
        else:
            await self._limiter.spend(item.nbytes)
            self._wire.send(Block(item.index, item.nbytes, item.sum))
            await self._wire.channel.send_file(self._source.fd, item.index * sums.BLOCK_BYTES, item.nbytes)
        self._moved(item.nbytes)

    def _send_hole(self, index: int, count: int) -> None:
        self._wire.send(Hole(index, count))
        end_bytes = min((index + count) * sums.BLOCK_BYTES, self._source.size)
        self._moved(end_bytes - index * sums.BLOCK_BYTES)
        for sums_ in sums.zeros_sums(index, count, self._source.size):
            self._remember(index, sums_)
            index += len(sums_) // SUM_BYTES

    def _remember(self, index: int, sums_: bytes) -> None:
        """The sums of blocks from this one on."""
        if self._summed:
            self._sent += sums_
            at = (index - self._first) * SUM_BYTES
            self._sums[at : at + len(sums_)] = sums_
