"""What a person types, carried out: text goes to the current room, `/command` does something else.

Where it is shown is the view's business: a pipe (`pipe`) or a terminal (`terminal`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from kernel import KernelError

from .client import ChatClient, ClientEvent, RequestFailed
from .protocol import Room, Said, TopicSet
from .render import person_line, room_line
from .text import clean_line

HELP = (
    ("text", "say it to the room"),
    ("//text", "say a text that begins with a slash"),
    ("/me TEXT", "say what you do"),
    ("/msg NICK TEXT", "say it to one person"),
    ("/join ROOM", "go there, or make it; ~ROOM keeps no history"),
    ("/leave [ROOM]", "leave it"),
    ("/rooms", "which rooms there are"),
    ("/who [ROOM]", "who is here"),
    ("/topic [TEXT]", "see it, or set it"),
    ("/nick NAME", "be called so"),
    ("/history [N]", "the last N messages"),
    ("/search [WORDS]", "messages that hold all of them, then older ones"),
    ("/quit [REASON]", "leave"),
)

_HISTORY_DEFAULT = 20
_SEARCHES_MAX = 10


class View(Protocol):
    """Where things are shown."""

    def event(self, event: ClientEvent) -> None: ...

    def room(self, room: Room) -> None:
        """A room was joined, or is shown again."""

    def messages(self, room: str, messages: list[Said | TopicSet]) -> None:
        """Old messages, as asked for."""

    def info(self, lines: list[str]) -> None: ...

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """What can be typed, and what it does."""

    def error(self, text: str) -> None: ...


class Mistake(Exception):
    """What was typed makes no sense; the message says what would."""


class Conversation:
    """One person's.

    Attributes:
        current: the room that text goes to; empty: none.
        over: he wants to leave.
        good: everything that was typed could be done.
    """

    def __init__(self, client: ChatClient, view: View, *, last: int) -> None:
        self.client = client
        self.view = view
        self.current = ""
        self.topics: dict[str, str] = {}
        self.over = False
        self.reason = ""
        self.good = True
        self._last = last
        self._searched: tuple[str, str, int | None] = ("", "", None)

    async def join(self, name: str) -> None:
        """Go to a room, for the first time or again."""
        if (known := name.removeprefix("#").lower()) in self.client.people:
            self.current = known
            self.view.room(Room(room=known, topic=self.topics.get(known, ""), people=list(self.client.people[known])))
            return
        room = await self.client.join(name, last=self._last)
        self.current = room.room
        self.topics[room.room] = room.topic
        self.view.room(room)

    def happened(self, event: ClientEvent) -> None:
        """Something came from the server."""
        if isinstance(event, TopicSet):
            self.topics[event.room] = event.topic
        self.view.event(event)

    async def enter(self, line: str) -> None:
        """Carry out a line; what goes wrong is shown."""
        try:
            await self._enter(line)
        except (Mistake, RequestFailed) as error:
            self.good = False
            self.view.error(str(error))
        except KernelError as error:
            self.good = False
            self.view.error(f"{error}: {clean_line(line)[:60]}")

    async def _enter(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            text = line[1:] if line.startswith("//") else line
            if text.strip():
                await self.client.say(self._room(), text)
            return
        name, _, rest = line[1:].partition(" ")
        command = _COMMANDS.get(name.lower())
        if command is None:
            raise Mistake(f"there is no command /{clean_line(name)}: /help shows them, //{clean_line(name)} says it")
        await command(self, rest.strip())

    def _room(self) -> str:
        if not self.current:
            raise Mistake("you are in no room: /join ROOM")
        return self.current

    # --- commands ----------------------------------------------------------------------------------------------------

    async def _me(self, rest: str) -> None:
        await self.client.say(self._room(), _needed(rest, "/me TEXT"), action=True)

    async def _msg(self, rest: str) -> None:
        nick, _, text = rest.partition(" ")
        _needed(text, "/msg NICK TEXT")
        await self.client.tell(nick, text)
        self.view.info([f"to {nick}: {text}"])

    async def _join(self, rest: str) -> None:
        await self.join(_needed(rest, "/join ROOM"))

    async def _leave(self, rest: str) -> None:
        room = rest.removeprefix("#").lower() or self._room()
        await self.client.leave(room)
        if room == self.current:
            self.current = next(iter(self.client.people), "")
        self.view.info([f"you left #{room}" + (f", and are in #{self.current}" if self.current else "")])

    async def _rooms(self, _rest: str) -> None:
        rooms = (await self.client.list_rooms()).rooms
        self.view.info([room_line(info) for info in rooms] or ["there are no rooms: /join makes one"])

    async def _who(self, rest: str) -> None:
        room = rest or self._room()
        people = (await self.client.who(room)).people
        self.view.info([person_line(info) for info in people] or [f"nobody is in #{room}"])

    async def _topic(self, rest: str) -> None:
        room = self._room()
        if rest:
            await self.client.set_topic(room, rest)
        else:
            self.view.info([f"the topic of #{room} is: {self.topics.get(room) or 'none, /topic TEXT sets it'}"])

    async def _nick(self, rest: str) -> None:
        await self.client.rename(_needed(rest, "/nick NAME"))

    async def _history(self, rest: str) -> None:
        if rest and not (rest.isdecimal() and 0 < int(rest) <= 10_000):
            raise Mistake("write /history N: how many messages")
        room, wanted = self._room(), int(rest or _HISTORY_DEFAULT)
        found: list[Said | TopicSet] = []
        before: int | None = None
        while len(found) < wanted:
            page = await self.client.history(room, before=before, count=wanted - len(found))
            found[:0] = page.messages
            if not page.more or not page.messages:
                break
            before = page.messages[0].id
        self._show(room, found, "nothing is kept of what was said here")

    async def _search(self, rest: str) -> None:
        if rest:
            self._searched = rest, self._room(), None
        words, room, before = self._searched
        _needed(words, "/search WORDS")
        page = await self.client.search(room, words, before=before)
        for _ in range(_SEARCHES_MAX):
            if page.messages or not page.before:
                break
            page = await self.client.search(room, words, before=page.before)
        self._show(room, page.messages, f"no {'older ' if before else ''}message of #{room} holds that")
        self._searched = (words, room, page.before) if page.before else ("", "", None)
        if page.before:
            self.view.info(["older messages were not searched: /search goes on there"])

    def _show(self, room: str, messages: list[Said | TopicSet], nothing: str) -> None:
        if messages:
            self.view.messages(room, messages)
        else:
            self.view.info([nothing])

    async def _help(self, _rest: str) -> None:
        self.view.help(HELP)

    async def _quit(self, rest: str) -> None:
        self.over, self.reason = True, rest


def _needed(rest: str, usage: str) -> str:
    if not rest.strip():
        raise Mistake(f"write {usage}")
    return rest


_COMMANDS: dict[str, Callable[[Conversation, str], Awaitable[None]]] = {
    "me": Conversation._me,
    "msg": Conversation._msg,
    "join": Conversation._join,
    "leave": Conversation._leave,
    "rooms": Conversation._rooms,
    "who": Conversation._who,
    "topic": Conversation._topic,
    "nick": Conversation._nick,
    "history": Conversation._history,
    "search": Conversation._search,
    "help": Conversation._help,
    "quit": Conversation._quit,
}
COMMANDS = tuple(_COMMANDS)
