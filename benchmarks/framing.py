"""The framing engines beside others: a hand-written extension module, Twisted, and a busy Python thread.

`python -m benchmarks.framing` judges what this project promises of its framing, in process:

- the C engine against the Python engine, against memcpy, and against an extension module written for one layout only;
- the Python engine against Twisted's Int32StringReceiver, both calling a method for every message;
- all of them while another thread runs Python code and wants the interpreter, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import reference_extension
from benchmarks.report import Report, Rows, ratio
from kernel import framing
from kernel.bench import machine
from kernel.bench.framing import MIXED, WHOLE, Case, Corpus, Maker, Result, contestants, measure
from kernel.bench.plot import byte_size, quantity
from kernel.bench.timing import Run, Spread

EXTENSION, DELIVERED, TWISTED = "extension", "python, a call each", "Twisted Int32"
MESSAGES: tuple[int | str, ...] = (16, 64, 256, 1024, 16384, 65536, 262144, 1048576, MIXED)
DECODING = tuple(Case("decode", "length", message, 65536) for message in MESSAGES)
ENCODING = tuple(Case("encode", "length", message, WHOLE) for message in MESSAGES)
BUSY_SAMPLE_SECONDS = 0.2
"""Many times the interval after which the interpreter is handed over."""
BUSY = (Case("decode", "length", 64, 65536), Case("decode", "length", 64, 1024), ENCODING[1])


@dataclass(frozen=True)
class Target:
    """`contestant` is to be at least `ratio` times as fast as `other` at these messages."""

    operation: str
    contestant: str
    other: str
    ratio: float
    messages: tuple[int | str, ...]
    busy: bool = False


SMALL = (16, 64, 256, 1024, MIXED)
LARGE = (65536, 262144, 1048576)
TARGETS = (
    Target("decode", "c", "python", 6.0, (16, 64)),
    Target("decode", "c", "python", 4.0, (256,)),
    Target("decode", "c", "python", 2.0, (MIXED,)),
    Target("decode", "c", EXTENSION, 1 / 1.1, SMALL),
    Target("decode", "c", "memcpy", 0.9, LARGE),
    Target("encode", "c", "python", 5.0, (16, 64, 256)),
    Target("encode", "c", "memcpy", 0.9, LARGE),
    Target("decode", DELIVERED, TWISTED, 1.5, SMALL),
    Target("decode", "c", EXTENSION, 1 / 1.1, (64,), busy=True),
)


# --- the others -----------------------------------------------------------------------------------------------


def extension_maker() -> Maker:
    """The hand-written module, where it can be compiled."""
    module = reference_extension.load()

    def make(corpus: Corpus) -> Run:
        if corpus.case.operation == "encode":
            return _each(module.encode, corpus.batches)
        return _each(module.Decoder().feed, corpus.reads)

    return make


def _each(call: Callable[[object], object], arguments: Sequence[object]) -> Run:
    def run() -> None:
        for argument in arguments:
            call(argument)

    return run


def delivered(corpus: Corpus) -> Run | None:
    """The Python engine, with a method call for every message, as Twisted makes it."""
    if corpus.case.operation == "encode":
        return None
    decoder = framing.engine("python").decoder(framing.Length())
    receive = _Receiver().received

    def run() -> None:
        feed = decoder.feed
        for read in corpus.reads:
            for message in feed(read):
                receive(message)

    return run


class _Receiver:
    def received(self, message: bytes) -> None:
        pass


def twisted_maker() -> Maker:
    """Twisted's Int32StringReceiver."""
    from twisted.protocols.basic import Int32StringReceiver

    class Receiver(Int32StringReceiver):
        MAX_LENGTH = 1 << 30

        def stringReceived(self, string: bytes) -> None:  # noqa: N802
            pass

    def make(corpus: Corpus) -> Run | None:
        return None if corpus.case.operation == "encode" else _each(Receiver().dataReceived, corpus.reads)

    return make


def all_contestants() -> dict[str, Maker]:
    """Ours and the others that are here."""
    makers = {**contestants(), EXTENSION: extension_maker(), DELIVERED: delivered}
    if importlib.util.find_spec("twisted") is not None:
        makers[TWISTED] = twisted_maker()
    return makers


@contextmanager
def busy_thread() -> Iterator[None]:
    """Another thread runs Python code all the time."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- the report -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A target at one message size."""

    target: Target
    case: Case
    measured: Spread

    @property
    def met(self) -> bool:
        """By the median."""
        return self.measured.median >= self.target.ratio


def rows(results: Sequence[Result], busy: bool) -> Iterator[Row]:
    """The targets that these results can judge."""
    for target in TARGETS:
        for result in results:
            belongs = result.case.operation == target.operation and result.case.message in target.messages
            if belongs and target.busy == busy:
                measured = result.speedup(target.contestant, target.other)
                if measured is not None:
                    yield Row(target, result.case, measured)


def name_of(message: int | str) -> str:
    """For tables."""
    return byte_size(message) if isinstance(message, int) else message


def rate_rows(title: str, results: Sequence[Result]) -> Rows:
    """Messages per second; medians."""
    names = list(results[0].seconds)
    table = [[title, *names]]
    for result in results:
        reads = f", reads of {byte_size(result.case.read_bytes)}" if result.case.operation == "decode" else ""
        rates = (quantity(result.frames_per_second(name).median) for name in names)
        table.append([f"{result.case.operation} {name_of(result.case.message)}{reads}", *rates])
    return table


def target_rows(judged: Sequence[Row]) -> Rows:
    """Every target with what was measured."""
    table = [["target", "message", "wanted", "measured (quartiles)", ""]]
    for row in judged:
        beside = " beside a busy thread" if row.target.busy else ""
        if row.target.busy and row.case.operation == "decode":
            beside += f", reads of {byte_size(row.case.read_bytes)}"
        title = f"{row.case.operation}: {row.target.contestant} / {row.target.other}{beside}"
        wanted, missed = f"{row.target.ratio:.2f}", "" if row.met else "missed"
        table.append([title, name_of(row.case.message), wanted, ratio(row.measured), missed])
    return table


def run(rounds: int = 15) -> Report:
    """Measure everything."""
    watch = machine.Watch()
    watch.start()
    makers = all_contestants()
    results = list(measure([*DECODING, *ENCODING], makers, rounds))
    beside = {name: make for name, make in makers.items() if name in ("c", "python", EXTENSION)}
    alone = list(measure(BUSY, beside, max(3, rounds // 3), BUSY_SAMPLE_SECONDS))
    with busy_thread():
        busy = list(measure(BUSY, beside, max(3, rounds // 3), BUSY_SAMPLE_SECONDS))
    report = Report("framing", machine.describe(("twisted",)), watch.share_of_others())
    report.tables = {
        "decode": rate_rows("messages per second", results[: len(DECODING)]),
        "encode": rate_rows("messages per second", results[len(DECODING) :]),
        "alone": rate_rows("alone", alone),
        "busy": rate_rows("beside a busy thread", busy),
        "targets": target_rows([*rows(results, busy=False), *rows(busy, busy=True)]),
    }
    report.data = {"quiet": [r.json() for r in results], "busy": [r.json() for r in busy]}
    return report


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.framing", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="for each contestant, in turn (15)")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="write framing.json there")
    asked = parser.parse_args()
    report = run(asked.rounds)
    print(report.text())
    if asked.out:
        report.write(asked.out)


if __name__ == "__main__":
    main()
