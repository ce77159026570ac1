"""What those share who come from one place: how fast they talk, what work they make, how long others wait for them.

A place, or source, is who they proved to be, else their address. So nobody gains by coming with ten connections: all
of his connections draw on one allowance, and only so many of the server's places are his.

Invariant: a source is remembered while somebody of it is here, and else as long as there is room: a table that
strangers can fill is bounded.
"""

from __future__ import annotations

from collections import OrderedDict

from .options import ChatOptions

_REMEMBERED_MAX = 10_000
_PATIENCE_REFILL_SECONDS = 60.0
# To come, to look and to search is cheaper than to talk, for nobody else sees it; a server's people come back at once.
_WORK_FACTOR = 10


class Allowance:
    """A token bucket: `burst` at once, `per_second` in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def reserve(self, now: float, cost: float = 1.0) -> float:
        """Take so much, in advance where there is too little; in how many seconds it will be there.

        Who takes in advance stands in a queue: the next one waits for longer.
        """
        self._refill(now)
        self._left -= cost
        return max(-self._left / self._per_second, 0.0)

    def spend(self, now: float, cost: float) -> bool:
        """Take so much if it is there."""
        self._refill(now)
        enough = self._left >= cost
        if enough:
            self._left -= cost
        return enough

    def give_back(self, cost: float) -> None:
        """What was reserved is not needed."""
        self._left += cost

    def _refill(self, now: float) -> None:
        self._left = min(self._left + (now - self._at) * self._per_second, self._burst)
        self._at = now


class Source:
    """One source.

    Attributes:
        people: how many of its people are here.
        talk: what all of them may say.
        work: what else they may ask for.
        patience: how many seconds others wait for those who read nothing.
    """

    __slots__ = ("name", "patience", "people", "talk", "work")

    def __init__(self, name: str, options: ChatOptions) -> None:
        person = options.messages_per_second
        together = options.messages_per_second_per_source or person
        burst = options.burst * max(together / person, 1.0)
        seconds = options.slow_reader_seconds_max
        self.name = name
        self.people = 0
        self.talk = Allowance(together, burst)
        self.work = Allowance(together * _WORK_FACTOR, burst * _WORK_FACTOR)
        self.patience = Allowance(seconds / _PATIENCE_REFILL_SECONDS, seconds)


class Sources:
    """All sources of which something has to be known, and the server's places."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._people = 0

    def get(self, name: str) -> Source:
        """The source, made when it is new."""
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Source(name, self._options)
            if len(self._sources) > self._options.people_max + _REMEMBERED_MAX:
                self._forget_one()
        else:
            self._sources.move_to_end(name)
        return source

    def _forget_one(self) -> None:
        """The one that has not been here for longest; there are more than there can be people, so there is one."""
        while True:
            name, source = self._sources.popitem(last=False)
            if not source.people:
                return
            self._sources[name] = source

    def why_full(self, source: Source) -> str:
        """Why one more from there cannot come in; empty: he can."""
        if self._people >= self._options.people_max:
            return "the chat is full: try again later"
        if source.people >= self._options.people_per_source_max:
            return f"{source.people} people are here as '{source.name}', which is all that may be: try again later"
        return ""

    def come(self, source: Source) -> None:
        """Somebody from there takes a place."""
        source.people += 1
        self._people += 1

    def go(self, source: Source) -> None:
        """Somebody from there gives his place back."""
        source.people -= 1
        self._people -= 1
