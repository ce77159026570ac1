"""What a measurement has to say: tables, pictures and JSON; on what machine, and how quiet it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernel.bench import machine
from kernel.bench.timing import Spread

Rows = list[list[str]]
"""A table: the heads, then the rows; the first column is text, the others are numbers."""


@dataclass
class Report:
    """Filled by a measurement, shown and written by whoever asked for it.

    Attributes:
        name: of its files.
        machine: where it was measured, see `kernel.bench.machine.describe`.
        others: the share of the machine's time that others used meanwhile.
        tables, pictures (SVG): by name.
        data: for programs.
        remarks: what must be known beside the numbers, a line each.
    """

    name: str
    machine: dict[str, object]
    others: float | None = None
    tables: dict[str, Rows] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal."""
        tables = [aligned(rows) for rows in self.tables.values() if len(rows) > 1]
        return "\n\n".join([*tables, "\n".join(self.notes())])

    def notes(self) -> list[str]:
        """The machine, whether it was quiet, and the remarks."""
        lines = [machine.summary(self.machine), machine.in_words(self.others), *self.remarks]
        return [line for line in lines if line]

    def write(self, directory: Path) -> None:
        """NAME.json, and NAME-PICTURE.svg for each picture."""
        directory.mkdir(parents=True, exist_ok=True)
        whole = {"machine": self.machine, "others_cpu": self.others, "remarks": self.remarks, **self.data}
        (directory / f"{self.name}.json").write_text(json.dumps(whole, indent=1) + "\n")
        for name, svg in self.pictures.items():
            (directory / f"{self.name}-{name}.svg").write_text(svg)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text, columns as wide as they must be, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    heads, *body = rows
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rule, *body])


def ratio(spread: Spread) -> str:
    """A median between its quartiles: `1.52 (1.49 to 1.60)`."""
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
