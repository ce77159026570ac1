"""What people see of an event: one look for pipes and terminals, and nothing of it steers either."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kernel.plugins.chat import terminal
from kernel.plugins.chat.client import ChatClient, Disconnected
from kernel.plugins.chat.protocol import Left, Notice, Presence, RoomInfo, Said, Told, TopicSet
from kernel.plugins.chat.render import colour_of, help_lines, plain, render, room_line, wrapped

TODAY = time.mktime((*time.localtime()[:3], 12, 34, 56, 0, 0, -1))


def said(text: str, nick: str = "ada", **fields: Any) -> Said:
    return Said(room="lobby", id=1, at=TODAY, nick=nick, text=text, **fields)


def text_of(event: Any, **options: Any) -> str:
    return plain(render(event, room="lobby", **options))


def test_each_event_is_a_line() -> None:
    assert text_of(said("hello")) == "12:34:56 <ada> hello\n"
    assert text_of(said("waves", action=True)) == "12:34:56 * ada waves\n"
    assert plain(render(said("hello"))) == "12:34:56 #lobby <ada> hello\n"
    assert text_of(Told(id=1, at=TODAY, nick="ada", text="psst")) == "12:34:56 *ada* psst\n"
    topic = TopicSet(room="lobby", id=1, at=TODAY, nick="ada", topic="tea")
    assert text_of(topic) == "12:34:56 -- ada sets the topic: tea\n"
    assert text_of(Said(room="lobby", id=1, at=0.0, nick="ada", text="old")).startswith("19")
    assert room_line(RoomInfo(room="tea", people=2, topic="leaves")) == "#tea (2): leaves"
    assert (
        text_of(Disconnected(reason="gone", retry_seconds=0.2)) == "-- connection lost: gone; trying again in 0.2 s\n"
    )


def test_crowds_come_and_go_in_a_line() -> None:
    event = Presence(
        room="lobby", joined=[f"p{n}" for n in range(12)], left=[Left(nick="x", reason="slept"), Left(nick="y")]
    )
    names = ", ".join(f"p{n}" for n in range(10))
    lines = [line.partition(" -- ")[2] for line in text_of(event, own_nick="ada").splitlines()]
    assert lines == [f"{names} and 2 more joined", "x left (slept)", "y left"]
    assert text_of(Presence(room="lobby", joined=["ada"]), own_nick="ada") == ""


def test_no_line_of_a_message_looks_like_another_message() -> None:
    lines = text_of(said("hello\n12:34:56 <bob> I am bob")).splitlines()
    assert lines == ["12:34:56 <ada> hello", "        | 12:34:56 <bob> I am bob"]


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\x9b2J", "\u202e", "\r", "\u2028", "\x7f"])
def test_what_a_bad_server_sends_does_not_steer(bad: str) -> None:
    everything = [
        said(f"a{bad}b", nick=f"n{bad}"),
        Told(id=1, at=TODAY, nick=f"n{bad}", text=f"a{bad}b"),
        TopicSet(room=f"r{bad}", id=1, at=TODAY, nick=f"n{bad}", topic=f"t{bad}"),
        Presence(room=f"r{bad}", joined=[f"n{bad}"], left=[Left(nick=f"n{bad}", reason=f"r{bad}")]),
        Notice(text=f"a{bad}b"),
        Disconnected(reason=f"a{bad}b", retry_seconds=1.0),
    ]
    for event in everything:
        assert bad not in plain(render(event, room="lobby")), event


def test_a_name_has_its_colour_for_ever() -> None:
    assert colour_of("ada") == colour_of("ADA")
    assert len({colour_of(f"name{number}") for number in range(100)}) == 12


def test_what_comes_while_nobody_is_there_is_marked_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        terminal, "print_formatted_text", lambda parts, style: shown.append("".join(t for _, t in parts))
    )
    monkeypatch.setattr(terminal, "_AWAY_SECONDS", 3600.0)
    view = terminal.TerminalView(ChatClient("tcp://127.0.0.1:1", nick="me"))
    view.conversation = terminal.Conversation(view._client, view, last=0)
    view.conversation.current = "lobby"
    view.event(said("seen"))
    monkeypatch.setattr(terminal, "_AWAY_SECONDS", -1.0)
    for text in ("one", "two"):
        view.event(said(text))
    assert [line.partition(" ")[2] for line in shown] == ["<ada> seen", "unread from here --", "<ada> one", "<ada> two"]
    assert " 2 unread " in "".join(part[1] for part in view.toolbar())
    view.touched()
    assert "unread" not in "".join(part[1] for part in view.toolbar())


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("one two three four", ["one two ", "    three ", "    four"]),
        ("一二三四 五六", ["一二三四 ", "    五六"]),
        ("x" * 25, ["x" * 25]),
        ("a " + "x" * 25, ["a " + "x" * 25]),
        ("", [""]),
    ],
)
def test_lines_break_between_words(text: str, lines: list[str]) -> None:
    assert plain(wrapped([("nick1", text[:3]), ("text", text[3:])], 10)).splitlines() == lines


def test_help_is_as_wide_as_the_terminal() -> None:
    commands = [("/a X", "does this"), ("/longer", "does that")]
    assert help_lines(commands, 80) == ["/a X     does this", "/longer  does that"]
    assert help_lines(commands, 17) == ["/a X", "    does this", "/longer", "    does that"]
