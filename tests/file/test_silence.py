"""A server whose service hangs though its machine answers pings: a client that waits for it is told in the end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from file.conftest import Serving
from file.hosts import Hosting, hosting as hosting

from kernel import ChannelClosed, Code
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.download import Destination
from kernel.plugins.file.get import fetch
from kernel.plugins.file.messages import (
    Block,
    Done,
    Get,
    Message,
    Put,
    Ready,
    SmallFile,
    Source,
)
from kernel.plugins.file.sums import BLOCK_BYTES
from kernel.plugins.file.wire import Wire

GUARD_SECONDS = 60
PATIENCE_SECONDS = 0.3
MUCH = 30 * BLOCK_BYTES  # more than can be on its way

Ask = Callable[[FileClient, Path], Awaitable[object]]


async def silent(wire: Wire, _request: Message) -> None:
    """Takes everything, and answers nothing."""
    while await wire.channel.receive() is not None:
        pass


async def silent_when_it_matters(wire: Wire, request: Message) -> None:
    if isinstance(request, Put):
        wire.send(Ready(0, b""))
    elif isinstance(request, Get):
        wire.send(Source(MUCH, 0, 0o644, bytes(16), 0))
        wire.send(Block(0, BLOCK_BYTES, bytes(16)))
        wire.channel.send_piece(b"x", BLOCK_BYTES, False)
    await silent(wire, request)


async def deaf(wire: Wire, request: Message) -> None:
    """Reads nothing once an upload has begun."""
    if isinstance(request, Put):
        wire.send(Ready(0, b""))
        await wire.channel.wait_closed()


async def put_much(files: FileClient, place: Path) -> None:
    (place / "much").write_bytes(os.urandom(BLOCK_BYTES) * (MUCH // BLOCK_BYTES))
    await files.put(place / "much", b"x")


async def put_stream(files: FileClient, place: Path) -> None:
    with (place / "local").open("rb") as file:
        await files.put_stream(file.fileno(), b"x")


async def get(files: FileClient, place: Path) -> None:
    destination = Destination(place / "there", "refuse")
    try:
        await fetch(files, b"x", b"x", destination)
    finally:
        destination.close()


async def listed(files: FileClient, _place: Path) -> None:
    async for _ in files.entries(b""):
        pass


ASKS: dict[str, Ask] = {
    "stat": lambda files, place: files.stat(b"x"),
    "list": listed,
    "remove": lambda files, place: files.remove(b"x"),
    "small": lambda files, place: files.put_small([SmallFile(b"x", 0, 0o644, bytes(16), b"x")], "refuse"),
    "put": lambda files, place: files.put(place / "local", b"x"),
    "put from a pipe": put_stream,
    "get": get,
}


@pytest.mark.parametrize(
    ("play", "ask"),
    [
        *((silent, ask) for ask in ASKS.values()),
        *((silent_when_it_matters, ASKS[name]) for name in ("put", "put from a pipe", "get")),
        (deaf, put_much),
    ],
    ids=[*ASKS, "put behind the end", "put from a pipe behind the end", "get inside a block", "put to the deaf"],
)
async def test_a_server_that_hangs_is_given_up(
    hosting: Hosting, tmp_path: Path, play: Callable[[Wire, Message], Awaitable[None]], ask: Ask
):
    (tmp_path / "local").write_bytes(b"x" * 100)
    endpoint = hosting(play)
    async with asyncio.timeout(GUARD_SECONDS), FileClient(endpoint, stalled_seconds_max=PATIENCE_SECONDS) as files:
        with pytest.raises(ChannelClosed, match=r"the server has said nothing for [\d.]+ s") as closed:
            await ask(files, tmp_path)
        assert closed.value.code is Code.IDLE


async def test_our_own_silence_is_no_server_s(serving: Serving, root: Path):
    """What comes slowly out of a pipe is waited for; and a request that comes late is answered as before."""
    reading, writing = os.pipe()

    def feed() -> None:
        for _ in range(3):
            time.sleep(2 * PATIENCE_SECONDS)
            os.write(writing, b"x")
        os.close(writing)

    async with (
        asyncio.timeout(GUARD_SECONDS),
        serving() as endpoint,
        FileClient(endpoint, stalled_seconds_max=PATIENCE_SECONDS) as files,
    ):
        feeding = asyncio.ensure_future(asyncio.to_thread(feed))
        await files.put_stream(reading, b"x")
        await feeding
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        assert (await files.stat(b"x")).size == 3
    os.close(reading)


async def test_what_takes_a_server_long_is_waited_for(hosting: Hosting, tmp_path: Path):
    """The larger the file, the longer it may be synced; and a tree is removed however large it is."""

    async def play(wire: Wire, request: Message) -> None:
        await asyncio.sleep(4 * PATIENCE_SECONDS)
        if isinstance(request, Put):
            wire.send(Ready(0, b""))
            await silent(wire, request)
        else:
            wire.send(Done())

    async with asyncio.timeout(GUARD_SECONDS), FileClient(hosting(play), stalled_seconds_max=PATIENCE_SECONDS) as files:
        await files.remove(b"x", recursive=True)
        with pytest.raises(ChannelClosed, match=r"nothing for 2\.175 s"):
            await put_much(files, tmp_path)
