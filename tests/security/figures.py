"""Measured figures: held against their ceilings, and told at the end of the run (see conftest.py)."""

from __future__ import annotations

from typing import NamedTuple

MIB = 1024 * 1024


class Figure(NamedTuple):
    """One row of the table."""

    what: str
    value: float
    ceiling: float
    unit: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value:,.4g} {self.unit} (at most {self.ceiling:,.4g})"


measured: list[Figure] = []


def hold(what: str, value: float, ceiling: float, unit: str) -> None:
    """The value must not be above its ceiling; it is told whether it is or not."""
    figure = Figure(what, value, ceiling, unit)
    measured.append(figure)
    assert value <= ceiling, str(figure)


def quantile(values: list[float], share: float) -> float:
    """The value below which a share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
