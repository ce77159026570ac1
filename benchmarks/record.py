"""`python -m benchmarks.record`: measure all in about 10 minutes, and write it into docs/performance.md and its folder.

The document keeps its words; what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced by what was
measured now. `--only` does one part. On a machine that others use the numbers are worth little: the
document says how quiet it was.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from benchmarks import echo, framing, profile, scale
from benchmarks.report import Report, markdown

DOCS = Path(__file__).parents[1] / "docs"
SIZES = ("short", "usual", "full")
"""How much is measured: in about 3 minutes, 10, or 40."""
PARTS: dict[str, Callable[[str], Report]] = {
    "framing": lambda size: framing.run({"short": 3, "usual": 7, "full": 15}[size]),
    "echo": lambda size: echo.run(
        full=size != "short",
        rounds={"short": 3, "usual": 5, "full": 7}[size],
        seconds={"short": 0.2, "usual": 0.3, "full": 1.0}[size],
    ),
    "scale": lambda size: scale.run(
        quick=size == "short",
        rounds={"short": 1, "usual": 2, "full": 3}[size],
        seconds={"short": 0.2, "usual": 0.3, "full": 0.5}[size],
    ),
    "profile": lambda size: profile.run({"short": 0.5, "usual": 1.5, "full": 3.0}[size]),
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
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="fewer rounds and cells, about 3 minutes: to see all work")
    size.add_argument("--full", action="store_true", help="more and longer rounds, about 40 minutes")
    asked = parser.parse_args()
    chosen = "short" if asked.short else "full" if asked.full else "usual"
    page = DOCS / "performance.md"
    for name in asked.only or PARTS:
        if name == "profile" and (reason := profile.missing()):
            print(f"no profile: {reason}", file=sys.stderr)
            continue
        print(f"measuring {name}", file=sys.stderr)
        started = time.monotonic()
        report = PARTS[name](chosen)
        print(report.text(), end="\n\n", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        report.write(DOCS / "performance")
        page.write_text(filled(page.read_text(), report))


if __name__ == "__main__":
    main()
