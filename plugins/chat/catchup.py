"""What a client has seen of each room: after a lost connection nothing is missing, and nothing comes twice. No I/O.

While pages of what was missed are under way, what is said meanwhile waits behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .protocol import Said, TopicSet

Seen = Said | TopicSet


@dataclass(slots=True)
class CatchUp:
    """One room, and how far it was seen.

    Attributes:
        last_id: of the last message that was handed on.
        missing: pages are under way.
        asked: the number of the request for the next one.
    """

    last_id: int = 0
    missing: bool = False
    asked: int = 0
    _held: list[Seen] = field(default_factory=list)

    def begin(self, asked: int) -> None:
        """The connection is a new one: what follows `last_id` is asked for."""
        self.missing = True
        self.asked = asked
        self._held = []

    def said(self, event: Seen) -> list[Seen]:
        """Something was said; what can be handed on of it."""
        if event.id <= self.last_id:
            return []
        if self.missing:
            self._held.append(event)
            return []
        self.last_id = event.id
        return [event]

    def page(self, messages: list[Seen], *, more: bool) -> list[Seen]:
        """A page of what was missed; what can be handed on now. While `missing` is set, ask for the next one."""
        fresh = [event for event in messages if event.id > self.last_id]
        if fresh:
            self.last_id = fresh[-1].id
        self.missing = more and bool(messages)
        if self.missing:
            return fresh
        held, self._held = self._held, []
        return fresh + [event for late in held for event in self.said(late)]
