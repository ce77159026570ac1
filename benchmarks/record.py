"""`python -m benchmarks.record`: measure everything, and write it into docs/performance.md and docs/performance/.

The document keeps its words; what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced by what was
measured now. About 40 minutes; `--only` does one part. On a machine that others use the numbers are worth little: the
document says how quiet it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from benchmarks import echo, framing, scale
from benchmarks.report import Report, markdown

DOCS = Path(__file__).parents[1] / "docs"
PARTS: dict[str, Callable[[bool], Report]] = {
    "framing": lambda short: framing.run(5 if short else 15),
    "echo": lambda short: echo.run(full=not short),
    "scale": lambda short: scale.run(quick=short),
}
_TABLE = re.compile(r"(<!-- table (?P<part>\w+)-(?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)


def filled(document: str, report: Report) -> str:
    """The document with the tables of one report in their places.

    Raises:
        KeyError: it has a place for a table that the report lacks.
    """

    def replace(place: re.Match[str]) -> str:
        if place["part"] != report.name:
            return place[0]
        name = place["name"]
        content = notes(report) if name == "notes" else markdown(report.tables[name])
        return f"{place[1]}\n{content}\n\n{place[4]}"

    return _TABLE.sub(replace, document)


def notes(report: Report) -> str:
    """When, where, and how quiet it was."""
    others = "unknown" if report.others is None else f"{report.others:.0%}"
    lines = [f"Measured on {date.today()}; others used {others} of the machine.", *report.notes()]
    return "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def main() -> None:
    """Measure, and write the documents."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=sorted(PARTS), help="one part; repeats")
    parser.add_argument("--short", action="store_true", help="fewer rounds, about five minutes: to see that all works")
    asked = parser.parse_args()
    page = DOCS / "performance.md"
    for name in asked.only or PARTS:
        print(f"measuring {name}", file=sys.stderr)
        report = PARTS[name](asked.short)
        print(report.text(), end="\n\n", flush=True)
        report.write(DOCS / "performance")
        page.write_text(filled(page.read_text(), report))


if __name__ == "__main__":
    main()
