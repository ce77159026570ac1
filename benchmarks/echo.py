"""Echo servers side by side: `python -m benchmarks.echo --short` (under 3 minutes) or `--full` (about 25).

All servers of a transport are started, and stay; then in every round each cell goes through all of them, one after the
other, so that what disturbs the machine disturbs all. Server and load generator have a core each, where there are two.
What is told is the median of the rounds with its quartiles; ratios are taken within each round. Servers that cannot run
here are named and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.load import raise_file_limit, sample
from benchmarks.report import Report, Rows, ratio
from benchmarks.servers import PEER_DISTRIBUTIONS, SERVERS, Running, Server
from benchmarks.targets import Verdict, verdicts
from kernel.bench import machine
from kernel.bench.echo import DATAGRAM_CELLS, STREAM_CELLS
from kernel.bench.load import Load, Sample
from kernel.bench.plot import Bar, Panel, bar_panels, quantity
from kernel.bench.timing import Spread

SHORT_CELLS = {"unix": ("16 B x 1", "1 KiB x 128"), "udp": ("1 KiB x 64",)}
SHORT_UNIX = (servers.OURS, servers.OURS_KNL, "C epoll (the limit)", servers.UVLOOP_PROTOCOL, servers.ASYNCIO_STREAMS)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    transports: tuple[str, ...]
    rounds: int
    seconds: float
    warmup_seconds: float
    short: bool

    def cells(self, transport: str) -> dict[str, Load]:
        """By name, in order."""
        cells = DATAGRAM_CELLS if transport == "udp" else STREAM_CELLS
        wanted = SHORT_CELLS.get(transport) if self.short else None
        return {name: cells[name] for name in wanted} if wanted else cells

    def takes(self, server: Server, transport: str) -> bool:
        """Whether a server takes part."""
        left_out = self.short and transport == "unix" and server.name not in SHORT_UNIX
        return transport in server.transports and not left_out


@dataclass(frozen=True)
class Measured:
    """A sample, and where it belongs."""

    server: str
    transport: str
    cell: str
    round: int
    sample: Sample


def measure(plan: Plan, chosen: Sequence[Server]) -> Iterator[Measured]:
    """Run the plan, transport by transport."""
    for transport in plan.transports:
        server_cpu, load_cpu = machine.cores()
        with ExitStack() as stack:
            taking_part = [server for server in chosen if plan.takes(server, transport) and not server.missing()]
            running = [stack.enter_context(Running(server, transport, server_cpu)) for server in taking_part]
            for number in range(plan.rounds):
                for cell, load in plan.cells(transport).items():
                    _progress(f"{transport}: round {number + 1} of {plan.rounds}, {cell}")
                    for one in running:
                        result = sample(one, load, plan.seconds, plan.warmup_seconds, load_cpu)
                        yield Measured(one.server.name, transport, cell, number, result)
    _progress("")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


# --- what came of it ------------------------------------------------------------------------------------------


Place = tuple[str, str, str]
"""(server, transport, cell)"""


class Results:
    """All samples of a run, and what they say."""

    def __init__(self, plan: Plan, chosen: Sequence[Server], measured: Sequence[Measured]) -> None:
        self.plan = plan
        self.chosen = chosen
        self.measured = measured
        self.series: dict[Place, list[Sample]] = {}
        self.errors: dict[Place, str] = {}
        for one in measured:
            place = (one.server, one.transport, one.cell)
            self.series.setdefault(place, []).append(one.sample)
            if one.sample.error:
                self.errors[place] = one.sample.error

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all targets that this run can judge."""
        return list(verdicts({place: series for place, series in self.series.items() if place not in self.errors}))

    def spread(self, place: Place, attribute: str) -> Spread:
        """Of one of the numbers of a server in a cell."""
        return Spread.of([getattr(one, attribute) for one in self.series[place]])

    def names(self, transport: str) -> list[str]:
        """The servers that were measured, in the table's order."""
        present = {server for server, its_transport, _ in self.series if its_transport == transport}
        return [server.name for server in self.chosen if server.name in present]

    def report(self, others: float | None) -> Report:
        """Tables, pictures and data."""
        report = Report("echo", machine.describe(PEER_DISTRIBUTIONS), others)
        for transport in self.plan.transports:
            for name, title, value in (
                ("rate", "messages per second", self._rate),
                ("tail", "99th percentile, us", self._tail),
                ("cost", "server's processor time, us a message", self._cost),
            ):
                report.tables[f"{transport}-{name}"] = self._rows(f"{transport}: {title}", transport, value)
            report.pictures[transport] = self._picture(transport, machine.summary(report.machine))
            report.tables[f"{transport}-targets"] = self._target_rows(transport)
        report.data = self._data()
        report.remarks = [machine.cores_in_words()]
        report.remarks += [f"Left out: {server.name} ({why})." for server in self.chosen if (why := server.missing())]
        report.remarks += [f"Failed: {s} on {t}, {c}: {why}" for (s, t, c), why in self.errors.items()]
        return report

    def _data(self) -> dict[str, object]:
        return {
            "cores": dict(zip(("server", "load_generator"), machine.cores(), strict=True)),
            "plan": asdict(self.plan),
            "messages_per_second": [
                {"server": s, "transport": t, "cell": c, **self.spread((s, t, c), "messages_per_second").json()}
                for s, t, c in self.series
                if (s, t, c) not in self.errors
            ],
            "targets": [
                {**asdict(v.target), "cells": v.cell, "measured": v.measured.json(), "by_cost": v.by_cost.json()}
                for v in self.verdicts
            ],
            "samples": [{**asdict(one), "sample": asdict(one.sample)} for one in self.measured],
        }

    def _rows(self, title: str, transport: str, value: Callable[[Place], str]) -> Rows:
        cells = list(self.plan.cells(transport))
        rows = [[title, *cells]]
        for name in self.names(transport):
            places = ((name, transport, cell) for cell in cells)
            rows.append([name, *("failed" if place in self.errors else value(place) for place in places)])
        return rows

    def _rate(self, place: Place) -> str:
        spread = self.spread(place, "messages_per_second")
        return f"{quantity(spread.median)} ±{(spread.high - spread.low) / 2 / spread.median:.0%}"

    def _tail(self, place: Place) -> str:
        return f"{self.spread(place, 'p99_us').median:,.0f}"

    def _cost(self, place: Place) -> str:
        median = self.spread(place, "server_us").median
        return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"

    def _target_rows(self, transport: str) -> Rows:
        rows = [[f"{transport}: target", "cell", "wanted", "by rate (quartiles)", "by cost", ""]]
        for v in self.verdicts:
            if v.target.transport == transport:
                title, missed = f"{v.target.server} / {v.target.peer}", "" if v.met else "missed"
                wanted, by_cost = f"{v.target.ratio:.1f}", f"{v.by_cost.median:.2f}"
                rows.append([title, v.cell, wanted, ratio(v.measured), by_cost, missed])
        return rows

    def _picture(self, transport: str, measured_on: str) -> str:
        panels = []
        ours = {server.name for server in self.chosen if server.ours}
        for cell in self.plan.cells(transport):
            places = [(name, transport, cell) for name in self.names(transport)]
            rates = {p[0]: self.spread(p, "messages_per_second") for p in places if p not in self.errors}
            bars = [Bar(name, rate.median, rate.low, rate.high, name in ours) for name, rate in rates.items()]
            if bars:
                panels.append(Panel(cell, sorted(bars, key=lambda bar: -bar.value)))
        title = f"Echo over {transport.upper()}: messages per second (median, quartiles)"
        return bar_panels(title, panels, measured_on)


# --- the command ----------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="3 rounds of 0.25 s (the default)")
    size.add_argument("--full", action="store_true", help="7 rounds of 1 s, every server on every transport")
    parser.add_argument("--transport", action="append", choices=["tcp", "unix", "udp"], help="only this one; repeats")
    parser.add_argument("--server", action="append", metavar="NAME", help="only this one; repeats; see --list")
    parser.add_argument("--list", action="store_true", help="list the servers and end")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of 3 or 7")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each sample, instead of 0.25 or 1")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="write echo.json and echo-*.svg there")
    chosen = parser.parse_args()
    unknown = set(chosen.server or ()) - {server.name for server in SERVERS}
    if unknown:
        parser.error(f"no server is called {', '.join(sorted(unknown))}; --list shows them")
    return chosen


def run(
    *,
    full: bool,
    transports: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
) -> Report:
    """Measure what was asked for; what was not said is as `full` has it."""
    rounds, seconds = rounds or (7 if full else 3), seconds or (1.0 if full else 0.25)
    plan = Plan(tuple(transports or ("tcp", "unix", "udp")), rounds, seconds, seconds / 4 + 0.05, not full)
    chosen = [server for server in SERVERS if not names or server.name in names]
    raise_file_limit()
    watch = machine.Watch()
    watch.start()
    measured = list(measure(plan, chosen))
    return Results(plan, chosen, measured).report(watch.share_of_others())


def main() -> None:
    """Measure, print, and write what was asked for."""
    asked = arguments()
    if asked.list:
        print("\n".join(f"{s.name:28} {', '.join(s.transports):12} {s.missing()}".rstrip() for s in SERVERS))
        return
    report = run(
        full=asked.full, transports=asked.transport, names=asked.server, rounds=asked.rounds, seconds=asked.seconds
    )
    print(report.text())
    if asked.out:
        report.write(asked.out)


if __name__ == "__main__":
    main()
