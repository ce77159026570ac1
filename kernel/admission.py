"""Who may connect at all: places in all, places per source, and how fast a source may take them. No I/O, no clock.

A source is an IPv4 address, an IPv6 network of 64 bits (one customer has that many addresses), or a local user. The
places of a source are also the bucket from which it may take at once; `accepts_per_second_per_source_max` fills it up
again. 127.0.0.1, ::1 and our own user are exempt from what is counted per source: a reverse proxy or a load generator
stands there, and who is on this machine can do worse than connect.

Invariant: a source is remembered only while it has connections or its bucket is not full, so the table is bounded by
`connections_max` and by what can connect in the seconds that a bucket takes to fill.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kernel.api import Connection
from kernel.endpoint import network_of
from kernel.errors import Code
from kernel.limits import Limits

_EXEMPT = "this machine"
_LOOPBACK = ("127.0.0.1", "::1")
_LOOPBACK_PREFIXES = ("127.0.0.1:", "[::1]:")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is turned away, for programs and for people."""

    code: Code
    reason: str


class Admission:
    """The places of one server. `limits` may be changed: nobody who is in has to leave."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._places: dict[str, _Source] = {}
        self.connections = 0

    def admit(self, source: str, now: float) -> Refusal | None:
        """Take a place; or why there is none. Whoever got one gives it back by `leave`."""
        limits = self.limits
        if self.connections >= limits.connections_max:
            return Refusal(Code.OVERLOADED, f"the server is full, {self.connections} connections: try again later")
        if source != _EXEMPT:
            refusal = self._admit_source(source, now)
            if refusal is not None:
                return refusal
        self.connections += 1
        return None

    def leave(self, source: str) -> None:
        """A connection that was admitted is over."""
        self.connections -= 1
        if source != _EXEMPT:
            self._places[source].connections -= 1

    def forget_idle(self, now: float) -> None:
        """Forget the sources of which nothing needs to be known; called now and then."""
        full = self.limits.connections_per_source_max
        for source, place in list(self._places.items()):
            self._refill(place, now)
            if not place.connections and place.tokens >= full:
                del self._places[source]

    def _admit_source(self, source: str, now: float) -> Refusal | None:
        limits = self.limits
        place = self._places.get(source)
        if place is None:
            place = self._places[source] = _Source(limits.connections_per_source_max, now)
        self._refill(place, now)
        if place.connections >= limits.connections_per_source_max:
            return Refusal(Code.OVERLOADED, f"{place.connections} connections from your address are all it may have")
        if place.tokens < 1:
            rate = limits.accepts_per_second_per_source_max
            return Refusal(Code.RATE_LIMITED, f"more than {rate} connections a second from your address: slow down")
        place.tokens -= 1
        place.connections += 1
        return None

    def _refill(self, place: _Source, now: float) -> None:
        limits = self.limits
        earned = (now - place.filled_at) * limits.accepts_per_second_per_source_max
        place.tokens = min(limits.connections_per_source_max, place.tokens + earned)
        place.filled_at = now


class _Source:
    """What is known of one source: its open connections, and how many more it may take at once."""

    __slots__ = ("connections", "filled_at", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.connections = 0
        self.tokens = tokens
        self.filled_at = now


def source_of(connection: Connection) -> str:
    """On whose account a connection goes."""
    uid = connection.principal.uid
    if uid is not None:
        return _EXEMPT if uid == os.geteuid() else f"user {uid}"
    if connection.peer.startswith(_LOOPBACK_PREFIXES):  # without a look at ipaddress, which takes milliseconds
        return _EXEMPT
    source = network_of(connection.peer)
    return _EXEMPT if source in _LOOPBACK else source
