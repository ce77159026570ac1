"""What a server has seen since its start, counted where it happens: once a connection or a channel, never a message."""

from __future__ import annotations

from collections import Counter

from kernel.errors import Code


class Counts:
    """Of one server.

    Attributes:
        accepted: connections that got a place.
        turned_away: those that got none, by reason.
        ended: connections that are over, by reason.
        opened: channels that were opened, by service.
        denied: channels that a peer asked for and did not get, by reason.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.turned_away: Counter[Code] = Counter()
        self.ended: Counter[Code] = Counter()
        self.opened: Counter[str] = Counter()
        self.denied: Counter[Code] = Counter()
