"""Timing that can be trusted on a machine that others use too.

Contestants of one case are timed in turn, A B C A B C, so that what disturbs one disturbs all; each gets samples long
enough for the clock, and the garbage collector rests meanwhile. What is reported is the median and the quartiles; a
ratio is taken within each round, before its median.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def json(self) -> dict[str, float]:
        """For programs: four significant digits."""
        return {name: float(f"{getattr(self, name):.4g}") for name in ("median", "low", "high")}


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The spread of `above / below`, round by round."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def interleaved(contestants: dict[str, Run], rounds: int, sample_seconds: float) -> dict[str, list[float]]:
    """Time all contestants in turn, `rounds` times. Returns seconds a call, by contestant, one for each round.

    Args:
        sample_seconds: how long each sample takes at least; a contestant is called as often as that needs.
    """
    calls = {name: _calls_for(run, sample_seconds) for name, run in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contestants.items():
                samples[name].append(_seconds(run, calls[name]) / calls[name])
    finally:
        if collecting:
            gc.enable()
    return samples


def _calls_for(run: Run, sample_seconds: float) -> int:
    run()
    once = _seconds(run, 1)
    return max(1, round(sample_seconds / max(once, 1e-7)))


def _seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start
