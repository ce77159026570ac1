"""Simple clients, as people write them on their first day with sockets, in the same rooms as everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel import Server
from kernel.plugins.chat import dialects
from kernel.plugins.chat.client import ChatClient
from kernel.plugins.chat.protocol import Presence, Renamed

from .conftest import Person

DEADLINE_SECONDS = 30


class Simple:
    """A blocking socket that receives once, and into 1,024 bytes, as the tutorials do."""

    def __init__(self, kind: socket.SocketKind, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET, kind)
        self._sock.settimeout(DEADLINE_SECONDS)
        self._sock.connect(("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self._sock.send, data)

    async def receive(self) -> bytes:
        return await asyncio.to_thread(self._sock.recv, 1024)

    async def turn(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.receive()

    def nothing_more(self) -> bool:
        """Nothing is there to be received."""
        self._sock.setblocking(False)
        try:
            return not self._sock.recv(1024)
        except BlockingIOError:
            return True
        finally:
            self._sock.settimeout(DEADLINE_SECONDS)

    def close(self) -> None:
        self._sock.close()


class Hall:
    def __init__(self, stack: contextlib.AsyncExitStack, server: Server) -> None:
        self._stack = stack
        self._ports = [endpoint.host_port()[1] for endpoint in server.endpoints]
        self._endpoint = str(server.endpoints[0])

    async def person(self, nick: str) -> Person:
        client = ChatClient(self._endpoint, nick=nick)
        await client.start()
        person = Person(client)
        self._stack.push_async_callback(person.leave)
        await client.join("lobby")
        return person

    def simple(self, dialect: str) -> Simple:
        stream = dialect == "talk"
        kind, port = (socket.SOCK_STREAM, self._ports[1]) if stream else (socket.SOCK_DGRAM, self._ports[2])
        simple = Simple(kind, port)
        self._stack.callback(simple.close)
        return simple


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    listen = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?dialect=talk", "udp://127.0.0.1:0?dialect=qq"]
    async with contextlib.AsyncExitStack() as stack:
        server = Server(["chat?store=memory&messages_per_second=1000&burst=1000"], listen)
        yield Hall(stack, await stack.enter_async_context(server))


async def said(person: Person, text: str) -> str:
    """Wait until somebody has said it; who that was."""
    await person.until(lambda person: text in person.texts())
    return next(event.nick for event in person.seen if getattr(event, "text", "") == text)


async def test_talk_is_one_message_each_way_a_turn(hall: Hall) -> None:
    ada = await hall.person("ada")
    talk = hall.simple("talk")
    await talk.send(b"hello")
    nick = await said(ada, "hello")
    assert nick.startswith("talk-")
    assert talk.nothing_more()
    await ada.client.say("lobby", "hi there")
    assert await talk.receive() == b"ada: hi there"
    await ada.client.say("lobby", "one")
    await ada.client.say("lobby", "two")
    assert talk.nothing_more()
    assert await talk.turn("grüße".encode()) == b"ada: one\nada: two"
    await said(ada, "grüße")
    await ada.client.tell(nick, "just for you")
    assert await talk.turn(b"x") == b"just for you"


async def test_bye_ends_a_talk_from_either_side(hall: Hall) -> None:
    ada = await hall.person("ada")
    one = hall.simple("talk")
    await one.send(b"hello")
    await said(ada, "hello")
    assert await one.turn(b"bye") == b"bye"
    assert await one.receive() == b""
    await ada.until(lambda ada: any(left.nick.startswith("talk-") for e in ada.of(Presence) for left in e.left))
    other = hall.simple("talk")
    await other.send(b"hello again\n")
    nick = await said(ada, "hello again")
    await ada.client.tell(nick, "bye")
    assert await other.receive() == b"bye\n"
    assert await other.receive() == b""


async def test_a_talk_that_nobody_answers_does_not_hang(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "_NO_ANSWER_SECONDS", 0.1)
    assert await hall.simple("talk").turn(b"anybody?") == b"(no answer yet)"


async def test_qq_gets_one_datagram_for_each(hall: Hall) -> None:
    ada = await hall.person("ada")
    qq = hall.simple("qq")
    assert await qq.turn(b"hello") == b"(nothing new)"
    assert (await said(ada, "hello")).startswith("qq-")
    for number in range(3):
        await ada.client.say("lobby", f"number {number}")
    assert qq.nothing_more()
    assert await qq.turn(b"and?") == b"ada: number 0\nada: number 1\nada: number 2"
    assert await qq.turn(b"") == b"(nothing new)"
    assert await qq.turn(b"\xff\xfe") == b"(nothing new)"
    await said(ada, "\ufffd\ufffd")
    assert await qq.turn(b"quit") == b"quit"
    await ada.until(lambda ada: any(left.nick.startswith("qq-") for event in ada.of(Presence) for left in event.left))


async def test_two_kinds_of_simple_clients_and_a_person_share_the_room(hall: Hall) -> None:
    ada, talk, qq = await hall.person("ada"), hall.simple("talk"), hall.simple("qq")
    await qq.turn(b"/nick mouse")
    await ada.until(lambda ada: ada.of(Renamed))
    assert await turn_until_new(qq) == b"(you are now mouse)"
    await talk.send(b"who is here?")
    nick = await said(ada, "who is here?")
    assert await turn_until_new(qq) == f"{nick}: who is here?".encode()
    assert await qq.turn(b"me") == b"(nothing new)"
    assert await talk.receive() == b"mouse: me"
    await ada.until(lambda ada: ada.texts() == ["who is here?", "me"])


async def turn_until_new(qq: Simple) -> bytes:
    answer = await qq.turn(b"")
    while answer == b"(nothing new)":
        answer = await qq.turn(b"")
    return answer


@pytest.mark.parametrize("char", ["x", "é", "雷"])
async def test_no_answer_is_longer_than_a_turn_and_no_character_is_cut(hall: Hall, char: str) -> None:
    ada = await hall.person("ada")
    qq = hall.simple("qq")
    await qq.turn(b"here")
    await said(ada, "here")
    text = char * (3000 // len(char.encode()))
    await ada.client.say("lobby", text)
    await ada.client.say("lobby", "end")
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"ada: end"):
        part = await turn_until_new(qq)
        assert len(part) <= 1024
        part.decode()
        parts.append(part)
    assert b"".join(parts).replace(b"\n", b"").decode() == f"ada: {text}ada: end"


async def test_what_nobody_fetches_is_bounded(hall: Hall) -> None:
    ada = await hall.person("ada")
    qq = hall.simple("qq")
    await qq.turn(b"here")
    await said(ada, "here")
    for number in range(40):
        await ada.client.say("lobby", f"{number} " + "x" * 4000)
    first = await turn_until_new(qq)
    assert first.startswith(b"(2")
    assert b" messages missed)" in first


async def test_control_characters_reach_no_simple_client(hall: Hall) -> None:
    ada, qq = await hall.person("ada"), hall.simple("qq")
    await qq.turn(b"\x1b[2Jhere")
    assert await said(ada, "\\x1b[2Jhere")
    await ada.client.say("lobby", "\x1b]0;x\x07\u202e")
    assert await turn_until_new(qq) == b"ada: \\x1b]0;x\\x07\\u202e"


async def test_no_line_of_a_message_looks_like_somebody_elses(hall: Hall) -> None:
    ada, qq = await hall.person("ada"), hall.simple("qq")
    await qq.turn(b"here")
    await said(ada, "here")
    await ada.client.say("lobby", "hello\nbob: I agree")
    assert await turn_until_new(qq) == b"ada: hello\n  | bob: I agree"


async def test_two_servers_do_not_answer_each_other_for_ever(hall: Hall) -> None:
    qq = hall.simple("qq")
    answer = await qq.turn(b"forged")
    await qq.send(answer)  # as another server of ours would
    assert await qq.turn(b"") == b"(nothing new)"
    assert qq.nothing_more()


async def test_who_leaves_while_he_takes_a_name_leaves_no_ghost(hall: Hall) -> None:
    ada = await hall.person("ada")
    for number in range(10):
        qq = hall.simple("qq")
        await qq.turn(b"here %d" % number)
        await said(ada, f"here {number}")
        await qq.send(b"/nick ghost%d" % number)
        await qq.send(b"quit")
        while await qq.receive() != b"quit":
            pass
    await ada.until(lambda ada: sum(len(event.left) for event in ada.of(Presence)) >= 10)
    for number in range(10):
        await ada.client.rename(f"ghost{number}")
