"""Named deadlines for protocol code that is told the time only now and then.

A timer that is armed between two ticks does not know the time yet: the next `tick`, asked for at once, starts it.
"""

from __future__ import annotations

_AT_ONCE = 0.0


class Timers:
    """Deadlines by name. `deadline` and `tick` speak the same clock, which never runs backwards."""

    __slots__ = ("_due_at", "_fresh")

    def __init__(self) -> None:
        self._due_at: dict[str, float] = {}
        self._fresh: dict[str, float] = {}

    def arm(self, name: str, seconds: float) -> None:
        """Let it ring once, `seconds` from now; an earlier setting is forgotten."""
        self._due_at.pop(name, None)
        self._fresh[name] = seconds

    def cancel(self, name: str) -> None:
        """Ignored when it is not armed."""
        self._due_at.pop(name, None)
        self._fresh.pop(name, None)

    def clear(self) -> None:
        self._due_at.clear()
        self._fresh.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._due_at or name in self._fresh

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest; None: nothing is armed."""
        return _AT_ONCE if self._fresh else min(self._due_at.values(), default=None)

    def tick(self, now: float) -> list[str]:
        """The timers that ring, the one due first in front; each is no longer armed."""
        ringing = sorted((at, name) for name, at in self._due_at.items() if at <= now)
        for _, name in ringing:
            del self._due_at[name]
        for name, seconds in self._fresh.items():
            self._due_at[name] = now + seconds
        self._fresh.clear()
        return [name for _, name in ringing]
