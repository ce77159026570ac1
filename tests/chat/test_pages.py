"""Lists that are longer than a message: of people, of rooms, of what somebody was told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from kernel import Server
from kernel.plugins.chat.client import ChatClient
from kernel.plugins.chat.pages import fitting, presences
from kernel.plugins.chat.protocol import PAGE_BYTES_MAX, PEOPLE_BYTES_MAX, Left, Told, encode
from kernel.plugins.chat.seat import Seat

from .conftest import Person, RunVirtually

PLUGIN = "chat?store=memory&messages_per_second=100000&burst=100000"
PEOPLE = 1000
FRAME_BYTES = 512
"""What the longest answer holds beside its page."""


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How long the messages were that seats have sent."""
    sizes: list[int] = []
    send = Seat.send

    def measured(seat: Seat, payloads: list[bytes]) -> None:
        sizes.extend(map(len, payloads))
        send(seat, payloads)

    monkeypatch.setattr(Seat, "send", measured)
    yield sizes
    assert max(sizes) <= PAGE_BYTES_MAX + PEOPLE_BYTES_MAX + FRAME_BYTES


def test_what_fits_is_taken_and_one_at_least() -> None:
    assert fitting(["a", "bb", "ccc"], len, 3) == (["a", "bb"], True)
    assert fitting(["a", "bb"], len, 3) == (["a", "bb"], False)
    assert fitting(["aaaa", "b"], len, 3) == (["aaaa"], True)
    assert fitting([], len, 3) == ([], False)


def test_many_who_come_and_go_at_once_are_several_messages() -> None:
    joined = [f"joined-{number}" for number in range(5000)]
    left = [Left(nick=f"left-{number}", reason="x" * 200) for number in range(1000)]
    parts = list(presences("lobby", joined, left))
    assert max(len(encode(part)) for part in parts) <= PAGE_BYTES_MAX + FRAME_BYTES
    assert [nick for part in parts for nick in part.joined] == joined
    assert [gone for part in parts for gone in part.left] == left
    assert list(presences("lobby", [], [])) == []


def test_a_thousand_people_are_all_seen_over_streams_and_datagrams(
    run_virtually: RunVirtually, longest: list[int]
) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            listen = ["sim://stream", "sim://datagrams?mode=datagram&loss=2%&seed=7"]
            server = Server([PLUGIN + "&send_buffer_bytes_max=64KiB"], listen)
            await stack.enter_async_context(server)
            stream, datagrams = map(str, server.endpoints)
            nicks = [f"person-number-{number:04}" for number in range(PEOPLE)]
            early = [Person(await come(stack, stream, "early")), Person(await come(stack, datagrams, "early-too"))]
            for nick in nicks:
                Person(await come(stack, stream, nick))
            late = [Person(await come(stack, stream, "late")), Person(await come(stack, datagrams, "late-too"))]
            everybody = {*nicks, "early", "early-too", "late", "late-too"}
            for person in (*early, *late):
                await person.until(lambda person: person.client.people["lobby"].keys() == everybody, 600)
                found = (await person.client.who("lobby")).people
                assert [info.nick for info in found] == sorted(everybody)

    run_virtually(story())


def test_all_rooms_are_listed(run_virtually: RunVirtually, longest: list[int]) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = Server([PLUGIN], ["sim://datagrams?mode=datagram"])
            await stack.enter_async_context(server)
            client = await come(stack, str(server.endpoints[0]), "ada")
            for number in range(120):
                await client.join(f"room-{number}")
                await client.set_topic(f"room-{number}", "long " * 79)
                await client.leave(f"room-{number}")
            assert len((await client.list_rooms()).rooms) == 121

    run_virtually(story())


def test_more_than_a_page_of_direct_messages_is_told(run_virtually: RunVirtually, longest: list[int]) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = Server([PLUGIN + "&linger_seconds=600"], ["sim://datagrams?mode=datagram"])
            await stack.enter_async_context(server)
            endpoint = str(server.endpoints[0])
            ada, bob = await come(stack, endpoint, "ada"), ChatClient(endpoint, nick="bob", session="secret")
            stack.push_async_callback(bob.close)
            await bob.start()
            texts = [f"{number} " + "x" * (3000 if number % 50 == 0 else 10) for number in range(500)]
            for text in texts:
                await ada.tell("bob", text)
            again = ChatClient(endpoint, nick="bob", session="secret")
            stack.push_async_callback(again.close)
            await again.start()
            person = Person(again)
            await ada.tell("bob", "last")
            await person.until(lambda person: person.of(Told) and person.of(Told)[-1].text == "last", 600)
            assert [told.text for told in person.of(Told)] == [*texts, "last"]

    run_virtually(story())


async def come(stack: contextlib.AsyncExitStack, endpoint: str, nick: str) -> ChatClient:
    client = ChatClient(endpoint, nick=nick)
    await client.start()
    stack.push_async_callback(client.close)
    await client.join("lobby")
    return client
