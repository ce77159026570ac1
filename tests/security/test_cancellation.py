"""Whatever a caller gives up, wherever it stands: the conversation goes on in step, or is over. Nobody gets a reply
that was meant for somebody else, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from security.hostile import serving, until
from security.services import Recorder

import kernel
from kernel import Channel, Client, Server
from kernel.session.stream import StreamSession


class Caller:
    """Asks on a channel of its own, and gives up now and then."""

    def __init__(self, name: str, channel: Channel, dice: random.Random) -> None:
        self._name = name
        self._channel = channel
        self._dice = dice
        self._asked = 0

    async def receive(self) -> None:
        """Ask; whoever comes next for the reply gets it, and the one after that the next one."""
        wanted = f"{self._name} {self._asked}".encode()
        self._asked += 1
        self._channel.send(wanted)
        done, reply = await given_up(self._channel.receive(), self._dice.randrange(6))
        if not done:
            reply = await self._channel.receive()
        assert reply == wanted

    async def drain(self) -> None:
        wanted = self._name.encode() * 30_000
        self._channel.send(wanted)
        await given_up(self._channel.drain(), self._dice.randrange(6))
        assert await self._channel.receive() == wanted


async def given_up(work: Coroutine[Any, Any, Any], turns: int) -> tuple[bool, Any]:
    """Let the loop turn so often, then cancel; whether it was done before, and its result."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return True, await task
    except asyncio.CancelledError:
        return False, None


async def visit(endpoint: object, word: bytes) -> None:
    async with kernel.connect(endpoint, "echo") as channel:  # type: ignore[arg-type]
        channel.send(word)
        assert await channel.receive() == word


async def open_channel(client: Client, word: bytes, turns: int) -> None:
    done, channel = await given_up(client.open("echo"), turns)
    if done:
        channel.send(word)
        assert await channel.receive() == word
        channel.close()


async def any_step(server: Server, client: Client, callers: list[Caller], dice: random.Random) -> None:
    caller, word = dice.choice(callers), dice.randbytes(8)
    match dice.randrange(5):
        case 0:
            await caller.receive()
        case 1:
            await caller.drain()
        case 2:
            await open_channel(client, word, dice.randrange(12))
        case 3:
            await given_up(client.ping(), dice.randrange(6))
            assert 0 < await client.ping() < 60
        case 4:
            await given_up(visit(server.endpoints[0], word), dice.randrange(60))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc").exists() else 0


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls"])
async def test_giving_up_anywhere(scheme: str, count: int, tmp_path: Path):
    listen = {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path}/socket",
        "tls": f"tls+tcp://127.0.0.1:0?self_signed={tmp_path}/own.pem",
    }[scheme]
    dice = random.Random(count)
    async with (
        serving(Recorder(), listen, control_frames_per_second_max=10**6) as server,
        kernel.dial(server.endpoints[0]) as client,
    ):
        callers = [Caller(f"caller {n}", await client.open("echo"), dice) for n in range(4)]
        tasks, sockets = len(asyncio.all_tasks()), descriptors()
        for _ in range(count):
            await any_step(server, client, callers, dice)
        await until(lambda: len(server._links) == 1 and len(server.channels) == 4)
        assert len(asyncio.all_tasks()) == tasks
        await until(lambda: descriptors() == sockets)
        for caller in callers:
            await caller.receive()


async def test_the_answer_to_a_ping_that_was_given_up_is_not_taken_for_that_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    sent: list[bytes] = []
    ask = StreamSession.ping
    monkeypatch.setattr(StreamSession, "ping", lambda self, payload: (sent.append(payload), ask(self, payload)))
    async with serving(Recorder()) as server, kernel.dial(server.endpoints[0]) as client:
        first = asyncio.ensure_future(client.ping())
        await asyncio.sleep(0)
        second = asyncio.ensure_future(client.ping())
        await given_up(client.ping(), 1)
        await asyncio.gather(first, second, client.ping())
    assert len(set(sent)) == len(sent) == 4


async def test_a_ping_of_a_connection_that_is_over_is_told_so():
    async with serving(Recorder()) as server:
        async with kernel.dial(server.endpoints[0]) as client:
            pass
        with pytest.raises(kernel.ChannelClosed):
            await client.ping()
