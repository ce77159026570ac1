"""The people of this server: who holds which session, and by which seat.

A guest outlives his connection by a while: who comes back with the session's secret finds his name and his rooms. The
secret itself is nowhere kept; its digest names the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pwd
import secrets
import time
from typing import TYPE_CHECKING

from kernel import Principal

from .backplane import Person

if TYPE_CHECKING:
    from .seat import Seat
    from .sources import Allowance, Source


def session_name(secret: str) -> str:
    """What names a session, and gives nothing of its secret away. An empty secret makes a session for this once."""
    return hashlib.sha256((secret or secrets.token_hex(16)).encode()).hexdigest()[:32]


def known_as(principal: Principal) -> str:
    """What somebody is called who does not say.

    Raises:
        ValueError: nobody knows.
    """
    if principal.mechanism == "none":
        raise ValueError("say what to be called: --nick NAME")
    if principal.uid is not None:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(principal.uid).pw_name
    return principal.name


class Guest:
    """Somebody on this server.

    Attributes:
        session: names his session.
        source: on whose account he is here.
        allowance: how much he may ask for, by whichever connection.
        seat: his connection; None: it is lost, and he may come back.
        lingers: ends the waiting for him.
        active_at, told_active_at: when he last did something, and what the others know of it.
    """

    __slots__ = (
        "active_at", "allowance", "lingers", "nick", "principal", "rooms", "seat", "session",
        "source", "told_active_at",
    )  # fmt: skip

    def __init__(self, session: str, principal: str, source: Source, allowance: Allowance) -> None:
        self.session = session
        self.principal = principal
        self.source = source
        self.allowance = allowance
        self.nick = ""
        self.rooms: dict[str, None] = {}
        self.active_at = self.told_active_at = time.time()
        self.seat: Seat | None = None
        self.lingers: asyncio.TimerHandle | None = None

    def person(self, nick: str = "") -> Person:
        """How everybody sees him from now on."""
        self.told_active_at = self.active_at
        return Person(
            session=self.session,
            nick=nick or self.nick,
            rooms=tuple(self.rooms),
            active_at=self.active_at,
            away=self.seat is None,
            principal=self.principal,
        )
