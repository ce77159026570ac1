"""Clients that speak the protocol by hand: what lies, what makes no sense, what never ends.

After each of them the server still serves, nothing stands under the name, and no descriptor is left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from file.conftest import Serving
from file.hands import Hand, descriptors

from kernel import ChannelClosed, Code
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.messages import (
    Again,
    Block,
    Directories,
    Directory,
    End,
    Entries,
    Failed,
    Get,
    Hole,
    Message,
    Put,
    PutSmall,
    SmallFile,
    Stat,
    Stored,
)
from kernel.plugins.file.partial import Partial
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum, digest

GUARD_SECONDS = 120
BLOCK = os.urandom(BLOCK_BYTES)
SUM = block_sum([BLOCK])
HUGE = 1 << 62

Say = Callable[[Hand], None]


def blocks(*indices: int) -> Say:
    def say(hand: Hand) -> None:
        for index in indices:
            hand.block(index, BLOCK)
        hand.say(End(3 * BLOCK_BYTES, digest(SUM * len(indices), 3 * BLOCK_BYTES)))

    return say


def saying(*messages: Message | bytes) -> Say:
    return lambda hand: hand.say(*messages)


WHOLE = End(3 * BLOCK_BYTES, digest(SUM * 3, 3 * BLOCK_BYTES))

NONSENSE = {
    "out of order": blocks(1, 0, 2),
    "twice": blocks(0, 0, 1, 2),
    "one left out": blocks(0, 2),
    "too few": blocks(0, 1),
    "beyond the end": blocks(0, 1, 2, 3),
    "far beyond the end": saying(Block(HUGE, BLOCK_BYTES, SUM), BLOCK),
    "too long": saying(Block(0, BLOCK_BYTES + 1, SUM), BLOCK + b"x"),
    "too short": saying(Block(0, 5, block_sum([b"short"])), b"short"),
    "of no bytes": saying(Block(0, 0, block_sum([])), b""),
    "announced as longer than it is": saying(Block(0, BLOCK_BYTES, SUM), b"short"),
    "announced as shorter than it is": saying(Block(0, BLOCK_BYTES, SUM), BLOCK + b"x"),
    "compressed to nothing": saying(Block(0, BLOCK_BYTES, SUM, packed=BLOCK_BYTES + 1), BLOCK + b"x"),
    "compressed, and it is not": saying(
        Block(0, BLOCK_BYTES, SUM, packed=5), b"short", End(BLOCK_BYTES, digest(SUM, BLOCK_BYTES))
    ),
    "without a checksum": saying(Block(0, BLOCK_BYTES, b""), BLOCK),
    "a hole of nothing": saying(Hole(0, 0)),
    "a hole beyond the end": saying(Hole(0, 4)),
    "a hole without end": saying(Hole(0, HUGE)),
    "another length at the end": saying(End(5, digest(b"", 5))),
    "no length at the end": saying(End(0, digest(b"", 0))),
    "a message of another kind": saying(Stat(b"")),
    "a request in the middle": saying(Block(0, BLOCK_BYTES, SUM), BLOCK, Get(b"x")),
    "what is no message": saying(b"\xc1\xc1"),
    "nothing": saying(b""),
    "a message without end": saying(bytes(1024 * 1024)),
}


async def served(endpoint: str, root: Path, tmp_path: Path) -> None:
    """The server is as it was: it stores a file, and gives it back."""
    (tmp_path / "good").write_bytes(b"good")
    async with FileClient(endpoint) as files:
        await files.put(tmp_path / "good", b"good", policy="replace")
    assert (root / "good").read_bytes() == b"good"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [3 * BLOCK_BYTES, -1], ids=["of a known length", "a stream"])
async def test_nonsense_is_refused_and_stores_nothing(
    size: int, serving: Serving, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        before = descriptors()
        for what, say in NONSENSE.items():
            if size < 0 and what in ("too short", "beyond the end", "no length at the end"):
                continue  # that is how a stream may be
            async with Hand(endpoint) as hand:
                await hand.begin(b"victim", size)
                say(hand)
                refused = await hand.refusal()
                assert refused is not None, what
                assert "\n" not in str(refused), what
                assert "internal" not in str(refused), what
            assert not (root / "victim").exists(), what
            await until(lambda: descriptors() <= before)
        await served(endpoint, root, tmp_path)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_stream_is_as_long_as_what_came(serving: Serving, root: Path):
    """Blocks that are short in the middle, or an end that claims more, would be a digest of something else."""
    few = serving("writable=1&file_bytes_max=10")
    async with asyncio.timeout(GUARD_SECONDS), few as endpoint, Hand(endpoint) as hand:
        await hand.begin(b"more", -1)
        hand.block(0, b"x")
        hand.say(End(1000, digest(block_sum([b"x"]), 1000)))
        with pytest.raises((FileError, ChannelClosed), match="1 bytes came"):
            await hand.wire.expect(Stored)
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1") as endpoint, Hand(endpoint) as hand:
        await hand.begin(b"short", -1)
        hand.block(0, b"x")
        hand.block(1, b"y")
        size = BLOCK_BYTES + 1
        hand.say(End(size, digest(block_sum([b"x"]) + block_sum([b"y"]), size)))
        with pytest.raises((FileError, ChannelClosed), match="does not fit"):
            await hand.wire.expect(Stored)
    assert os.listdir(root) == [".kernel-file"]


@pytest.mark.parametrize("size", [3 * BLOCK_BYTES, -1], ids=["of a known length", "a stream"])
@pytest.mark.parametrize("again", ["nothing", "another block", "a hole", "a short one", "far behind"])
async def test_a_damaged_block_is_made_good_or_the_file_is_not_stored(
    size: int, again: str, serving: Serving, root: Path
):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, Hand(endpoint) as hand:
        await hand.begin(b"victim", size)
        hand.block(0, BLOCK)
        hand.say(Block(1, BLOCK_BYTES, SUM), bytes(BLOCK_BYTES))
        hand.block(2, BLOCK)
        hand.say(WHOLE)
        assert (await hand.wire.expect(Again)).blocks == [1]
        sent = b""
        if again == "another block":
            hand.block(0, BLOCK)
            sent = SUM
        elif again == "a hole":
            hand.say(Hole(1, 1))
            sent = block_sum([bytes(BLOCK_BYTES)])
        elif again == "a short one":
            hand.block(1, b"x")
            sent = block_sum([b"x"])
        elif again == "far behind":
            hand.block(10_000_000, BLOCK)
            sent = SUM
        hand.say(End(3 * BLOCK_BYTES, digest(sent, 3 * BLOCK_BYTES)))
        assert await hand.refusal() is not None
        assert not (root / "victim").exists()


async def test_numbers_out_of_bounds_are_refused_as_what_they_are(
    serving: Serving, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Without a traceback in the log: it would be one for each message of a hostile client."""
    beyond = (1 << 64) - 1
    messages: list[Message] = [
        Put(b"victim", beyond, 0, 0o644, "refuse"),
        Put(b"victim", HUGE, 0, 0o644, "refuse"),
        Put(b"victim", -2, 0, 0o644, "refuse"),
        Put(b"victim", 2 * BLOCK_BYTES, beyond, 0o644, "refuse"),
        Put(b"victim", 2 * BLOCK_BYTES, 0, -1, "refuse"),
        Get(b"there", held=-1, version=bytes(16)),
        Get(b"there", blocks=[-1]),
        Get(b"there", blocks=[1]),
        Get(b"there", blocks=[beyond]),
        PutSmall([SmallFile(b"victim", beyond, 0o644, block_sum([b"x"]), b"x")], "refuse"),
        PutSmall([SmallFile(b"victim", 0, -1, block_sum([b"x"]), b"x")], "refuse"),
        Directories([Directory(b"victim", 0o755, beyond)]),
        Directories([Directory(b"victim", -1, 0)]),
    ]
    (root / "there").write_bytes(b"x")
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        for message in messages:
            async with Hand(endpoint) as hand:
                hand.say(message)
                refused = await hand.refusal()
                assert refused is not None, message
                assert not isinstance(refused, ChannelClosed) or refused.code is Code.PROTOCOL, message
        await served(endpoint, root, tmp_path)
    assert sorted(os.listdir(root)) == [".kernel-file", "good", "there"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_refused_upload_is_not_held_in_memory(serving: Serving):
    """What is still on its way is dropped, block by block; a block without end is no block."""
    async with (
        asyncio.timeout(GUARD_SECONDS),
        serving("writable=1&file_bytes_max=10") as endpoint,
        Hand(endpoint) as hand,
    ):
        await hand.begin(b"victim", -1)
        for index in range(8):
            hand.block(index, BLOCK)
        assert isinstance(await hand.hear(), Failed)
        hand.say(Block(0, HUGE, SUM))
        with pytest.raises(ChannelClosed) as refused:
            await hand.hear()
        assert refused.value.code is Code.PROTOCOL


async def test_a_name_that_is_taken_costs_nothing(serving: Serving, root: Path, tmp_path: Path):
    """Who is told that a name is busy leaves no descriptor behind, and does not spoil what is being sent."""
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, Hand(endpoint) as first, Hand(endpoint) as second:
        await first.begin(b"victim", 3 * BLOCK_BYTES)
        first.block(0, BLOCK)
        second.say(Stat(b""))
        await second.wire.expect(Entries)
        before = descriptors()
        for _ in range(50):
            with pytest.raises(FileError, match="somebody else"):
                await second.begin(b"victim", 3 * BLOCK_BYTES)
        assert descriptors() <= before
        first.block(1, BLOCK)
        first.block(2, BLOCK)
        first.say(WHOLE)
        assert (await first.wire.expect(Stored)).path == b"victim"
        assert (root / "victim").read_bytes() == BLOCK * 3


def test_a_finished_file_is_never_taken_for_an_unfinished_one(tmp_path: Path):
    """Between opening an unfinished upload and locking it, it may get its name: whoever comes then begins anew."""
    directory = os.open(tmp_path, os.O_RDONLY)

    class Late(Partial):
        def _lock(self) -> None:
            if first._fd >= 0:
                first.check(len(data), summed=True)
                first.commit(directory, b"final", "refuse", 0o644, 1)
            super()._lock()

    data = BLOCK + b"x"
    first = Partial(directory, b"hidden", len(data), 1)
    first.begin(resume=True)
    first.write(0, [BLOCK], SUM)
    first.write(1, [b"x"], block_sum([b"x"]))
    second = Late(directory, b"hidden", len(data), 2)
    second.begin(resume=True)
    assert (tmp_path / "final").read_bytes() == data
    second.write(0, [bytes(BLOCK_BYTES)], block_sum([bytes(BLOCK_BYTES)]))
    second.discard()
    assert (tmp_path / "final").read_bytes() == data
    assert os.listdir(tmp_path) == ["final"]
    os.close(directory)


async def test_random_messages_do_no_harm(
    serving: Serving, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Arrays as our messages are, with anything in them."""
    rng = random.Random(5)
    values: list[object] = [0, 1, -1, HUGE, -HUGE, b"", b"a", b"../a", "", "refuse", True, None, [], [b"a"], {}, 1.5]
    tags = [*range(6), 9, *range(10, 16), *range(20, 26), *range(30, 34), *range(40, 45), 99]
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        for _ in range(150):
            async with Hand(endpoint) as hand:
                with contextlib.suppress(FileError, ChannelClosed):
                    for _ in range(5):
                        body = [rng.choice(values) for _ in range(rng.randrange(8))]
                        hand.say(msgspec.msgpack.encode([rng.choice(tags), *body]))
                        hand.say(Stat(b""))
                        await hand.hear()
        await served(endpoint, root, tmp_path)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert sorted(os.listdir(tmp_path)) == ["good", "root"]
