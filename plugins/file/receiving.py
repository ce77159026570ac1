"""The receiving half of a transfer, the same at the server (put) and at the client (get).

    event loop:  Block(index, sum), then its bytes as they were received ->
    worker:      verify the sum, write

The event loop takes the next block from the network while the worker verifies and writes the ones before; it stops
reading when some wait, which the sender feels as back-pressure. Nothing is joined or copied on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

from xxhash import xxh3_128

from .errors import FileError
from .messages import Block, End, Hole
from .sending import Limiter, Moved, ignore
from .sums import BLOCK_BYTES, SUM_BYTES, block_bytes, block_count, digest_end, zeros_sums
from .threads import Worker
from .wire import Wire

# Blocks that have come and wait to be written.
WAITING_BLOCKS_MAX = 4
# How often the same blocks are asked for before we give up.
ROUNDS_MAX = 3

Unpack = Callable[[list[bytes], int], list[bytes]]
"""Decompresses a block to so many bytes, never more."""


class Target(Protocol):
    """Where blocks go: a file on disk, or standard output. Its methods run in the worker's thread."""

    @property
    def size(self) -> int: ...
    def take_damaged(self) -> list[int]: ...
    def write(self, index: int, parts: list[bytes], sum_: bytes) -> None: ...
    def hole(self, index: int, count: int) -> None: ...


async def receive_blocks(
    wire: Wire,
    target: Target,
    worker: Worker,
    *,
    first: int,
    unpack: Unpack | None = None,
    moved: Moved = ignore,
    limiter: Limiter | None = None,
    in_order: bool = True,
    summed: bool = True,
    ended: Callable[[], None] = lambda: None,
) -> End:
    """Take blocks up to the sender's `End`; on return all of them are written, or in `target.damaged`.

    Args:
        first: with which block it must begin.
        unpack: for compressed blocks; None: there must be none.
        in_order: each block must be the next one; off: they are sent once more, in any order.
        summed: there must be checksums; off: there must be none.
        ended: is called when the sender has said its last word, also if what it sent is of no use then.

    Raises:
        FileError: the sender stopped, or what it sends makes no sense.
        ChannelClosed: it is gone.
        OSError: a block cannot be written.
    """
    limiter = limiter or Limiter()
    due = first
    announced = xxh3_128()
    while True:
        message = await wire.expect(Block, Hole, End)
        if isinstance(message, End):
            ended()
            await worker.flush()
            _check_sum(message.digest, summed=summed)
            if in_order and due != block_count(message.size):
                raise FileError("protocol", f"the file ends after {due} blocks of {block_count(message.size)}")
            announced.update(digest_end(message.size))
            if message.digest and message.digest != announced.digest():
                raise FileError("digest", "the digest of what arrived is not that of what was sent: repeat")
            return message
        if in_order and message.index != due:
            raise FileError("protocol", f"block {message.index} came where block {due} was due")
        if isinstance(message, Hole):
            _check_hole(message, target.size)
            await worker.submit(functools.partial(target.hole, message.index, message.count))
            due = message.index + message.count
            for sums_ in zeros_sums(message.index, message.count, target.size):
                announced.update(sums_)
            moved(min(due * BLOCK_BYTES, target.size) - message.index * BLOCK_BYTES)
            continue
        _check_block(message, target.size)
        if message.packed and unpack is None:
            raise FileError("protocol", "a compressed block, where nobody asked for compression")
        _check_sum(message.sum, summed=summed)
        await limiter.spend(message.packed or message.nbytes)
        parts = await wire.block(message.packed or message.nbytes)
        await worker.submit(functools.partial(_write, target, message, parts, unpack))
        due = message.index + 1
        announced.update(message.sum)
        moved(message.nbytes)


def _write(target: Target, block: Block, parts: list[bytes], unpack: Unpack | None) -> None:
    if block.packed and unpack is not None:
        parts = unpack(parts, block.nbytes)
    target.write(block.index, parts, block.sum)


def _check_block(block: Block, size: int) -> None:
    """A block has the length that its place asks for; the last one of a stream may be shorter."""
    if size >= 0:
        wanted = block_bytes(block.index, size) if 0 <= block.index < block_count(size) else -1
        fits = block.nbytes == wanted
    else:
        fits = block.index >= 0 and 0 < block.nbytes <= BLOCK_BYTES
    if not fits or not 0 <= block.packed <= block.nbytes:
        raise FileError("protocol", f"block {block.index} has {block.nbytes} bytes, which does not fit the file")


def _check_sum(sum_: bytes, *, summed: bool) -> None:
    """Whoever agreed on checksums is not talked out of them by a peer that leaves them away."""
    if len(sum_) != (SUM_BYTES if summed else 0):
        raise FileError(
            "protocol", f"a checksum of {len(sum_)} bytes, where {SUM_BYTES if summed else 0} were agreed on"
        )


def _check_hole(hole: Hole, size: int) -> None:
    if size < 0 or hole.count < 1 or hole.index < 0 or hole.index + hole.count > block_count(size):
        raise FileError("protocol", f"a hole of {hole.count} blocks at block {hole.index} does not fit the file")
