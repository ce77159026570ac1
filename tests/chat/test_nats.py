"""Two servers on one NATS are one chat: rooms, names, history; and NATS may die. With a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kernel import OptionError, Server, StartError
from kernel.plugins.chat import jetstream
from kernel.plugins.chat.client import RequestFailed
from kernel.plugins.chat.protocol import Presence, Renamed, Said, Told

from .conftest import Place

NATS = shutil.which("nats-server", path="/usr/sbin:/usr/local/bin:/usr/bin:/usr/local/sbin")
needs_nats = pytest.mark.skipif(NATS is None, reason="nats-server is not installed (Debian: apt install nats-server)")
DEADLINE_SECONDS = 60


class Nats:
    """A NATS server with JetStream on a port of its own, that can be killed and started again."""

    def __init__(self, place: Path) -> None:
        self._place = place
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self, *, jetstream: bool = True) -> None:
        assert NATS is not None
        storage = ["-js", "-sd", str(self._place / "nats")] if jetstream else []
        log = (self._place / "nats.log").open("ab")
        self._process = subprocess.Popen(
            [NATS, "-a", "127.0.0.1", "-p", str(self.port), *storage], stdout=log, stderr=log
        )
        log.close()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                if sock.recv(4) == b"INFO":
                    return
            time.sleep(0.05)
        raise AssertionError((self._place / "nats.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path)
    yield server
    server.kill()


@pytest.fixture
async def places(nats: Nats, tmp_path: Path) -> AsyncIterator[tuple[Place, Place]]:
    """Two servers on one NATS."""
    nats.start()
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name in ("a", "b"):
            plugin = f"chat?messages_per_second=10000&burst=1000&backplane={nats.url}"
            server = Server([plugin], ["tcp://127.0.0.1:0", f"unix:{tmp_path}/{name}", "udp://127.0.0.1:0"])
            await stack.enter_async_context(server)
            made.append(Place(server, stack))
        yield made[0], made[1]


@needs_nats
async def test_two_servers_are_one_chat(places: tuple[Place, Place]) -> None:
    one, other = places
    ada, bob = await one.person("ada"), await other.person("bob", "udp")
    await ada.until(lambda ada: any("bob" in event.joined for event in ada.of(Presence)))
    ids = [await ada.client.say("lobby", "hello from one"), await bob.client.say("lobby", "hello from the other")]
    for person in (ada, bob):
        await person.until(lambda person: len(person.texts()) == 2)
        assert person.texts() == ["hello from one", "hello from the other"]
        assert [said.id for said in person.of(Said)] == ids
    assert [info.nick for info in (await ada.client.who("lobby")).people] == ["ada", "bob"]
    await bob.client.tell("ada", "psst")
    await ada.until(lambda ada: ada.of(Told))
    await bob.client.set_topic("lobby", "one chat")
    await ada.client.join("~secret")
    await bob.client.join("~secret")
    await ada.client.say("~secret", "not kept")
    await bob.until(lambda bob: bob.texts("~secret") == ["not kept"])
    eve = await one.person("eve")
    room = await eve.client.join("lobby")
    assert [message.text for message in room.messages if isinstance(message, Said)] == ada.texts()
    assert room.topic == "one chat"
    found = await eve.client.search("lobby", "other")
    assert len(found.messages) == 1


@needs_nats
async def test_a_name_is_one_persons_on_all_servers(places: tuple[Place, Place]) -> None:
    one, other = places
    ada, bob = await one.person("ada"), await other.person("bob")
    with pytest.raises(RequestFailed, match="'ada' is here, and 'ADA' looks the same"):
        await other.person("ADA")
    await ada.client.rename("countess")
    await bob.until(lambda bob: bob.of(Renamed))
    await other.person("ada")
    await bob.client.close("good night")
    await ada.until(lambda ada: any(left.nick == "bob" for event in ada.of(Presence) for left in event.left))
    await one.person("bob")


@needs_nats
async def test_somebody_moves_from_one_server_to_the_other(places: tuple[Place, Place]) -> None:
    one, other = places
    ada = await one.person("ada", session="secret")
    bob = await one.person("bob")
    moved = await other.person("ada", "tcp", session="secret")
    with pytest.raises(Exception, match="the same session has come to another server"):
        await ada._task
    await moved.client.say("lobby", "here now")
    await bob.until(lambda bob: bob.texts() == ["here now"])
    assert [info.nick for info in (await bob.client.who()).people] == ["ada", "bob"]


@needs_nats
async def test_nats_is_killed_and_comes_back_nothing_is_lost_and_nothing_comes_twice(
    nats: Nats, places: tuple[Place, Place]
) -> None:
    each = 40
    people = [await places[number % 2].person(f"p{number}", "tcp" if number < 2 else "udp") for number in range(4)]

    async def talk(nick: int) -> None:
        for number in range(each):
            await people[nick].client.say("lobby", f"p{nick} {number}")

    talking = [asyncio.create_task(talk(number)) for number in range(len(people))]
    for _ in range(2):
        seen = len(people[0].texts())
        await people[0].until(lambda person, seen=seen: len(person.texts()) > seen + 20, DEADLINE_SECONDS)  # type: ignore[misc]
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.start)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(*talking)
    order = None
    for person in people:
        await person.until(lambda person: len(person.texts()) >= each * len(people), DEADLINE_SECONDS)
        assert order is None or person.texts() == order
        order = person.texts()
        for number in range(len(people)):
            said = [text for text in order if text.startswith(f"p{number} ")]
            assert said == [f"p{number} {index}" for index in range(each)]


@needs_nats
async def test_a_server_that_comes_later_knows_what_was_said(
    nats: Nats, places: tuple[Place, Place], tmp_path: Path
) -> None:
    ada = await places[0].person("ada")
    for number in range(300):
        await ada.client.say("lobby", str(number))
    mirror = f"chat?backplane={nats.url}&store={tmp_path}/mirror"
    for _ in range(2):  # the second time it goes on from its mirror
        await ada.client.say("lobby", "one more")
        async with contextlib.AsyncExitStack() as stack:
            listen = ["tcp://127.0.0.1:0", f"unix:{tmp_path}/c", "udp://127.0.0.1:0"]
            place = Place(await stack.enter_async_context(Server([mirror], listen)), stack)
            late = await place.person("late")
            page = await late.client.history("lobby", count=200)
            wanted = (await ada.client.history("lobby", count=200)).messages
            assert page.messages == wanted


@needs_nats
async def test_while_a_mirror_cannot_be_written_messages_wait_and_none_is_lost(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jetstream, "_MIRROR_RETRY_SECONDS_MAX", 0.5)
    one, other = places
    ada, bob, eve = await one.person("ada"), await other.person("bob", "udp"), await other.person("eve")
    await ada.client.say("lobby", "before")
    await bob.until(lambda bob: bob.texts() == ["before"])
    store = other.chat.backplane._store  # type: ignore[attr-defined]
    failures = 0

    def broken(*_: object) -> None:
        nonlocal failures
        failures += 1
        raise sqlite3.OperationalError("database or disk is full")

    texts = [str(number) for number in range(100)]
    with monkeypatch.context() as patched:
        patched.setattr(store, "mirror", broken)
        for text in texts:
            await ada.client.say("lobby", text)
        await ada.client.tell("bob", "psst")
        await ada.until(lambda ada: ada.texts() == ["before", *texts])
        async with asyncio.timeout(DEADLINE_SECONDS):
            # The store fails in another thread: what it could not keep is dropped a moment later.
            while failures < 3 or other.chat.backplane._arrived:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert bob.texts() == ["before"]
    for person in (bob, eve):
        await person.until(lambda person: person.texts() == ["before", *texts], DEADLINE_SECONDS)
    await bob.until(lambda bob: bob.of(Told))
    await eve.client.say("lobby", "after")
    for person in (ada, bob, eve):
        await person.until(lambda person: person.texts() == ["before", *texts, "after"], DEADLINE_SECONDS)
    assert len(bob.of(Told)) == 1
    found = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert found == ["the chat's messages cannot be written and wait in NATS"]


@needs_nats
async def test_a_slow_mirror_holds_the_streams_and_loses_nothing(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "_ARRIVED_BYTES_MAX", 2000)
    one, other = places
    ada, bob = await one.person("ada"), await other.person("bob")
    store = other.chat.backplane._store  # type: ignore[attr-defined]
    mirror = store.mirror

    def slow(*arguments: object) -> object:
        time.sleep(0.02)
        return mirror(*arguments)

    monkeypatch.setattr(store, "mirror", slow)
    texts = [str(number) for number in range(300)]
    await asyncio.gather(*(ada.client.say("lobby", text) for text in texts))
    await bob.until(lambda bob: len(bob.texts()) >= len(texts), DEADLINE_SECONDS)
    await bob.client.say("lobby", "after")
    await bob.until(lambda bob: bob.texts()[-1] == "after", DEADLINE_SECONDS)
    assert bob.texts() == [*texts, "after"]


@needs_nats
@pytest.mark.parametrize("wrong", [{"log": ""}, {"n": 1 << 63}])
async def test_what_no_chat_has_posted_holds_nobody_up(places: tuple[Place, Place], wrong: dict[str, object]) -> None:
    one, other = places
    ada, bob = await one.person("ada"), await other.person("bob")
    post = {"log": "lobby", "kind": "say", "nick": "eve", "text": "boo", "session": "s", "n": 1} | wrong
    stranger = one.chat.backplane._client  # type: ignore[attr-defined]
    await stranger.jetstream().publish("kernel.chat.log.lobby", json.dumps([post]).encode())
    await ada.client.say("lobby", "hello")
    for person in (ada, bob):
        await person.until(lambda person: person.texts() == ["hello"])


async def test_without_a_nats_server_there_is_one_line(
    nats: Nats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartError, match=rf"no NATS server answers at 127.0.0.1:{nats.port}: start one") as caught:
        await Server([f"chat?backplane={nats.url}"], [f"unix:{tmp_path}/s"]).start()
    assert "\n" not in str(caught.value)
    assert caplog.records == []
    with pytest.raises(OptionError, match="write nats://HOST:PORT"):
        await Server(["chat?backplane=redis://127.0.0.1"], [f"unix:{tmp_path}/s"]).start()


@needs_nats
async def test_without_jetstream_there_is_one_line(nats: Nats, tmp_path: Path) -> None:
    nats.start(jetstream=False)
    with pytest.raises(StartError, match=r"has no JetStream: start it with -js"):
        await Server([f"chat?backplane={nats.url}"], [f"unix:{tmp_path}/s"]).start()


@needs_nats
async def test_the_people_of_a_server_that_died_are_gone_and_their_names_free(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "_DEAD_SECONDS", 1.0)
    monkeypatch.setattr(jetstream, "_ALIVE_SECONDS", 0.2)
    one, other = places
    ada, bob = await one.person("ada"), await other.person("bob")
    await ada.until(lambda ada: any("bob" in event.joined for event in ada.of(Presence)))
    dead = other.chat.backplane
    assert isinstance(dead, jetstream.JetStreamBackplane)
    await dead._client.close()
    await ada.until(lambda ada: any(left.nick == "bob" for event in ada.of(Presence) for left in event.left))
    [left] = [left for event in ada.of(Presence) for left in event.left]
    assert left.reason == "his server is gone"
    await ada.client.rename("bob")
    await bob.leave()
