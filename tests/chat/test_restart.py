"""The server dies in the middle, again and again: after reconnection nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

from kernel.plugins.chat import client
from kernel.plugins.chat.client import ChatClient, Connected, Disconnected
from kernel.plugins.chat.protocol import Said, Told

from .conftest import Person

KERNEL = Path(sys.executable).with_name("kernel")
GUARD_SECONDS = 300
DEADLINE_SECONDS = 90


class Mortal:
    """A server process that dies and comes back on the same endpoints, with the same history."""

    def __init__(self, place: Path, plugin: str) -> None:
        self._place = place
        self._plugin = plugin
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
        self.endpoints = ["tcp://127.0.0.1:0", f"unix:{place}/chat.sock", "udp://127.0.0.1:0"]
        self.server: ServerProcess | None = None

    def start(self) -> None:
        listen = [flag for endpoint in self.endpoints for flag in ("--listen", endpoint)]
        arguments = ["--plugin", self._plugin, *listen]
        self.server = ServerProcess(KERNEL, arguments, self._environ, self._place, guard_seconds=GUARD_SECONDS)
        self.endpoints = self.server.endpoints

    def kill(self) -> None:
        if self.server is not None:
            self.server.end()
            self.server = None


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    rate = "messages_per_second=1000&burst=100"
    mortal = Mortal(tmp_path, f"chat?store={tmp_path}/chat.sqlite&{rate}")
    mortal.start()
    yield mortal
    mortal.kill()


async def gather_people(mortal: Mortal, stack: contextlib.AsyncExitStack, count: int, **options: Any) -> list[Person]:
    people = []
    for number in range(count):
        chat = ChatClient(mortal.endpoints[number % len(mortal.endpoints)], nick=f"p{number}", **options)
        await chat.start()
        person = Person(chat)
        stack.push_async_callback(person.leave)
        await chat.join("lobby")
        people.append(person)
    return people


async def say_all(person: Person, count: int) -> None:
    for number in range(count):
        await person.client.say("lobby", f"{person.client.nick} {number}")


async def test_killed_in_the_middle_everybody_sees_every_message_once_and_in_order(mortal: Mortal) -> None:
    each = 60
    async with contextlib.AsyncExitStack() as stack:
        people = await gather_people(mortal, stack, 6)
        talking = [asyncio.create_task(say_all(person, each)) for person in people]
        for _ in range(2):
            seen = len(people[0].texts())
            await people[0].until(lambda person, seen=seen: len(person.texts()) > seen + 20)  # type: ignore[misc]
            await asyncio.to_thread(mortal.kill)
            await asyncio.to_thread(mortal.start)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*talking)
        for person in people:
            await person.until(lambda person: len(person.texts()) >= each * len(people), DEADLINE_SECONDS)
        for person in people:
            assert len(person.texts()) == each * len(people)
            ids = [said.id for said in person.of(Said)]
            assert ids == sorted(set(ids))
            for speaker in people:
                said = [text for text in person.texts() if text.startswith(f"{speaker.client.nick} ")]
                assert said == [f"{speaker.client.nick} {number}" for number in range(each)]
        assert any(connected.again for connected in people[0].of(Connected))


async def test_over_datagrams_a_server_that_was_restarted_says_so_at_once(
    mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CLIENT_ASKS_SECONDS", 3600.0)
    async with contextlib.AsyncExitStack() as stack:
        *_, speaker = await gather_people(mortal, stack, 3)
        await speaker.client.say("lobby", "before")
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
        await speaker.client.say("lobby", "after")
        await speaker.until(lambda speaker: speaker.texts() == ["before", "after"], DEADLINE_SECONDS)
        assert [lost.reason for lost in speaker.of(Disconnected)] == ["unknown connection"]


async def test_direct_messages_are_not_lost_either(mortal: Mortal) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ada, bob = await gather_people(mortal, stack, 2)
        await ada.client.tell("p1", "before")
        await asyncio.to_thread(mortal.kill)
        waiting = asyncio.create_task(ada.client.tell("p1", "meanwhile"))
        await asyncio.to_thread(mortal.start)
        await bob.until(lambda bob: bob.of(Connected)[-1].again)
        with contextlib.suppress(Exception):  # bob may have come back later than ada
            await waiting
        delivered = waiting.exception() is None
        await ada.client.tell("p1", "after")
        await bob.until(lambda bob: bob.of(Told) and bob.of(Told)[-1].text == "after")
        assert [told.text for told in bob.of(Told)] == ["before", *(["meanwhile"] if delivered else []), "after"]


async def test_who_missed_more_than_a_page_gets_all_pages(mortal: Mortal) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ada, _, bob = await gather_people(mortal, stack, 3)
        await ada.client.say("lobby", "first")
        await bob.until(lambda bob: bob.texts())
        state = bob.client._rooms["lobby"].last_id, bob.client._session
        await bob.leave()
        for number in range(450):
            await ada.client.say("lobby", f"{number} " + "x" * 300)
        late = ChatClient(mortal.endpoints[2], nick="p2", session=state[1])
        await late.start()
        watcher = Person(late)
        stack.push_async_callback(watcher.leave)
        room = await late.join("lobby", since=state[0])
        await ada.client.say("lobby", "last")
        await watcher.until(lambda person: person.texts()[-1:] == ["last"])
        numbers = [text.split()[0] for text in watcher.texts()]
        assert numbers == [*map(str, range(450)), "last"]
        assert room.more


async def test_what_is_said_after_a_history_was_lost_is_heard(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, "chat?store=memory")
    mortal.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            ada, bob = await gather_people(mortal, stack, 2)
            for text in ("one", "two", "three"):
                await ada.client.say("lobby", text)
            await ada.client.tell("p1", "before")
            await asyncio.to_thread(mortal.kill)
            await asyncio.to_thread(mortal.start)
            await ada.client.say("lobby", "after")
            await ada.until(lambda ada: ada.texts()[-1:] == ["after"], DEADLINE_SECONDS)
            await bob.until(lambda bob: bob.texts()[-1:] == ["after"], DEADLINE_SECONDS)
            await ada.client.tell("p1", "after")
            await bob.until(lambda bob: [told.text for told in bob.of(Told)] == ["before", "after"], DEADLINE_SECONDS)
    finally:
        mortal.kill()
