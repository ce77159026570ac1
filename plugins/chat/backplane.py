"""What stands behind the rooms: one small interface for fan-out, history and presence, on one machine or on many.

    service --post(Post)--> Backplane --delivered([Entry])--> every service that shares it, the one that posted too

A post becomes an entry: it gets an id, larger than that of any entry before, and is durable, before anybody sees it.
So nobody ever sees a message that a crash takes back.

- Ids grow; they need not follow one another. Entries of a log are delivered in the order of their ids.
- A post with a (session, n) that was posted before is not posted again: `n` grows within a session.
- Posts of one session are delivered in the order in which they were posted.
- A log is a room, or the mailbox of a session (direct messages).

Two implementations: `local` (this process, history in SQLite) and `jetstream` (NATS, which keeps the logs for all).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from .protocol import Number

MAILBOX = "@"
"""A log whose name begins with it is the mailbox of one session."""

SAY, ACT, TOPIC = "say", "act", "topic"
"""The kinds of posts: said, done (`/me`), the room has another topic."""


class Post(Struct, frozen=True):
    """What somebody wants to be in a log. Where servers share one, who else writes there is held to the same."""

    log: Annotated[str, Meta(min_length=1)]
    kind: str
    nick: str
    text: str
    session: str
    n: Number


class Entry(Struct, frozen=True):
    """What is in a log. `at`: seconds since 1970."""

    id: int
    log: str
    at: float
    kind: str
    nick: str
    text: str


class Person(Struct, frozen=True, omit_defaults=True):
    """Somebody who is here, on whichever server.

    Attributes:
        session: names the session, without giving its secret away; his mailbox.
        active_at: when he last did something, seconds since 1970.
        away: his connection is lost, and he may come back.
        principal: who he proved to be; empty: nobody asked.
        node: the server that he is connected to.
    """

    session: str
    nick: str
    rooms: tuple[str, ...] = ()
    active_at: float = 0.0
    away: bool = False
    principal: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries of a log, the oldest first. `more`: there are others beyond them in the direction asked for."""

    entries: list[Entry]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found, the oldest first. `before`: it was searched back to this id; 0: to the beginning."""

    entries: list[Entry]
    before: int = 0


class Taken(Exception):
    """A nickname is somebody else's; the message says why."""


def taken_by(holder: Person, nick: str) -> Taken:
    """Why nobody else can have the nickname now."""
    if holder.away:
        return Taken(f"the connection of '{holder.nick}' is lost, and he may come back: try again in a moment")
    if holder.nick == nick:
        return Taken(f"'{nick}' is here already: take another nickname")
    return Taken(f"'{holder.nick}' is here, and '{nick}' looks the same: take another nickname")


class NotPosted(Exception):
    """A post did not become an entry, and surely will not; the message says why."""


Done = Callable[[int | Exception], None]
"""Called once for each post: with the entry's id (0: it had been posted before), or with what went wrong."""


class Hub(ABC):
    """The service's side: called from the event loop."""

    @abstractmethod
    def delivered(self, entries: list[Entry]) -> None:
        """New entries, whoever posted them."""

    @abstractmethod
    def changed(self, old: Person | None, new: Person | None, reason: str) -> None:
        """Somebody came (old is None), changed, or went (new is None)."""


class Backplane(ABC):
    """See the top of this file.

    Attributes:
        node: names this server among those that share it.
    """

    node: str = ""

    @property
    @abstractmethod
    def people(self) -> Mapping[str, Person]:
        """Everybody who is here, by session."""

    @abstractmethod
    async def start(self, hub: Hub) -> None:
        """Begin to deliver.

        Raises:
            StartError: the outside world refused.
        """

    @abstractmethod
    async def stop(self) -> None:
        """What was posted is durable, or its `done` was told otherwise. Also after a start that failed half-way."""

    @abstractmethod
    def post(self, post: Post, done: Done) -> None:
        """Put it into its log. Never blocks."""

    @abstractmethod
    async def page(self, log: str, *, after: int | None = None, before: int | None = None, count: int) -> Page:
        """The first `count` entries after an id, or the last ones before it; neither: the last ones."""

    @abstractmethod
    async def search(self, log: str, words: list[str], *, before: int | None = None, count: int) -> Found:
        """The last `count` entries before an id that hold all of the words, in whichever case.

        It may stop before the log's beginning: nobody waits for long, and nobody for somebody else's search.
        """

    @abstractmethod
    async def topics(self) -> dict[str, str]:
        """The topics of all rooms that have one."""

    @abstractmethod
    async def silent_topics(self) -> list[str]:
        """The rooms with a topic in which nothing was said or set for as long as messages are kept."""

    @abstractmethod
    async def forget_topics(self, rooms: list[str]) -> None:
        """These rooms have none any more, as far as this server is concerned."""

    @abstractmethod
    async def claim(self, person: Person) -> None:
        """Be here, or be here changed. A change of the nickname is a claim too.

        Raises:
            Taken: the nickname, or one that looks like it, is somebody else's.
        """

    @abstractmethod
    def update(self, person: Person) -> None:
        """The same without a change of the nickname; never refused."""

    @abstractmethod
    def release(self, session: str, reason: str) -> None:
        """Be here no more."""
