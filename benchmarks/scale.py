"""How the echo path scales: `python -m benchmarks.scale` (about 10 minutes; `--quick` about one).

Curves of throughput and 99th percentile against connections, message size, and channels in a connection; memory for an
idle connection; time from start to listening. The servers of a curve are measured in turn at each of its points.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.load import held, raise_file_limit, sample
from benchmarks.report import Report, Rows
from benchmarks.servers import SERVERS, Running, Server
from kernel.bench import machine
from kernel.bench.load import Load
from kernel.bench.machine import cores
from kernel.bench.plot import Bar, Chart, Panel, Series, bar_panels, byte_size, line_charts, quantity
from kernel.bench.timing import Spread

LIMIT, ASYNCIO_PROTOCOL, TWISTED = "C epoll (the limit)", "asyncio Protocol", "Twisted Int32"
SETTLE_SECONDS = 0.5
STREAMED_BYTES = 1 << 30


@dataclass(frozen=True)
class Curve:
    """Points along one axis, and the servers that are compared.

    Attributes:
        name: of the files and in the report.
        axis: what the points are.
        points: values along the axis.
        load: what the load generator does at a point.
        format: a point as text.
    """

    name: str
    axis: str
    points: tuple[int, ...]
    load: Callable[[int], Load]
    servers: tuple[str, ...]
    format: Callable[[float], str] = quantity


PEERS = (servers.OURS, LIMIT, servers.UVLOOP_PROTOCOL, servers.ASYNCIO_STREAMS)
CURVES = (
    Curve(
        "connections",
        "connections, each with one message of 1 KiB in flight",
        (1, 4, 16, 64, 256, 1000, 5000),
        lambda n: Load(1024, connections=n),
        PEERS,
    ),
    Curve(
        "size",
        "message size, 16 in flight on one connection",
        (16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576),
        lambda n: Load(n, in_flight=16),
        PEERS,
        byte_size,
    ),
    Curve(
        "channels",
        "KNL channels in one connection, each with one message of 64 B in flight",
        (1, 4, 16, 64, 256),
        lambda n: Load(64, channels=n),
        (servers.OURS_KNL,),
    ),
)
QUICK_POINTS = {"connections": (1, 64, 1000), "size": (16, 1024, 65536), "channels": (1, 16, 256)}
IDLE = (servers.OURS, servers.OURS_ASYNCIO, servers.OURS_KNL, servers.UVLOOP_PROTOCOL, ASYNCIO_PROTOCOL)
IDLE_SERVERS = (*IDLE, servers.ASYNCIO_STREAMS, TWISTED)


@dataclass(frozen=True)
class Point:
    """What one server did at one point."""

    curve: str
    server: str
    at: int
    messages_per_second: Spread
    p99_us: Spread

    def json(self) -> dict[str, object]:
        """For programs."""
        rates, tails = self.messages_per_second.json(), self.p99_us.json()
        return {"server": self.server, "at": self.at, "messages_per_second": rates, "p99_us": tails}


def server_named(name: str) -> Server:
    """From the table."""
    return next(server for server in SERVERS if server.name == name)


def present(names: Sequence[str]) -> list[Server]:
    """Those that can run here."""
    return [server for server in map(server_named, names) if not server.missing()]


def measure(curve: Curve, points: Sequence[int], rounds: int, seconds: float) -> Iterator[Point]:
    """All servers of a curve, in turn at each point."""
    server_cpu, load_cpu = cores()
    with ExitStack() as stack:
        running = [stack.enter_context(Running(server, "tcp", server_cpu)) for server in present(curve.servers)]
        for at in points:
            _progress(f"{curve.name}: {curve.format(at)}")
            samples = [
                [sample(one, curve.load(at), seconds, seconds / 4 + 0.05, load_cpu) for one in running]
                for _ in range(rounds)
            ]
            for one, series in zip(running, zip(*samples, strict=True), strict=True):
                good = [result for result in series if not result.error]
                if not good:
                    print(f"{one.server.name} failed at {at} {curve.name}: {series[0].error}", file=sys.stderr)
                    continue
                rates = Spread.of([result.messages_per_second for result in good])
                yield Point(curve.name, one.server.name, at, rates, Spread.of([result.p99_us for result in good]))
    _progress("")


def idle_memory(server: Server, connections: int) -> float:
    """Bytes for each idle connection: how much the server's own memory grows while so many more are open.

    A third of them is opened before: into memory that was free already, and for what is loaded but once.
    """
    server_cpu, load_cpu = cores()
    with Running(server, "tcp", server_cpu) as running, held(running, connections // 3, load_cpu):
        time.sleep(SETTLE_SECONDS)
        before = machine.process_memory_bytes(running.process.pid)
        with held(running, connections, load_cpu):
            time.sleep(SETTLE_SECONDS)
            return (machine.process_memory_bytes(running.process.pid) - before) / connections


def stream_memory(server: Server) -> float:
    """Bytes by which a message of `STREAMED_BYTES` raises the server's peak memory, echoed while it still arrives."""
    with Running(server, "tcp", None) as running:
        kernel = [str(Path(sys.executable).with_name("kernel")), "echo", running.target.endpoint, "--quiet"]
        subprocess.run([*kernel, "--size", "64KiB"], check=True, stdout=subprocess.DEVNULL)
        before = machine.process_peak_bytes(running.process.pid)
        whole = [*kernel, "--size", str(STREAMED_BYTES), "--timeout", "600"]
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        return machine.process_peak_bytes(running.process.pid) - before


def milliseconds(seconds: float) -> str:
    """For people."""
    return f"{1000 * seconds:.0f} ms"


def start_seconds(server: Server) -> float:
    """From the start of the process until it listens."""
    with Running(server, "tcp", None) as running:
        return running.start_seconds


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


# --- the report -----------------------------------------------------------------------------------------------


def curve_rows(curve: Curve, points: Sequence[Point]) -> Rows:
    """Throughput and p99 at each point."""
    places = list(dict.fromkeys(point.at for point in points))
    rows = [[curve.axis, *map(curve.format, places)]]
    for name in dict.fromkeys(point.server for point in points):
        mine = {point.at: point for point in points if point.server == name}
        rates = (quantity(mine[at].messages_per_second.median) if at in mine else "" for at in places)
        tails = (quantity(mine[at].p99_us.median) if at in mine else "" for at in places)
        rows += [[f"{name}, messages/s", *rates], [f"{name}, p99 us", *tails]]
    return rows


def picture(curve: Curve, points: Sequence[Point], measured_on: str) -> str:
    """Two charts: throughput and p99."""
    charts = []
    for title, unit, attribute in (
        ("Throughput", "messages/s", "messages_per_second"),
        ("99th percentile of the round trip", "us", "p99_us"),
    ):
        series = []
        for name in dict.fromkeys(point.server for point in points):
            mine = [(point.at, getattr(point, attribute)) for point in points if point.server == name]
            line = [(at, spread.median) for at, spread in mine]
            series.append(Series(name, line, [(s.low, s.high) for _, s in mine], dashed=name == LIMIT))
        charts.append(Chart(title, curve.axis, unit, series, x_format=curve.format))
    return line_charts(f"Echo over TCP against {curve.name}", charts, f"Medians, quartiles shaded. {measured_on}")


def bars(title: str, values: dict[str, Spread], form: Callable[[float], str], measured_on: str) -> str:
    """One panel."""
    ours = {server.name for server in SERVERS if server.ours}
    panel = Panel(
        "median, quartiles", [Bar(name, s.median, s.low, s.high, name in ours) for name, s in values.items()], form
    )
    return bar_panels(title, [panel], measured_on)


def bar_rows(title: str, values: dict[str, Spread], form: Callable[[float], str]) -> Rows:
    """A row for each server."""
    rows = [[title, "median", "quartiles"]]
    rows += [[name, form(s.median), f"{form(s.low)} to {form(s.high)}"] for name, s in values.items()]
    return rows


def run(*, quick: bool, rounds: int | None = None, seconds: float | None = None, idle: int = 3000) -> Report:
    """Measure everything; what was not said is as `quick` has it."""
    rounds, seconds = rounds or (1 if quick else 3), seconds or (0.2 if quick else 0.5)
    raise_file_limit()
    watch = machine.Watch()
    watch.start()
    report = Report("scale", machine.describe(servers.PEER_DISTRIBUTIONS))
    for curve in CURVES:
        points = list(measure(curve, QUICK_POINTS[curve.name] if quick else curve.points, rounds, seconds))
        if points:
            report.tables[curve.name] = curve_rows(curve, points)
            report.pictures[curve.name] = picture(curve, points, machine.summary(report.machine))
        report.data[curve.name] = [point.json() for point in points]
    measure_bars(report, "idle", "Memory for an idle connection", byte_size, lambda s: idle_memory(s, idle), rounds)
    measure_bars(report, "start", "From start to listening", milliseconds, start_seconds, rounds)
    report.tables["stream"] = [
        ["One message of 1 GiB, streamed through the server", "memory it took at most"],
        [servers.OURS_KNL, byte_size(stream_memory(server_named(servers.OURS_KNL)))],
    ]
    report.others = watch.share_of_others()
    report.remarks = [machine.cores_in_words()]
    return report


def measure_bars(
    report: Report,
    name: str,
    title: str,
    form: Callable[[float], str],
    value: Callable[[Server], float],
    rounds: int,
) -> None:
    """One number for each server."""
    _progress(title)
    values = {server.name: Spread.of([value(server) for _ in range(rounds)]) for server in present(IDLE_SERVERS)}
    _progress("")
    report.tables[name] = bar_rows(title, values, form)
    report.pictures[name] = bars(title, values, form, machine.summary(report.machine))
    report.data[name] = [{"server": server, **spread.json()} for server, spread in values.items()]


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three points a curve, one round")
    parser.add_argument("--rounds", type=int, metavar="N", help="at each point (3, or 1 with --quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each sample (0.5, or 0.2 with --quick)")
    parser.add_argument("--idle", type=int, default=3000, metavar="N", help="idle connections for the memory (3000)")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="write scale.json and scale-*.svg there")
    asked = parser.parse_args()
    report = run(quick=asked.quick, rounds=asked.rounds, seconds=asked.seconds, idle=asked.idle)
    print(report.text())
    if asked.out:
        report.write(asked.out)


if __name__ == "__main__":
    main()
