"""`kernel echo`: talk to an echo service, check what comes back, and report as ping does.

stdout gets what came back (or one JSON object), stderr the statistics. The exit code is 0 when everything came back
as it should, 1 when something was lost or corrupt, 130 when interrupted; the summary of an interrupted run is shown.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kernel.commands import Loop, byte_count, duration, run as run_command, secret_options
from kernel.endpoint import Endpoint
from kernel.errors import KernelError, UsageError
from kernel.limits import Limits

from .payload import Payload, generated, of_bytes

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

    from .check import Display, Expect
    from .client import Payloads
    from .display import TextDisplay

INTERRUPTED = 130
_SIZE_DEFAULT = 64
_LOAD_SECONDS_DEFAULT = 5.0
_EXPECT: dict[str, Expect] = {"verbatim": lambda part: part, "upper": bytes.upper, "any": None}


@click.command(short_help="Talk to an echo service, and measure the way there.")
@click.argument("endpoint")
@click.argument("text", nargs=-1)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Send TEXT or a payload so many times [1].")
@click.option("--size", callback=byte_count, metavar="BYTES", help="Send payloads of so many bytes: 64, 64KiB, 1GiB.")
@click.option("--whole", is_flag=True, help="Send standard input as one message, not line by line.")
@click.option(
    "--interval", callback=duration, metavar="SECONDS", help="Send at this pace, without --count until Ctrl-C."
)
@click.option(
    "--timeout",
    callback=duration,
    default="5",
    metavar="SECONDS",
    help="A reply that takes longer is lost [5].",
)
@click.option(
    "--in-flight", type=click.IntRange(min=1), metavar="N", help="How many messages may wait for their reply at once."
)
@click.option("--expect", type=click.Choice(list(_EXPECT)), help="What a right reply is [verbatim].")
@click.option("--service", default="echo", metavar="NAME", help="Another service that answers each message [echo].")
@click.option("--load", is_flag=True, help="Send as much as the line carries, and report throughput and latency.")
@click.option("--connections", type=click.IntRange(min=1), metavar="N", help="With --load: how many [1].")
@click.option("--seconds", callback=duration, metavar="S", help="With --load: how long [5].")
@secret_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No statistics, only replies and errors.")
def echo(load: bool, **given: Any) -> int:
    """Send TEXT, standard input or generated payloads to an echo service, and check what comes back, byte by byte.

    \b
    Examples:
      kernel echo tcp://127.0.0.1:7000 hello
      kernel echo udp://127.0.0.1:7000 --count 100 --size 1KiB
      kernel echo unix:/run/kernel.sock --interval 0.2          (until Ctrl-C)
      kernel echo 'tcp://127.0.0.1:7001?framing=line' - < words.txt
      kernel echo tcp://127.0.0.1:7000 --whole < big.iso > /dev/null
      kernel echo tcp://127.0.0.1:7000 --load --connections 8 --in-flight 32

    TEXT is one message, its words joined by spaces. Without TEXT, and for `-`, each line of standard input is one;
    when that is a terminal, or --count, --size or --interval ask for it, payloads are generated.
    """
    wish = _Wish(**given)
    if wish.timeout <= 0:
        raise UsageError("--timeout must be more than 0 seconds")
    return _load(wish) if load else _check(wish)


@dataclass(frozen=True)
class _Wish:
    """What the command line says; None where it says nothing."""

    endpoint: str
    text: tuple[str, ...]
    count: int | None
    size: int | None
    whole: bool
    interval: float | None
    timeout: float
    in_flight: int | None
    expect: str | None
    service: str
    connections: int | None
    seconds: float | None
    as_json: bool
    quiet: bool
    keys: Keyring | None

    def refuse(self, why: str, *names: str) -> None:
        """Options that do not go together are said so, not ignored."""
        for name in names:
            if getattr(self, name) not in (None, False, ()):
                shown = "TEXT" if name == "text" else "--" + name.replace("_", "-")
                raise UsageError(f"{shown} {why}")

    @property
    def reads_stdin(self) -> bool:
        """Standard input is asked for, or there is one and nothing else is."""
        if self.text or self.whole:
            return self.text in ((), ("-",))
        says_what = self.count is not None or self.size is not None or self.interval is not None
        return not says_what and sys.stdin is not None and not sys.stdin.isatty()

    @property
    def is_ping(self) -> bool:
        """Nothing says what to send: payloads are, until somebody interrupts."""
        return not (self.text or self.reads_stdin or self.count or self.size is not None)

    @property
    def pace(self) -> float:
        """Seconds between messages."""
        return self.interval if self.interval is not None else 1.0 if self.is_ping else 0.0

    @property
    def numbers(self) -> Iterable[int]:
        """The numbers of the messages: as many as ordered, without end when only a pace is, else one."""
        endless = self.count is None and (self.is_ping or self.interval is not None)
        return itertools.count(1) if endless else range(1, (self.count or 1) + 1)

    @property
    def printable(self) -> bool:
        """A framing that cuts at a byte value gets payloads without it."""
        options = Endpoint.parse(self.endpoint).options
        return "line" in (options.get("framing"), options.get("send"))


# --- checking ------------------------------------------------------------------------------------------------------


def _check(wish: _Wish) -> int:
    from . import client, report

    wish.refuse("belongs to --load", "connections", "seconds")
    payloads, display = _what_to_send(wish)
    plan = client.Plan(
        endpoint=wish.endpoint,
        service=wish.service,
        payloads=payloads,
        expect=_EXPECT[wish.expect or "verbatim"],
        interval_seconds=wish.pace,
        timeout_seconds=wish.timeout,
        keys=wish.keys,
        in_flight=wish.in_flight or 1,
        display=display,
    )
    tally = report.Tally()
    interrupted = _until_interrupted(client.run(plan, tally))
    if wish.as_json:
        _print_json({"endpoint": wish.endpoint, **report.as_json(tally)})
    elif not wish.quiet:
        if wish.reads_stdin and not tally.sent:
            click.echo("standard input was empty: TEXT, --count or --size would send something", err=True)
        click.echo(report.lines(tally), err=True)
    return _outcome(interrupted, tally.good, tally.error)


def _what_to_send(wish: _Wish) -> tuple[Payloads, Display]:
    """The messages, and how to show their replies."""
    from .check import Display
    from .display import PingDisplay, TextDisplay

    if wish.reads_stdin:
        wish.refuse("is not for standard input: leave it out", "count", "size")
        shown = TextDisplay()
        return _from_stdin(wish, shown), Display() if wish.as_json else shown
    wish.refuse("is for standard input: leave it out, or TEXT", "whole")
    if wish.text:
        wish.refuse("is for generated payloads: leave it out, or TEXT", "size")
        payload = of_bytes(os.fsencode(" ".join(wish.text)))
        return _each(payload for _ in wish.numbers), Display() if wish.as_json else TextDisplay()
    size = _SIZE_DEFAULT if wish.size is None else wish.size
    payloads = _each(generated(number, size, printable=wish.printable) for number in wish.numbers)
    silent = wish.as_json or wish.quiet or not wish.pace
    return payloads, Display() if silent else PingDisplay(wish.endpoint)


def _each(payloads: Iterable[Payload]) -> Payloads:
    async def each(_boundaries: bool) -> AsyncIterator[Payload]:
        for payload in payloads:
            yield payload

    return each


def _from_stdin(wish: _Wish, display: TextDisplay) -> Payloads:
    from . import stdin

    async def read(boundaries: bool) -> AsyncIterator[Payload]:
        descriptor = sys.stdin.fileno()
        display.newline = boundaries and not wish.whole
        if wish.whole:
            yield await stdin.whole(descriptor)
            return
        async for line in stdin.lines(descriptor, Limits().message_bytes_max, keep_ends=not boundaries):
            yield line

    return read


# --- load ----------------------------------------------------------------------------------------------------------


def _load(wish: _Wish) -> int:
    from . import load

    wish.refuse("does not go with --load", "text", "count", "whole", "interval", "expect")
    shows_intervals = sys.stderr.isatty() and not (wish.quiet or wish.as_json)
    plan = load.LoadPlan(
        endpoint=wish.endpoint,
        service=wish.service,
        connections=wish.connections or 1,
        in_flight=wish.in_flight or 1,
        size=_SIZE_DEFAULT if wish.size is None else wish.size,
        seconds=_LOAD_SECONDS_DEFAULT if wish.seconds is None else wish.seconds,
        timeout_seconds=wish.timeout,
        keys=wish.keys,
        printable=wish.printable,
        interval=load.print_interval if shows_intervals else load.ignore_interval,
    )
    figures = load.Figures()
    interrupted = _until_interrupted(load.run(plan, figures), "auto")
    if wish.as_json:
        _print_json({"endpoint": wish.endpoint, **load.as_json(plan, figures)})
    else:
        click.echo(load.lines(plan, figures))
    return _outcome(interrupted, figures.good, figures.error or "not every message came back as it was sent")


# --- both ----------------------------------------------------------------------------------------------------------


def _until_interrupted(work: Coroutine[Any, Any, None], loop: Loop = "asyncio") -> bool:
    """Do it; whether Ctrl-C ended it before its time."""
    try:
        run_command(work, loop)
    except KeyboardInterrupt:
        return True
    return False


def _print_json(report: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(report))


def _outcome(interrupted: bool, good: bool, error: str) -> int:
    if interrupted:
        return INTERRUPTED
    if not good:
        raise KernelError(error)
    return 0
