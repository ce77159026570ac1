"""The people of this server: who holds which session, by which seat, and how fast he may talk.

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


class Allowance:
    """A token bucket: `burst` messages at once, `per_second` in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take one: 0, or in how many seconds there will be one."""
        self._left = min(self._left + (now - self._at) * self._per_second, self._burst)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._per_second
        self._left -= 1
        return 0.0


class Patience:
    """How long others wait for somebody who reads nothing: `seconds` for each source, which come back within a minute.

    By source and not by connection: who comes back with another one finds it used up.
    """

    __slots__ = ("_left", "_seconds")

    _SOURCES_MAX = 10_000
    _REFILL_SECONDS = 60.0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left: dict[str, tuple[float, float]] = {}

    def spend(self, source: str, seconds: float, now: float) -> bool:
        """Wait so long for somebody from there; False: there is no patience left."""
        left, at = self._left.pop(source, (self._seconds, now))
        left = min(left + (now - at) * self._seconds / self._REFILL_SECONDS, self._seconds)
        enough = left >= seconds
        self._left[source] = (left - seconds if enough else left, now)
        if len(self._left) > self._SOURCES_MAX:
            del self._left[next(iter(self._left))]
        return enough


class Guest:
    """Somebody on this server.

    Attributes:
        session: names his session.
        seat: his connection; None: it is lost, and he may come back.
        lingers: ends the waiting for him.
        active_at, told_active_at: when he last did something, and what the others know of it.
    """

    __slots__ = (
        "active_at", "allowance", "lingers", "nick", "principal", "rooms", "seat", "session",
        "told_active_at",
    )  # fmt: skip

    def __init__(self, session: str, principal: str, allowance: Allowance) -> None:
        self.session = session
        self.principal = principal
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
