"""The sources of datagrams that a listener remembers: at most so many, none longer than its idle time.

The table is ordered by when a peer was heard last, so the one to forget first is always in front.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

P = TypeVar("P")


class PeerTable(Generic[P]):
    """Peers by key.

    Args:
        peers_max: one more, and the peer that was silent longest is given up.
        idle_seconds_max: a peer that was silent for so long is given up.
    """

    def __init__(self, peers_max: int, idle_seconds_max: float) -> None:
        self._peers_max = peers_max
        self._idle_seconds_max = idle_seconds_max
        self._peers: OrderedDict[Hashable, tuple[P, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[P]:
        return iter([peer for peer, _ in self._peers.values()])

    def heard(self, key: Hashable, now: float) -> P | None:
        """The peer, if it is known; it counts as heard now."""
        known = self._peers.get(key)
        if known is None:
            return None
        self._peers[key] = known[0], now
        self._peers.move_to_end(key)
        return known[0]

    def add(self, key: Hashable, peer: P, now: float) -> P | None:
        """Remember a new peer; returns the one that had to be given up for it."""
        evicted = self._peers.popitem(last=False)[1][0] if len(self._peers) >= self._peers_max else None
        self._peers[key] = peer, now
        return evicted

    def remove(self, key: Hashable, peer: P) -> None:
        """Forget a peer; ignored when it is not known, or another one has taken its place."""
        known = self._peers.get(key)
        if known is not None and known[0] is peer:
            del self._peers[key]

    def take_idle(self, now: float) -> list[P]:
        """Give up those that were silent for too long."""
        idle: list[P] = []
        while self._peers and now - self._oldest() >= self._idle_seconds_max:
            idle.append(self._peers.popitem(last=False)[1][0])
        return idle

    @property
    def deadline(self) -> float | None:
        """When `take_idle` has something to do at the earliest; None: nobody is there."""
        return self._oldest() + self._idle_seconds_max if self._peers else None

    def _oldest(self) -> float:
        return next(iter(self._peers.values()))[1]
