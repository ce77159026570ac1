"""Rooms, people and messages, in one process and over real sockets of three transports."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import re
import sqlite3
import time
from typing import Any

import pytest

from kernel import Code, OptionError, Server
from kernel.plugins.chat import service, store
from kernel.plugins.chat.client import ChatClient, RequestFailed
from kernel.plugins.chat.protocol import Failed, Notice, Presence, Renamed, Said, Told, TopicSet
from kernel.plugins.chat.store import Store

from .conftest import MakePlace, Person, Place


async def test_people_on_three_transports_share_a_room(serve: MakePlace) -> None:
    place = await serve()
    people = [await place.person(f"on-{transport}", transport) for transport in place.endpoints]
    for person in people:
        await person.client.say("lobby", f"hello from {person.client.nick}")
    spoken = ["hello from on-tcp", "hello from on-unix", "hello from on-udp"]
    for person in people:
        await person.until(lambda person: len(person.texts()) == 3)
        assert person.texts() == spoken


async def test_ids_grow_and_the_speaker_learns_his(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob", "udp")
    ids = [await person.client.say("lobby", str(number)) for number in range(5) for person in (ada, bob)]
    assert ids == sorted(set(ids))
    await bob.until(lambda bob: len(bob.texts()) == 10)
    assert [said.id for said in bob.of(Said)] == ids


async def test_a_room_is_only_heard_by_those_in_it(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada", "tcp", "tea", "lobby"), await place.person("bob")
    await ada.client.say("tea", "only for tea")
    await ada.client.say("lobby", "for all")
    await bob.until(lambda bob: bob.texts())
    assert [said.text for said in bob.of(Said)] == ["for all"]
    with pytest.raises(RequestFailed, match="you are not in the room 'tea': join it first"):
        await bob.client.say("tea", "let me in")


async def test_a_joiner_sees_the_last_messages_the_topic_and_who_is_here(serve: MakePlace) -> None:
    place = await serve()
    ada = await place.person("ada")
    await ada.client.set_topic("lobby", "numbers")
    for number in range(60):
        await ada.client.say("lobby", str(number))
    bob = await place.person("bob")
    room = await bob.client.join("lobby", last=10)
    assert [message.text for message in room.messages if isinstance(message, Said)] == [str(n) for n in range(50, 60)]
    assert (room.topic, room.people) == ("numbers", ["ada", "bob"])
    nothing = await bob.client.join("lobby", last=0)
    assert (nothing.messages, nothing.last_id) == ([], room.last_id)


async def test_comings_and_goings_are_seen(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob", "udp")
    await ada.until(lambda ada: any("bob" in event.joined for event in ada.of(Presence)))
    await bob.client.leave("lobby")
    await ada.until(lambda ada: any(left.nick == "bob" for event in ada.of(Presence) for left in event.left))
    eve = await place.person("eve")
    await ada.until(lambda ada: any("eve" in event.joined for event in ada.of(Presence)))
    await eve.client.close("good night")
    await ada.until(
        lambda ada: any((left.nick, left.reason) == ("eve", "good night") for e in ada.of(Presence) for left in e.left)
    )
    assert list(ada.client.people["lobby"]) == ["ada"]


async def test_who_rooms_and_topics_are_listed(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada", "tcp", "tea"), await place.person("bob", "unix", "lobby", "tea")
    await bob.client.set_topic("tea", "leaves")
    await ada.until(lambda ada: ada.of(TopicSet))
    rooms = await ada.client.list_rooms()
    assert [(info.room, info.people, info.topic) for info in rooms.rooms] == [("tea", 2, "leaves"), ("lobby", 1, "")]
    everybody = (await ada.client.who()).people
    assert [(info.nick, info.rooms) for info in everybody] == [("ada", ["tea"]), ("bob", ["lobby", "tea"])]
    assert everybody[1].principal.startswith("unix:")
    assert [info.nick for info in (await ada.client.who("lobby")).people] == ["bob"]


async def test_direct_messages_reach_one_person(serve: MakePlace) -> None:
    place = await serve()
    ada, bob, eve = await place.person("ada"), await place.person("bob", "udp"), await place.person("eve", "unix")
    await ada.client.tell("Bob", "psst")
    await ada.client.say("lobby", "all")
    await bob.until(lambda bob: bob.of(Told))
    await eve.until(lambda eve: eve.texts())
    [told] = bob.of(Told)
    assert (told.nick, told.text) == ("ada", "psst")
    assert eve.of(Told) == []
    with pytest.raises(RequestFailed, match="there is no 'nobody' here"):
        await ada.client.tell("nobody", "psst")


async def test_a_new_name_is_seen_by_all_who_share_a_room(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob")
    await ada.client.rename("Countess")
    await bob.until(lambda bob: bob.of(Renamed))
    assert [(event.old, event.new) for event in bob.of(Renamed)] == [("ada", "Countess")]
    assert ada.client.nick == "Countess"
    assert "Countess" in bob.client.people["lobby"]
    await bob.client.tell("countess", "hello")
    await place.person("ada")  # the old name is free again


@pytest.mark.parametrize("lookalike", ["ada", "ADA", "аdа", "ａｄａ", "Adа"])
async def test_names_that_look_alike_are_refused(serve: MakePlace, lookalike: str) -> None:
    place = await serve()
    await place.person("ada")
    with pytest.raises(
        RequestFailed, match=r"'ada' is here(, and '.*' looks the same| already): take another nickname"
    ):
        await place.person(lookalike)


async def test_a_proved_name_is_kept_for_who_proved_it(serve: MakePlace) -> None:
    place = await serve()
    proved = await place.person("root", "unix")
    await proved.leave()
    with pytest.raises(RequestFailed, match="belongs to somebody who can prove it"):
        await place.person("root", "tcp")
    await place.person("root", "unix")


async def test_what_would_steer_a_terminal_is_made_harmless_on_the_way_in(serve: MakePlace) -> None:
    place = await serve()
    ada = await place.person("ada")
    await ada.client.say("lobby", "\x1b[31mred\x07 \u202eflipped\x9b2J\tok\nsecond")
    await ada.client.set_topic("lobby", "a\x1b]0;title\x07b")
    await ada.until(lambda ada: ada.of(TopicSet))
    assert ada.texts() == ["\\x1b[31mred\\x07 \\u202eflipped\\x9b2J\tok\nsecond"]
    assert ada.of(TopicSet)[0].topic == "a\\x1b]0;title\\x07b"


async def test_too_long_and_empty_messages_are_refused(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&message_bytes_max=10")
    ada = await place.person("ada")
    assert ada.client.welcome is not None
    assert ada.client.welcome.message_bytes_max == 10
    await ada.client.say("lobby", "0123456789")
    with pytest.raises(RequestFailed, match="at most 10 bytes here, not 12"):
        await ada.client.say("lobby", "éééééé")
    with pytest.raises(RequestFailed, match="an empty message says nothing"):
        await ada.client.say("lobby", " \n ")


async def test_who_sends_faster_than_allowed_is_slowed_down_and_told(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&messages_per_second=50&burst=5")
    ada, bob = await place.person("ada"), await place.person("bob", "udp")
    assert ada.client.welcome is not None
    assert (ada.client.welcome.messages_per_second, ada.client.welcome.burst) == (50, 5)
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(ada.client.say("lobby", str(number)) for number in range(30)))
    assert asyncio.get_running_loop().time() - started > 0.3
    await bob.until(lambda bob: len(bob.texts()) == 30)
    assert bob.texts() == [str(number) for number in range(30)]
    [notice] = ada.of(Notice)
    assert "faster than this server takes messages (50 a second, 5 at once)" in notice.text


async def test_history_is_paged_and_searched(serve: MakePlace) -> None:
    place = await serve()
    ada = await place.person("ada")
    for number in range(30):
        await ada.client.say("lobby", f"number {number} Größe" if number % 10 == 0 else f"number {number}")
    page = await ada.client.history("lobby", count=10)
    assert (len(page.messages), page.more) == (10, True)
    older = await ada.client.history("lobby", before=page.messages[0].id, count=100)
    assert (len(older.messages), older.more) == (20, False)
    later = await ada.client.history("lobby", after=older.messages[4].id, count=5)
    assert later.messages == older.messages[5:10]
    found = await ada.client.search("lobby", "GRÖSSE NUMBER")
    assert [message.text for message in found.messages if isinstance(message, Said)] == [
        "number 0 Größe", "number 10 Größe", "number 20 Größe",
    ]  # fmt: skip


async def test_a_long_search_lets_others_read_and_goes_on_where_it_stopped(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SEARCHED_MAX", 10)
    place = await serve()
    ada = await place.person("ada")
    ids = [await ada.client.say("lobby", f"number {number}" if number else "needle") for number in range(250)]
    steps: list[str] = []

    def watched(name: str) -> None:
        work = getattr(Store, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            steps.append(name)
            return work(*arguments, **named)

        monkeypatch.setattr(Store, name, noted)

    watched("search")
    watched("page")
    backplane = place.chat.backplane
    found, _ = await asyncio.gather(backplane.search("lobby", ["needle"], count=9), backplane.page("lobby", count=9))
    assert (found.entries, found.before) == ([], ids[150])
    assert steps == ["search", "page"] + ["search"] * 9
    page = await ada.client.search("lobby", "needle")
    assert (page.messages, page.more, page.before) == ([], True, ids[150])
    pages = [page]
    while pages[-1].before:
        pages.append(await ada.client.search("lobby", "needle", before=pages[-1].before))
    assert [len(page.messages) for page in pages] == [0, 0, 1]


async def test_a_search_costs_more_than_a_message(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&messages_per_second=0.01&burst=11")
    ada = await place.person("ada")
    for _ in range(2):
        await ada.client.search("lobby", "word")
    searching = asyncio.create_task(ada.client.search("lobby", "word"))
    await ada.until(lambda ada: ada.of(Notice))
    searching.cancel()


async def test_there_are_only_so_many_rooms_and_empty_ones_give_way(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&rooms_max=3")
    ada, bob = await place.person("ada", "tcp", "one", "two"), await place.person("bob", "udp", "one")
    await ada.client.join("three")
    with pytest.raises(RequestFailed, match="there are 3 rooms, which is all that may be here: /rooms shows them"):
        await bob.client.join("four")
    await bob.client.join("three")
    for room in ("two", "three"):
        await ada.client.set_topic(room, "tea")
    await ada.client.leave("two")
    await bob.until(lambda bob: bob.of(TopicSet))
    async with asyncio.timeout(30):
        while not place.chat.rooms.get("two").is_empty:  # noqa: ASYNC110  # that somebody left is told a moment later
            await asyncio.sleep(0.01)
    await bob.client.join("four")
    assert {info.room for info in (await bob.client.list_rooms()).rooms} == {"one", "three", "four"}
    assert await place.chat.backplane.topics() == {"three": "tea"}


async def test_deserted_rooms_are_pruned_when_their_messages_are(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await serve("chat?store=memory&history_seconds_max=60")
    ada = await place.person("ada", "tcp", "lobby", "deserted")
    for room in ("lobby", "deserted"):
        await ada.client.set_topic(room, "tea")
    await ada.client.leave("deserted")
    async with asyncio.timeout(30):
        while not place.chat.rooms.get("deserted").is_empty:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
    await place.chat.prune_rooms()
    assert len((await ada.client.list_rooms()).rooms) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    await place.chat.prune_rooms()
    assert [info.room for info in (await ada.client.list_rooms()).rooms] == ["lobby"]
    assert await place.chat.backplane.topics() == {"lobby": "tea"}


async def test_an_unlogged_room_keeps_nothing(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada", "tcp", "~secret"), await place.person("bob", "udp", "~secret")
    await ada.client.say("~secret", "off the record")
    await bob.until(lambda bob: bob.texts("~secret") == ["off the record"])
    eve = await place.person("eve", "tcp", "lobby")
    room = await eve.client.join("~secret")
    assert (room.messages, room.logged) == ([], False)
    assert (await eve.client.history("~secret")).messages == []


async def test_without_a_hello_nothing_is_done(serve: MakePlace) -> None:
    from kernel import connect

    place = await serve()
    async with connect(place.endpoints["tcp"], "chat") as channel:
        channel.send(b'{"type":"say","n":7,"room":"lobby","text":"hi"}')
        assert await channel.receive() == b'{"type":"failed","code":"hello","reason":"say hello first","n":7}'
        channel.send(b'{"type":"dance","n":8}')
        assert b'"n":8' in (await channel.receive() or b"")
        channel.send(b"\xff")
        assert b'"code":"bad"' in (await channel.receive() or b"")
        channel.send(b'{"type":"hello","version":99,"nick":"ada"}')
        assert b"this server speaks version 1" in (await channel.receive() or b"")


NUMBERS = ("-1", str((1 << 53) + 1), str(1 << 63), str(1 << 64), "9" * 400)


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_number_that_no_database_holds_is_refused_and_disturbs_nobody(serve: MakePlace, number: str) -> None:
    from kernel import connect

    place = await serve()
    ada = await place.person("ada")
    async with connect(place.endpoints["tcp"], "chat") as channel:
        channel.send(b'{"type":"hello","n":1,"nick":"eve"}')
        assert b'"welcome"' in (await channel.receive() or b"")
        channel.send(b'{"type":"join","n":2,"room":"lobby"}')
        assert b'"room"' in (await channel.receive() or b"")
        for request in (
            '{"type":"say","room":"lobby","text":"x","n":%s}',
            '{"type":"join","n":3,"room":"other","since":%s}',
            '{"type":"history","n":4,"room":"lobby","after":%s}',
            '{"type":"history","n":5,"room":"lobby","before":%s}',
        ):
            channel.send((request % number).encode())
            while b'"people"' in (answer := await channel.receive() or b""):
                pass
            assert b'"code":"bad"' in answer
        assert await ada.client.say("lobby", "still here")
        await ada.until(lambda ada: ada.texts() == ["still here"])


async def test_a_history_that_cannot_be_read_is_an_answer_and_holds_nobody_up(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob", "tcp", "tea")

    async def broken(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with asyncio.timeout(30):
        with monkeypatch.context() as patched:
            patched.setattr(place.chat.backplane, "page", broken)
            for request in (ada.client.join("lobby"), bob.client.join("lobby"), ada.client.history("lobby")):
                with pytest.raises(RequestFailed, match="the server could not do that"):
                    await request
            with pytest.raises(RequestFailed, match="the server cannot read what you were told"):
                await place.person("eve")
        with pytest.raises(RequestFailed, match="you are not in the room"):
            await bob.client.say("lobby", "not here")
        await ada.client.say("lobby", "still here")
        await ada.until(lambda ada: ada.texts() == ["still here"])
        await bob.client.join("lobby")


async def test_whatever_fails_in_the_writer_is_told_to_who_posted(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await serve()
    ada = await place.person("ada")

    def broken(*_: object) -> None:
        raise OverflowError("too large")

    async with asyncio.timeout(30):
        with monkeypatch.context() as patched:
            patched.setattr(Store, "append", broken)
            with pytest.raises(RequestFailed, match="not delivered: the history cannot be written: too large"):
                await ada.client.say("lobby", "lost")
        assert await ada.client.say("lobby", "kept")


async def test_a_connections_last_words_steer_nothing(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&linger_seconds=0")
    ada, bob = await place.person("ada"), await place.person("bob")
    assert ada.client._line is not None
    ada.client._closing = True  # he does not come back by himself
    ada.client._line.channel.reset(Code.CANCELLED, "gone\u202e\n" + 300 * "x")
    await bob.until(lambda bob: any(event.left for event in bob.of(Presence)))
    [left] = [left for event in bob.of(Presence) for left in event.left]
    assert (left.reason.isprintable(), len(left.reason), left.reason[:4]) == (True, 200, "gone")


async def test_hellos_are_limited_too(serve: MakePlace) -> None:
    from kernel import connect

    place = await serve("chat?store=memory&messages_per_second=1&burst=2")
    async with connect(place.endpoints["tcp"], "chat") as channel, asyncio.timeout(30):
        for _ in range(3):
            channel.send(b'{"type":"hello","nick":"a b"}')
        answers = [await channel.receive() or b"" for _ in range(4)]
        assert ["faster than" in answer.decode() for answer in answers] == [False, False, True, False]


async def burst_seconds(place: Place, people: list[Person]) -> float:
    """How long it takes 30 messages to be said, by however many."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    speakers = itertools.cycle(people)
    await asyncio.gather(*(next(speakers).client.say("lobby", str(number)) for number in range(30)))
    return loop.time() - started


@pytest.mark.parametrize("transport", ["tcp", "unix", "udp"])
async def test_ten_connections_of_one_source_talk_no_faster_than_one(serve: MakePlace, transport: str) -> None:
    place = await serve("chat?store=memory&messages_per_second=50&burst=5")
    people = [await place.person(f"p{number}", transport) for number in range(10)]
    assert await burst_seconds(place, people) >= 0.49
    [notice, *_] = [notice for person in people for notice in person.of(Notice)]
    assert re.match(r"all who come as '(127.0.0.1|unix:\w+)' send faster than this server takes messages", notice.text)


async def test_behind_a_proxy_a_source_may_have_more(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&messages_per_second=0.001&burst=3&messages_per_second_per_source=0.01")
    people = [await place.person(f"p{number}", "tcp") for number in range(10)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(person.client.say("lobby", "hello") for person in people))


async def test_one_source_does_not_fill_the_chat(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&people_per_source_max=3&linger_seconds=0")
    people = [await place.person(f"p{number}", "tcp") for number in range(3)]
    with pytest.raises(RequestFailed, match=r"3 people are here as '127.0.0.1', which is all that may be"):
        await place.person("one-more", "udp")
    await place.person("another", "unix")
    await people[0].leave()
    await place.person("one-more", "udp")


async def test_hellos_of_one_source_are_limited_together(serve: MakePlace) -> None:
    from kernel import connect

    place = await serve("chat?store=memory&messages_per_second=0.01&burst=2")
    told = 0
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        for _ in range(21):
            channel = await stack.enter_async_context(connect(place.endpoints["tcp"], "chat"))
            channel.send(b'{"type":"hello","nick":"a b"}')
            told += b"all who come as '127.0.0.1' send faster than" in (await channel.receive() or b"")
    assert told == 1


async def test_a_server_that_stops_does_not_wait_for_people(serve: MakePlace) -> None:
    place = await serve()
    people = [await place.person(f"on-{transport}", transport) for transport in place.endpoints]
    async with asyncio.timeout(5):  # well within drain_seconds_max
        await place.server.drain()
    for person in people:
        assert [notice.text for notice in person.of(Notice)] == ["the server is shutting down"]


async def test_the_same_session_takes_its_seat_again(serve: MakePlace) -> None:
    place = await serve()
    first = ChatClient(place.endpoints["tcp"], nick="ada", session="secret")
    await first.start()
    watcher = Person(first)
    second = await place.person("ada", "udp", session="secret")
    with pytest.raises(Exception, match="the same session has come by another connection"):
        await watcher._task
    await first.close()
    assert [info.nick for info in (await second.client.who()).people] == ["ada"]


async def test_a_secret_alone_does_not_make_somebody_who_proved_to_be_another(serve: MakePlace) -> None:
    place = await serve()
    proved = await place.person("ada", "unix", session="secret")
    with pytest.raises(RequestFailed, match="the session is that of somebody who proved to be another"):
        await place.person("ada", "tcp", session="secret")
    [info] = (await proved.client.who()).people
    assert (info.nick, info.away) == ("ada", False)
    again = await place.person("ada", "unix", session="secret")
    assert (await again.client.who()).people[0].principal == info.principal


async def test_the_name_of_somebody_who_may_come_back_is_kept_for_a_while(serve: MakePlace) -> None:
    place = await serve("chat?store=memory&linger_seconds=3")
    ada, bob = await place.person("ada", session="secret"), await place.person("bob")
    assert ada.client._line is not None
    ada.client._closing = True  # he does not come back by himself
    ada.client._line.channel.reset(Code.CANCELLED, "gone")
    async with asyncio.timeout(30):
        while not (await bob.client.who()).people[0].away:  # noqa: ASYNC110  # nothing is told when a connection is lost
            await asyncio.sleep(0.01)
    with pytest.raises(RequestFailed, match="the connection of 'ada' is lost, and he may come back"):
        await bob.client.rename("ada")
    await bob.until(lambda bob: any(left.reason == "connection lost" for e in bob.of(Presence) for left in e.left))
    await bob.client.rename("ada")


async def test_who_says_no_name_is_called_as_he_is_known(serve: MakePlace) -> None:
    place = await serve()
    with pytest.raises(RequestFailed, match="say what to be called: --nick NAME"):
        await place.person("")
    known = await place.person("", "unix")
    assert known.client.nick == pwd.getpwuid(os.getuid()).pw_name


async def test_a_room_that_cannot_be_is_refused_at_the_start() -> None:
    with pytest.raises(OptionError, match="dialect_room=a b"):
        await Server(["chat?store=memory&dialect_room=a b"], ["tcp://127.0.0.1:0"]).start()


async def test_who_leaves_and_comes_back_at_once_is_there(serve: MakePlace) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob")
    await ada.until(lambda ada: any("bob" in event.joined for event in ada.of(Presence)))
    for _ in range(3):
        await bob.client.leave("lobby")
        await bob.client.join("lobby")
    await bob.client.say("lobby", "here I am")
    await ada.until(lambda ada: ada.texts())
    assert list(ada.client.people["lobby"]) == ["ada", "bob"]


def cut(person: Person) -> None:
    """His connection is lost."""
    line = person.client._line
    assert line is not None
    line.channel.reset(Code.LOST, "cut")


async def test_a_room_that_cannot_be_had_again_is_left_and_can_be_joined(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob")
    page = place.chat.backplane.page

    async def broken(log: str, **named: Any) -> Any:
        if log == "lobby":
            raise OSError("the disk is broken")
        return await page(log, **named)

    with monkeypatch.context() as patched:
        patched.setattr(place.chat.backplane, "page", broken)
        cut(ada)
        await ada.until(lambda ada: ada.of(Failed))
    assert "lobby" not in ada.client.people
    await ada.client.join("lobby")
    await bob.client.say("lobby", "hello")
    await ada.until(lambda ada: ada.texts() == ["hello"])


async def test_a_mailbox_that_cannot_be_read_to_its_end_loses_nothing(
    serve: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_TOLD_MAX", 1)
    place = await serve()
    ada, bob = await place.person("ada"), await place.person("bob")
    for text in ("one", "two"):
        await bob.client.tell("ada", text)
    await ada.until(lambda ada: len(ada.of(Told)) == 2)
    ada.seen.clear()
    page, failures = place.chat.backplane.page, 0

    async def broken(log: str, **named: Any) -> Any:
        nonlocal failures
        if log.startswith("@") and named["after"] and not failures:
            failures += 1
            await bob.client.tell("ada", "three")
            raise OSError("the disk is broken")
        return await page(log, **named)

    monkeypatch.setattr(place.chat.backplane, "page", broken)
    ada.client._told_id = 0
    cut(ada)
    await ada.until(lambda ada: [told.text for told in ada.of(Told)] == ["one", "two", "three"])
    assert failures == 1


async def test_before_the_first_message_nothing_is_found(serve: MakePlace) -> None:
    place = await serve()
    ada = await place.person("ada")
    await ada.client.say("lobby", "needle")
    page = await ada.client.search("lobby", "needle", before=0)
    assert (page.messages, page.before) == ([], 0)
