"""`kernel bench`: measure on the user's own machine, and show it as a table, as JSON, or as a picture.

Tables and JSON go to stdout, progress to stderr when that is a terminal. What cannot be measured here (no C engine) is
said, not left out silently.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernel.bench import machine
from kernel.bench.framing import (
    PAYS_FROM,
    QUICK_SIZES,
    READS,
    SIZES,
    Case,
    Result,
    cases,
    contestants,
    measure,
    stops_paying,
)
from kernel.bench.plot import Chart, Series, byte_size, line_charts, quantity
from kernel.bench.timing import Spread
from kernel.cli.output import print_json, print_table

if TYPE_CHECKING:
    from kernel.bench.echo import Listener, Measured


@click.group(short_help="Measure on this machine.")
def bench() -> None:
    """Measure on this machine.

    \b
    Examples:
      kernel bench framing
      kernel bench framing --quick --plot framing.svg
      kernel bench echo --transport tcp
    """


@bench.command(short_help="Measure the framing engines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw it, as SVG.")
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds: a few seconds.")
def framing(as_json: bool, plot: Path | None, quick: bool) -> None:
    """Measure the framing engines, C against Python, decoding and encoding, with memcpy as the limit.

    \b
    Examples:
      kernel bench framing
      kernel bench framing --quick --plot framing.svg
      kernel bench framing --json > framing.json

    Contestants are timed in turn; medians are shown, and for the ratio the quartiles as well.
    """
    if plot is not None and not plot.absolute().parent.is_dir():
        raise click.UsageError(f"--plot {plot}: there is no directory {plot.parent}")
    watch = machine.Watch()
    watch.start()
    chosen = cases(QUICK_SIZES, READS[:2]) if quick else cases(SIZES)
    measured = measure(chosen, contestants(), rounds=3 if quick else 7, sample_seconds=0.004 if quick else 0.01)
    results = list(_with_progress(measured, len(chosen)))
    described, others = machine.describe(), watch.share_of_others()
    if as_json:
        print_json({"machine": described, "others_cpu": others, "results": [result.json() for result in results]})
    else:
        _print_tables(results)
        _print_summary(results, machine.summary(described), others)
    if plot is not None:
        plot.write_text(draw(results, machine.summary(described)))


def _with_progress(results: Iterator[Any], total: int) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield from results
        return
    for number, result in enumerate(results, 1):
        click.echo(f"\rmeasured {number} of {total}", nl=number == total, err=True)
        yield result


def _groups(results: Iterable[Result]) -> Iterator[tuple[str, list[Result]]]:
    for group, members in itertools.groupby(results, lambda result: result.case.group):
        yield group, list(members)


# --- echo -----------------------------------------------------------------------------------------------------


@bench.command(short_help="Measure the echo service, end to end.")
@click.option("--transport", type=click.Choice(["tcp", "unix", "udp"]), multiple=True, help="Only this one; repeats.")
@click.option("--framing", type=click.Choice(["length", "knl", "raw"]), multiple=True, help="Only this one; repeats.")
@click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", help="The event loop [auto].")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, metavar="N", help="Samples of each cell [3].")
@click.option("--seconds", type=click.FloatRange(0.01, 600), default=0.5, metavar="S", help="Of each sample [0.5].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def echo(
    transport: tuple[str, ...], framing: tuple[str, ...], loop: str, rounds: int, seconds: float, as_json: bool
) -> None:
    """Measure the echo service, end to end: a server process on one core, a load generator in C on another.

    \b
    Examples:
      kernel bench echo
      kernel bench echo --transport unix --framing length --rounds 7
      kernel bench echo --json > echo.json

    A cell is a message size and how many are in flight on one connection. Transports and framings are measured in
    turn; medians are shown, and how far the samples spread. SERVER US is the server's processor time for a message.
    The comparison with other servers is in the repository: python -m benchmarks.echo.
    """
    from kernel.bench.echo import LISTENERS

    chosen = [
        listener
        for listener in LISTENERS
        if listener.transport in (transport or (listener.transport,))
        and listener.framing in (framing or (listener.framing,))
    ]
    if not chosen:
        pairs = ", ".join(f"{listener.transport} with {listener.framing}" for listener in LISTENERS)
        raise click.UsageError(f"nothing is measured with these transports and framings; there are {pairs}")
    _echo(chosen, loop, rounds, seconds, as_json)


def _echo(chosen: Sequence[Listener], loop: str, rounds: int, seconds: float, as_json: bool) -> None:
    from kernel.bench.echo import measure as measure_echo

    watch = machine.Watch()
    watch.start()
    total = len({(listener, cell) for listener in chosen for cell in listener.cells})
    results = list(_with_progress(measure_echo(chosen, loop, rounds, seconds), total))
    described, others = machine.describe(("uvloop",)), watch.share_of_others()
    if as_json:
        print_json({"machine": described, "others_cpu": others, "results": [_echo_json(result) for result in results]})
        return
    heads = ("TRANSPORT", "FRAMING", "CELL", "MESSAGES/S", "P50 US", "P99 US", "SERVER US", "")
    print_table(heads, [_echo_row(result) for result in results])
    click.echo(f"\n{machine.summary(described)}\n{machine.cores_in_words()}\n{machine.in_words(others)}".rstrip())


def _echo_row(result: Measured) -> list[str]:
    place = [result.listener.transport, result.listener.framing, result.cell]
    errors = [one.error for one in result.samples if one.error]
    if errors:
        return [*place, "", "", "", "", errors[0]]
    rates = Spread.of([one.messages_per_second for one in result.samples])
    deviation = (rates.high - rates.low) / 2 / rates.median
    medians = [
        Spread.of([getattr(one, name) for one in result.samples]).median for name in ("p50_us", "p99_us", "server_us")
    ]
    cells = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in medians)
    return [*place, f"{quantity(rates.median)} ±{deviation:.0%}", *cells, ""]


def _echo_json(result: Measured) -> dict[str, object]:
    from dataclasses import asdict

    place = {"transport": result.listener.transport, "framing": result.listener.framing, "cell": result.cell}
    return {**place, "samples": [asdict(one) for one in result.samples]}


# --- the table ------------------------------------------------------------------------------------------------


def _print_tables(results: Sequence[Result]) -> None:
    for group, members in _groups(results):
        engines = list(members[0].seconds)
        click.echo(f"{group}")
        heads = ["MESSAGE", *(f"{name} {unit}" for name in engines for unit in _units(name)), "C / PYTHON"]
        print_table(heads, [_row(result, engines) for result in members])
        click.echo()


def _units(contestant: str) -> list[str]:
    return ["GB/s"] if contestant == "memcpy" else ["frames/s", "GB/s"]


def _row(result: Result, engines: Sequence[str]) -> list[str]:
    cells = [_size(result.case.message)]
    for name in engines:
        if name != "memcpy":
            cells.append(_count(result.frames_per_second(name).median))
        cells.append(f"{result.bytes_per_second(name).median / 1e9:.2f}")
    speedup = result.speedup("c", "python")
    return [*cells, _ratio(speedup) if speedup else ""]


def _size(message: int | str) -> str:
    return byte_size(message) if isinstance(message, int) else message


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value / 1e3:.2f} k"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _print_summary(results: Sequence[Result], measured_on: str, others: float | None) -> None:
    if "c" not in results[0].seconds:
        click.echo("The C engine is not installed here: only the Python one was measured.")
    else:
        for group, members in _groups(results):
            click.echo(f"{group}: {_where_it_stops(members)}")
    click.echo(f"\n{measured_on}")
    if machine.in_words(others):
        click.echo(machine.in_words(others))


def _where_it_stops(members: Sequence[Result]) -> str:
    size = stops_paying(members)
    if size is None:
        return "C is faster at every size"
    return f"C stops paying (less than {PAYS_FROM} times as fast) from {_size(size)}"


# --- the picture ----------------------------------------------------------------------------------------------

_NAMES = {"c": "C engine", "python": "Python engine", "memcpy": "memcpy (the limit)"}


def draw(results: Sequence[Result], measured_on: str) -> str:
    """Throughput against message size, one chart for each of the most telling groups; returns SVG."""
    wanted = [
        Case("decode", "length", 0, READS[0]),
        Case("decode", "length", 0, READS[1]),
        Case("encode", "length", 0, 0),
    ]
    groups = dict(_groups(results))
    charts = [_chart(case.group, groups[case.group]) for case in wanted if case.group in groups]
    return line_charts("Framing throughput by message size", charts, f"Medians, quartiles shaded. {measured_on}")


def _chart(title: str, members: Sequence[Result]) -> Chart:
    sized = [(result.case.message, result) for result in members if isinstance(result.case.message, int)]
    series = []
    for name in members[0].seconds:
        rates = [(size, result.bytes_per_second(name)) for size, result in sized]
        points = [(size, rate.median / 1e9) for size, rate in rates]
        spread = [(rate.low / 1e9, rate.high / 1e9) for _, rate in rates]
        series.append(Series(_NAMES.get(name, name), points, spread, dashed=name == "memcpy"))
    return Chart(title, "message size", "GB/s", series, x_format=byte_size)
