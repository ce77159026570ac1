"""Many people at once, and people who do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from server_process import ServerProcess

from kernel import Channel, Code, Server, connect
from kernel.plugins.chat.client import ChatClient
from kernel.plugins.chat.protocol import Said

from .conftest import TRANSPORTS, MakePlace, Person, RunVirtually

KERNEL = Path(sys.executable).with_name("kernel")
CROWD_SECONDS = 120
MIB = 1024 * 1024


async def test_200_people_on_three_transports_see_every_message_once_in_each_senders_order(serve: MakePlace) -> None:
    count, each = 200, 3
    place = await serve()
    people = [await place.person(f"p{number}", TRANSPORTS[number % 3]) for number in range(count)]

    async def talk(person: Person) -> None:
        for number in range(each):
            await person.client.say("lobby", f"{person.client.nick} {number}")

    await asyncio.gather(*map(talk, people))
    for person in people:
        await person.until(lambda person: person.of(Said)[-1].id >= last_id(people), CROWD_SECONDS)
    wanted = sorted(f"p{speaker} {number}" for speaker in range(count) for number in range(each))
    order = people[0].texts()
    assert sorted(order) == wanted
    for speaker in range(count):
        said = [text for text in order if text.startswith(f"p{speaker} ")]
        assert said == [f"p{speaker} {number}" for number in range(each)]
    assert all(person.texts() == order for person in people)
    assert len((await people[0].client.who("lobby")).people) == count


def last_id(people: list[Person]) -> int:
    return max(person.of(Said)[-1].id for person in people)


class Crowd:
    """A server in a process of its own, with a cap of 256 KiB, and how much memory it holds."""

    def __init__(self, place: Path) -> None:
        limits = "send_buffer_bytes_max=256KiB&slow_reader_seconds_max=2&message_bytes_max=16KiB"
        plugin = f"chat?store=memory&messages_per_second=100000&burst=100&history=false&{limits}"
        listen = ["--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0?framing=line"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
        self.server = ServerProcess(KERNEL, ["--plugin", plugin, *listen], environ, place, guard_seconds=1200)
        self.endpoint, line = self.server.endpoints
        self.line_port = int(line.removeprefix("tcp://127.0.0.1:").partition("?")[0])

    @property
    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def mute_reader(self, number: int) -> socket.socket:
        """Somebody who joins, and then reads nothing ever again."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.line_port))
        for request in ({"type": "hello", "nick": f"mute{number}"}, {"type": "join", "room": "lobby"}):
            sock.sendall(json.dumps(request).encode() + b"\n")
        return sock


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("mute", "megabytes"), [(20, 32), pytest.param(100, 1024, marks=pytest.mark.long)], ids=["short", "long"]
)
async def test_readers_that_never_read_are_evicted_and_the_others_lose_nothing(
    tmp_path: Path, mute: int, megabytes: int
) -> None:
    crowd = Crowd(tmp_path)
    message = "x" * (16 * 1024)
    count = megabytes * MIB // len(message)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(crowd.server.end)
        speaker = await guest(crowd, stack, "speaker")
        readers = [await guest(crowd, stack, f"reader{number}") for number in range(2)]
        received = [asyncio.create_task(count_messages(reader)) for reader in readers]
        drop = asyncio.create_task(count_messages(speaker))
        await speaker.say("lobby", "warm up")
        for number in range(mute - 2):
            stack.enter_context(crowd.mute_reader(number))
        lazy = [await lazy_reader(crowd.endpoint, stack, number) for number in range(2)]
        async with asyncio.timeout(CROWD_SECONDS):
            while len((await speaker.who("lobby")).people) < mute + 3:  # noqa: ASYNC110  # the server is elsewhere
                await asyncio.sleep(0.05)
        before = highest = crowd.rss_bytes
        for start in range(0, count, 64):
            await asyncio.gather(*(speaker.say("lobby", message) for _ in range(start, min(start + 64, count))))
            highest = max(highest, crowd.rss_bytes)
        await speaker.say("lobby", "end")
        async with asyncio.timeout(CROWD_SECONDS):
            assert await asyncio.gather(*received) == [count, count]
        people = (await speaker.who("lobby")).people
        assert {info.nick for info in people if not info.away} == {"speaker", "reader0", "reader1"}
        print(f"{mute} read nothing of {megabytes} MiB: the server grew by {(highest - before) / MIB:.1f} MiB")
        assert highest - before <= mute * 256 * 1024 + 8 * MIB
        for channel in lazy:
            await channel.wait_closed()
            assert channel.code is Code.SLOW_READER
            assert re.search(r"send_buffer_bytes_max|slow_reader_seconds_max", channel.reason)
        drop.cancel()


def test_who_never_reads_is_evicted_within_ten_seconds_with_a_reason(run_virtually: RunVirtually) -> None:
    """By the clock of a simulated network, which stands still while anything can be done."""
    mute, texts = 100, [f"{number} " + "x" * 8000 for number in range(400)]

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            server = Server(
                ["chat?store=memory&messages_per_second=100000&burst=1000&message_bytes_max=16KiB"],
                ["sim://hall?buffer_bytes=64KiB"],
            )
            await stack.enter_async_context(server)
            endpoint = str(server.endpoints[0])
            people = []
            for nick in ("speaker", "reader", "another"):
                client = await stack.enter_async_context(ChatClient(endpoint, nick=nick))
                await client.join("lobby")
                people.append(Person(client))
            channels = [await lazy_reader(endpoint, stack, number) for number in range(mute)]
            while len((await people[0].client.who("lobby")).people) < mute + 3:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)

            async def evicted(channel: Channel) -> float:
                await channel.wait_closed()
                return loop.time()

            watching = [asyncio.create_task(evicted(channel)) for channel in channels]
            began = loop.time()
            for text in texts:
                await people[0].client.say("lobby", text)
            ends = await asyncio.gather(*watching)
            assert max(ends) - began <= 10.0
            for channel in channels:
                assert channel.code is Code.SLOW_READER
                assert re.search(r"send_buffer_bytes_max|slow_reader_seconds_max|waited for you", channel.reason)
            for person in people:
                await person.until(lambda person: len(person.texts()) >= len(texts), 600)
                assert person.texts() == texts

    run_virtually(story())


async def guest(crowd: Crowd, stack: contextlib.AsyncExitStack, nick: str) -> ChatClient:
    client = await stack.enter_async_context(ChatClient(crowd.endpoint, nick=nick))
    await client.join("lobby", last=0)
    return client


async def lazy_reader(endpoint: str, stack: contextlib.AsyncExitStack, number: int) -> Channel:
    """Somebody who reads nothing either, but in our protocol, where the reason can be told."""
    channel = await stack.enter_async_context(connect(endpoint, "chat"))
    channel.send(b'{"type":"hello","nick":"lazy%d"}' % number)
    channel.send(b'{"type":"join","room":"lobby"}')
    channel.pause_reading()
    return channel


async def count_messages(client: ChatClient) -> int:
    """How many long messages come before the last one."""
    count = 0
    async for event in client:
        if isinstance(event, Said):
            if event.text == "end":
                break
            count += len(event.text) > 100
    return count
