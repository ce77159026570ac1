"""Events as people read them: one or several lines of text, in parts that a terminal can colour.

All text from elsewhere is cleaned here, once more: whatever the server let through, nothing here steers a terminal. A
message of several lines is indented, so that none of its lines looks like another message.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence

from . import protocol
from .client import ClientEvent, Connected, Disconnected
from .protocol import Failed, Left, Notice, Presence, Renamed, Said, Told, TopicSet
from .text import clean, clean_line, width

Parts = list[tuple[str, str]]
"""A line in parts: a style's name and the text. Styles: time, nick:NUMBER, text, own, action, private, info, error."""

COLOURS = 12
_GOES_ON = "    "


def colour_of(nick: str) -> int:
    """The number of a nickname's colour, always the same."""
    return zlib.crc32(nick.casefold().encode()) % COLOURS


def render(event: ClientEvent, *, room: str = "", own_nick: str = "") -> list[Parts]:
    """The lines of an event; none for what people need not see.

    Args:
        room: the one that is shown: messages of others are marked with theirs.
        own_nick: ours.
    """
    match event:
        case Said():
            return _said(event, "" if event.room == room else f"#{event.room} ", own_nick)
        case Told():
            return _lines(event.at, _speaker(event.nick, event.action, own_nick, private=True), event.text, "private")
        case TopicSet():
            return [_info(event.at, f"{_where(event.room, room)}{event.nick} sets the topic: {event.topic}")]
        case Presence():
            return [_info(None, line) for line in _presence(event, room, own_nick)]
        case Renamed():
            return [_info(None, f"{event.old} is now {event.new}")]
        case Connected():
            return [_info(None, "connected again" if event.again else f"connected as {event.nick}")]
        case Disconnected():
            wait = f"trying again in {event.retry_seconds:g} s"
            return [[("error", clean_line(f"-- connection lost: {event.reason}; {wait}"))]]
        case Notice():
            return [_info(None, event.text)]
        case Failed():
            return [[("error", clean_line(f"-- {event.reason}"))]]
        case _:
            return []


def plain(lines: list[Parts]) -> str:
    """The lines without their styles, each ended by a newline."""
    return "".join("".join(text for _, text in parts) + "\n" for parts in lines)


def wrapped(parts: Parts, columns: int) -> list[Parts]:
    """A line as lines that fit, broken between words where there are some; what goes on is indented."""
    lines: list[Parts] = [[]]
    used = 0
    for style, text in parts:
        for word in re.findall(r"\s+|\S+", text):
            size = width(word)
            if used + size > columns and used > len(_GOES_ON):
                if word.isspace():
                    continue
                lines.append([("text", _GOES_ON)])
                used = len(_GOES_ON)
            lines[-1].append((style, word))
            used += size
    return lines


def help_lines(commands: Sequence[tuple[str, str]], columns: int) -> list[str]:
    """What can be typed: in two columns, where there is room for them."""
    first = max(len(usage) for usage, _ in commands)
    if columns >= first + max(len(meaning) for _, meaning in commands) + 2:
        return [f"{usage:{first}}  {meaning}" for usage, meaning in commands]
    return [line for usage, meaning in commands for line in (usage, "    " + meaning)]


def _said(event: Said, where: str, own_nick: str) -> list[Parts]:
    speaker = _speaker(event.nick, event.action, own_nick)
    if where:
        speaker.insert(0, ("info", clean_line(where) + " "))
    return _lines(event.at, speaker, event.text, "action" if event.action else "text")


def _speaker(nick: str, action: bool, own_nick: str, *, private: bool = False) -> Parts:
    style = "own" if nick == own_nick else f"nick:{colour_of(nick)}"
    nick = clean_line(nick)
    if action:
        return [("action", "* "), (style, nick), ("private", " (to you)" if private else "")]
    return [
        ("private" if private else "text", "*" if private else "<"),
        (style, nick),
        ("text", "*" if private else ">"),
    ]


def _lines(at: float, speaker: Parts, text: str, style: str) -> list[Parts]:
    first, *others = clean(text).replace("\t", "    ").split("\n")
    indent = "        "
    return [
        [("time", _clock(at) + " "), *speaker, (style, " " + first)],
        *([(style, indent + "| " + line)] for line in others),
    ]


def _info(at: float | None, text: str) -> Parts:
    return [("time", _clock(at) + " "), ("info", clean_line("-- " + text))]


def _presence(event: Presence, room: str, own_nick: str) -> list[str]:
    where = _where(event.room, room)
    joined = [nick for nick in event.joined if nick != own_nick]
    lines = [f"{where}{_names(joined)} joined"] if joined else []
    by_reason: dict[str, list[str]] = {}
    for left in event.left:
        if left.nick != own_nick:
            by_reason.setdefault(_reason(left), []).append(left.nick)
    return lines + [f"{where}{_names(nicks)} left{reason}" for reason, nicks in by_reason.items()]


def _reason(left: Left) -> str:
    return f" ({left.reason})" if left.reason else ""


_NAMES_MAX = 10


def _names(nicks: list[str]) -> str:
    shown = nicks[:_NAMES_MAX]
    more = len(nicks) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _where(of: str, room: str) -> str:
    return "" if of == room else f"#{of}: "


def _clock(at: float | None) -> str:
    """The time of day; for another day the date too."""
    now = time.localtime()
    moment = now if at is None else time.localtime(at)
    return time.strftime("%H:%M:%S" if moment[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", moment)


def room_line(info: protocol.RoomInfo) -> str:
    """A room in the list of rooms."""
    topic = f": {info.topic}" if info.topic else ""
    return clean_line(f"#{info.room} ({info.people}){topic}")


def person_line(info: protocol.PersonInfo) -> str:
    """A person in the list of people."""
    idle = f", idle {_span(info.idle_seconds)}" if info.idle_seconds >= 60 else ""
    away = ", connection lost" if info.away else ""
    proved = f", {info.principal}" if info.principal else ""
    return clean_line(f"{info.nick}{proved}{idle}{away}")


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
