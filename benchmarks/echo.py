"""Echo servers side by side: `python -m benchmarks.echo --short` (under 3 minutes) or `--full` (about 25).

All servers of a transport are started, and stay; then in every round each cell goes through all of them, one after the
other, so that what disturbs the machine disturbs all. Server and load generator have a core each, where there are two.
What is told is the median of the rounds with its quartiles; ratios are taken within each round. Servers that cannot run
here are named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.load import raise_file_limit, sample
from benchmarks.servers import PEER_DISTRIBUTIONS, SERVERS, Running, Server
from benchmarks.tables import aligned
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


class Report:
    """All samples of a run, and what they say."""

    def __init__(
        self, plan: Plan, chosen: Sequence[Server], measured: Sequence[Measured], others: float | None
    ) -> None:
        self.plan = plan
        self.chosen = chosen
        self.measured = measured
        self.others = others
        self.machine = machine.describe(PEER_DISTRIBUTIONS)
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

    def json(self) -> dict[str, object]:
        """Everything, for programs."""
        return {
            "machine": self.machine,
            "cores": dict(zip(("server", "load_generator"), machine.cores(), strict=True)),
            "others_cpu": self.others,
            "plan": asdict(self.plan),
            "left_out": {server.name: why for server in self.chosen if (why := server.missing())},
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

    def text(self) -> str:
        """Tables for people."""
        parts = []
        for transport in self.plan.transports:
            parts.append(self._table("messages per second", transport, self._rate))
            parts.append(self._table("99th percentile, us", transport, self._tail))
            parts.append(self._table("server's processor time, us a message", transport, self._cost))
        parts += [self._targets(), self._remarks()]
        return "\n\n".join(part for part in parts if part)

    def _table(self, title: str, transport: str, value: Callable[[Place], str]) -> str:
        cells = list(self.plan.cells(transport))
        rows = [[f"{transport}: {title}", *cells]]
        for name in self.names(transport):
            places = ((name, transport, cell) for cell in cells)
            rows.append([name, *("failed" if place in self.errors else value(place) for place in places)])
        return aligned(rows)

    def _rate(self, place: Place) -> str:
        spread = self.spread(place, "messages_per_second")
        return f"{quantity(spread.median)} ±{(spread.high - spread.low) / 2 / spread.median:.0%}"

    def _tail(self, place: Place) -> str:
        return f"{self.spread(place, 'p99_us').median:,.0f}"

    def _cost(self, place: Place) -> str:
        median = self.spread(place, "server_us").median
        return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"

    def _targets(self) -> str:
        rows = [["target", "cell", "wanted", "by rate (quartiles)", "by cost", ""]]
        for v in self.verdicts:
            measured = f"{v.measured.median:.2f} ({v.measured.low:.2f} to {v.measured.high:.2f})"
            title = f"{v.target.transport}: {v.target.server} / {v.target.peer}"
            missed = "" if v.met else "MISSED"
            rows.append([title, v.cell, f"{v.target.ratio:.1f}", measured, f"{v.by_cost.median:.2f}", missed])
        return aligned(rows) if len(rows) > 1 else ""

    def _remarks(self) -> str:
        lines = [machine.summary(self.machine), machine.cores_in_words(), machine.in_words(self.others)]
        lines += [f"Left out: {server.name} ({why})." for server in self.chosen if (why := server.missing())]
        lines += [f"Failed: {s} on {t}, {c}: {why}" for (s, t, c), why in self.errors.items()]
        return "\n".join(line for line in lines if line)

    def svg(self, transport: str) -> str:
        """Bars for every cell."""
        panels = []
        ours = {server.name for server in self.chosen if server.ours}
        for cell in self.plan.cells(transport):
            places = [(name, transport, cell) for name in self.names(transport)]
            rates = {p[0]: self.spread(p, "messages_per_second") for p in places if p not in self.errors}
            bars = [Bar(name, rate.median, rate.low, rate.high, name in ours) for name, rate in rates.items()]
            if bars:
                panels.append(Panel(cell, sorted(bars, key=lambda bar: -bar.value)))
        title = f"Echo over {transport.upper()}: messages per second (median, quartiles)"
        return bar_panels(title, panels, machine.summary(self.machine))


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: FILE.svg becomes FILE-tcp.svg and so on")
    chosen = parser.parse_args()
    unknown = set(chosen.server or ()) - {server.name for server in SERVERS}
    if unknown:
        parser.error(f"no server is called {', '.join(sorted(unknown))}; --list shows them")
    return chosen


def main() -> None:
    """Measure, print, and write what was asked for."""
    asked = arguments()
    if asked.list:
        print("\n".join(f"{s.name:28} {', '.join(s.transports):12} {s.missing()}".rstrip() for s in SERVERS))
        return
    transports = tuple(asked.transport or ("tcp", "unix", "udp"))
    rounds, seconds = asked.rounds or (7 if asked.full else 3), asked.seconds or (1.0 if asked.full else 0.25)
    plan = Plan(transports, rounds, seconds, seconds / 4 + 0.05, not asked.full)
    chosen = [server for server in SERVERS if not asked.server or server.name in asked.server]
    raise_file_limit()
    watch = machine.Watch()
    watch.start()
    measured = list(measure(plan, chosen))
    report = Report(plan, chosen, measured, watch.share_of_others())
    print(report.text())
    if asked.json:
        asked.json.write_text(json.dumps(report.json(), indent=1) + "\n")
    for transport in plan.transports if asked.plot else ():
        asked.plot.with_stem(f"{asked.plot.stem}-{transport}").write_text(report.svg(transport))


if __name__ == "__main__":
    main()
