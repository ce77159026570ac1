"""When to ask a silent peer whether it is there, and when to give it up.

The time of each packet is not known, only that some came between two probes. A peer is given up when it was silent for
as many probes as fit the limit, less one: so never later than the limit. It is asked at each probe from one ping
interval on, so that a single lost answer ends nothing.
"""

from __future__ import annotations

from enum import Enum

_PROBES_PER_PING_INTERVAL = 3
_PING_INTERVALS_PER_IDLE_MIN = 3


class Verdict(Enum):
    """What a probe has found."""

    HEARD = "heard"
    ASK = "ask"
    GONE = "gone"


class Liveness:
    """Watches one peer. Set `heard` when something valid came, and call `probe` every `probe_seconds`.

    Args:
        ping_interval_seconds: ask after about so much silence; less where the next argument calls for it.
        idle_seconds_max: give up after at most so much silence.
    """

    __slots__ = ("_silent_probes", "_silent_probes_max", "heard", "probe_seconds")

    def __init__(self, ping_interval_seconds: float, idle_seconds_max: float) -> None:
        interval = min(ping_interval_seconds, idle_seconds_max / _PING_INTERVALS_PER_IDLE_MIN)
        self.probe_seconds = interval / _PROBES_PER_PING_INTERVAL
        self.heard = False
        self._silent_probes = 0
        self._silent_probes_max = round(idle_seconds_max / self.probe_seconds) - 1

    def probe(self) -> Verdict:
        """Judge the time since the last probe."""
        self._silent_probes = 0 if self.heard else self._silent_probes + 1
        self.heard = False
        if self._silent_probes >= self._silent_probes_max:
            return Verdict.GONE
        return Verdict.ASK if self._silent_probes >= _PROBES_PER_PING_INTERVAL else Verdict.HEARD
