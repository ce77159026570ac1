"""The framing engines against each other, over message sizes, layouts and sizes of reads, with memcpy as the limit.

A decoder is driven as a transport drives it: what was read is fed, and the rest of a large frame is received straight
into the buffer that the decoder lends (here: copied there, which stands for the operating system's copy). Frames are
dropped as soon as they are out. An encoder gets messages in batches of about 64 KiB, as one read brings them. `memcpy`
copies the same bytes in the same pieces into memory that is there already.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kernel import framing
from kernel.bench.timing import Run, Spread, interleaved, ratios

SIZES = (16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
QUICK_SIZES = (16, 64, 256, 1024, 16384, 262144)
MIXED = "mixed"
"""The simple Internet mix: of twelve messages seven of 64 bytes, four of 576, one of 1,500; shuffled."""
WHOLE = 0
"""As the size of reads: the whole stream at once."""
READS = (65536, 1024, WHOLE)
CORPUS_BYTES = 512 * 1024
BATCH_BYTES = 65536
PAYS_FROM = 1.1
"""An engine that is not faster by this much is called equal."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: an operation ("decode" or "encode"), a layout, and what the stream consists of."""

    operation: str
    layout: str
    message: int | str
    read_bytes: int

    @property
    def group(self) -> str:
        """The cases that differ only in the messages belong together."""
        if self.operation == "encode":
            return f"encode {self.layout}, batches of {BATCH_BYTES // 1024} KiB"
        reads = "whole" if self.read_bytes == WHOLE else f"{self.read_bytes // 1024} KiB"
        return f"decode {self.layout}, reads of {reads}" if self.read_bytes else f"decode {self.layout}, read whole"


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds for one pass over the corpus, by contestant, one for each round."""

    case: Case
    frames: int
    payload_bytes: int
    seconds: dict[str, list[float]]

    def frames_per_second(self, contestant: str) -> Spread:
        """Whole frames."""
        return Spread.of([self.frames / s for s in self.seconds[contestant]])

    def bytes_per_second(self, contestant: str) -> Spread:
        """Payload, without headers."""
        return Spread.of([self.payload_bytes / s for s in self.seconds[contestant]])

    def speedup(self, contestant: str, over: str) -> Spread | None:
        """How many times faster; None where one of them was not measured."""
        if contestant not in self.seconds or over not in self.seconds:
            return None
        return ratios(self.seconds[over], self.seconds[contestant])

    def json(self) -> dict[str, object]:
        """For programs."""
        speedup = self.speedup("c", "python")
        return {
            "operation": self.case.operation,
            "layout": self.case.layout,
            "message_bytes": self.case.message,
            "read_bytes": self.case.read_bytes or "whole",
            "frames_per_second": {name: self.frames_per_second(name).json() for name in self.seconds},
            "bytes_per_second": {name: self.bytes_per_second(name).json() for name in self.seconds},
            "c_over_python": speedup and speedup.json(),
        }


class Corpus:
    """The messages of a case, their stream, and the pieces in which it is read."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layout = layout_of(case)
        self.messages = list(_messages(case.message))
        self.payload_bytes = sum(map(len, self.messages))
        self.stream = encode(framing.engine("python"), self.layout, self.messages)
        step = case.read_bytes or len(self.stream)
        self.reads = [self.stream[start : start + step] for start in range(0, len(self.stream), step)]
        self.batches = list(_batches(self.messages))


def layout_of(case: Case) -> framing.Layout:
    """The layout of a case, large enough for its messages."""
    frame_bytes_max = max(SIZES)
    return framing.Knl(frame_bytes_max) if case.layout == "knl" else framing.Length(frame_bytes_max=frame_bytes_max)


def _messages(message: int | str) -> Iterator[bytes]:
    chance = random.Random(42)
    if isinstance(message, int):
        content = chance.randbytes(message)
        yield from (bytes([number & 255]) + content[1:] for number in range(max(4, CORPUS_BYTES // message)))
        return
    sizes = [*[64] * 7, *[576] * 4, 1500] * (CORPUS_BYTES // 4252)
    chance.shuffle(sizes)
    yield from map(chance.randbytes, sizes)


def _batches(messages: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch, size = [], 0
    for message in messages:
        batch.append(message)
        size += len(message)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode(engine: framing.Engine, layout: framing.Layout, messages: Sequence[bytes]) -> bytes:
    """Messages as one engine writes them; KNL's as data on channel 1."""
    if isinstance(layout, framing.Knl):
        return engine.encode_knl(0, 0, 1, messages, layout.frame_bytes_max)
    return engine.encode_length(layout, messages)


# --- contestants ----------------------------------------------------------------------------------------------

Maker = Callable[[Corpus], Run | None]
"""Makes what is timed: one pass over the corpus. None: this contestant does not take part in the case."""


def engine_maker(name: str) -> Maker:
    """One of our engines."""
    engine = framing.engine(name)

    def make(corpus: Corpus) -> Run:
        return _encoding(engine, corpus) if corpus.case.operation == "encode" else _decoding(engine, corpus)

    return make


def _encoding(engine: framing.Engine, corpus: Corpus) -> Run:
    def run() -> None:
        for batch in corpus.batches:
            encode(engine, corpus.layout, batch)

    return run


def _decoding(engine: framing.Engine, corpus: Corpus) -> Run:
    decoder: framing.Decoder[Any] = engine.decoder(corpus.layout)
    reads = corpus.reads

    def run() -> None:
        feed, wanted, filled = decoder.feed, decoder.wanted, decoder.filled
        for read in reads:
            lent = wanted()
            if lent is None:
                feed(read)
            elif len(lent) >= len(read):
                lent[: len(read)] = read
                filled(len(read))
            else:
                _receive(decoder, lent, read)

    return run


def _receive(decoder: framing.Decoder[Any], lent: memoryview | None, read: bytes) -> None:
    """The lent buffer ends before what was read does: fill it, ask again, feed what is left."""
    left = memoryview(read)
    while lent is not None and left:
        size = min(len(lent), len(left))
        lent[:size] = left[:size]
        decoder.filled(size)
        left = left[size:]
        lent = decoder.wanted()
    if left:
        decoder.feed(left)


def memcpy(corpus: Corpus) -> Run:
    """The limit: the same pieces, copied to a place as large as a frame."""
    sources = corpus.reads if corpus.case.operation == "decode" else [b"".join(batch) for batch in corpus.batches]
    frame = corpus.case.message if isinstance(corpus.case.message, int) else 0
    room = memoryview(bytearray(max(frame, *map(len, sources)) + max(map(len, sources))))
    pairs, place = [], 0
    for source in sources:
        pairs.append((room[place : place + len(source)], source))
        place = place + len(source) if place + len(source) < frame else 0

    def run() -> None:
        for target, source in pairs:
            target[:] = source

    return run


def contestants() -> dict[str, Maker]:
    """The engines that this installation has, and the limit."""
    makers: dict[str, Maker] = {}
    with contextlib.suppress(framing.EngineUnavailableError):
        makers["c"] = engine_maker("c")
    return {**makers, "python": engine_maker("python"), "memcpy": memcpy}


# --- measuring ------------------------------------------------------------------------------------------------


def cases(sizes: Iterable[int], reads: Iterable[int] = READS) -> list[Case]:
    """Both layouts, decoding and encoding; all sizes of reads for the plain one."""
    messages: list[int | str] = [*sizes, MIXED]
    decoding = [Case("decode", "length", m, r) for r, m in itertools.product(reads, messages)]
    knl = [Case("decode", "knl", m, READS[0]) for m in messages]
    return [*decoding, *knl, *(Case("encode", layout, m, WHOLE) for layout in ("length", "knl") for m in messages)]


def measure(
    chosen: Iterable[Case], makers: dict[str, Maker], rounds: int = 7, sample_seconds: float = 0.01
) -> Iterator[Result]:
    """Measure the cases one after the other, the contestants of each in turn."""
    for case in chosen:
        corpus = Corpus(case)
        runs = {name: run for name, make in makers.items() if (run := make(corpus)) is not None}
        seconds = interleaved(runs, rounds, sample_seconds)
        yield Result(case, len(corpus.messages), corpus.payload_bytes, seconds)


def stops_paying(results: Iterable[Result]) -> int | None:
    """The smallest message size from which on the C engine is no faster than the Python one; None: it always is."""
    found: int | None = None
    sized = [(r.case.message, r.speedup("c", "python")) for r in results if isinstance(r.case.message, int)]
    for size, speedup in sorted(sized, key=lambda pair: pair[0], reverse=True):
        if speedup is None or speedup.median >= PAYS_FROM:
            break
        found = size
    return found
