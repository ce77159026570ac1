"""Many files at once: a walk finds them, a few clients move them, in bounded memory however many there are.

    walk (a thread, some items ahead) -> units of work -> N clients, a connection each

A unit is a large file, or a batch of small ones that travel in one message. Directories get their modes and times at
the end, when nothing is put into them any more. What goes wrong with one file is noted, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from kernel.errors import ChannelClosed

from .client import FileClient, Report
from .errors import FileError
from .messages import SMALL_BYTES_MAX, Directory, Failed
from .progress import Progress

_BATCH_FILES_MAX = 64
_BATCH_BYTES_MAX = 128 * 1024
_DIRECTORIES_AT_ONCE = 256
_NOTED_MAX = 10_000

DIRECTORIES_MAX = 1_000_000
"""Those of one command are remembered until its end, some hundred bytes each."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to move.

    Attributes:
        source, target: paths as the two sides know them.
        size: of a file; None: a directory.
        mode, mtime_ns: of a directory.
    """

    source: bytes
    target: bytes
    size: int | None
    mode: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is no file and no directory, or that cannot be looked at; `why` is for people."""

    path: bytes
    kind: str
    why: str


Batch = list[Item | Skipped]
"""What a walk finds, many at a time: each hand-over between threads and generators costs more than an item does."""


@dataclass(slots=True)
class Outcome:
    """What became of everything; bounded, however much a server lists.

    Attributes:
        detailed: keep a report of every file; off: of those that there is something to say of.
        files, nbytes, moved_bytes: how many were moved, how long they are, how much of that had to be moved.
        failures, skipped: the first of them; `omitted` counts those that were too many to be kept.
    """

    detailed: bool = False
    files: int = 0
    nbytes: int = 0
    moved_bytes: int = 0
    reports: list[Report] = field(default_factory=list)
    failures: list[Skipped] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    omitted: int = 0

    def done(self, report: Report) -> None:
        self.files += 1
        self.nbytes += report.size
        self.moved_bytes += report.moved
        if self.detailed or self.files == 1 or (report.note and len(self.reports) < _NOTED_MAX):
            self.reports.append(report)

    def failed(self, what: Skipped) -> None:
        self._note(self.failures, what)

    def skip(self, what: Skipped) -> None:
        self._note(self.skipped, what)

    def _note(self, noted: list[Skipped], what: Skipped) -> None:
        if len(noted) < _NOTED_MAX:
            noted.append(what)
        else:
            self.omitted += 1


class Mover(ABC):
    """What differs between the two directions. A client belongs to one task at a time."""

    @abstractmethod
    async def large(self, files: FileClient, item: Item) -> Report:
        """Move one file, block by block."""

    @abstractmethod
    async def small(self, files: FileClient, items: list[Item]) -> list[Report | Failed]:
        """Move small files in one message; what became of each, in order."""

    @abstractmethod
    async def directories(self, files: FileClient, directories: list[Directory]) -> None:
        """Give directories their modes and times, after what is in them has come."""


Unit = Item | list[Item]


async def move(
    walk: AsyncIterator[Batch],
    mover: Mover,
    connect: Callable[[], FileClient],
    parallel: int,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Move everything that the walk finds; `outcome` is right at any moment, also when this is cancelled.

    Raises:
        ChannelClosed: a connection ended; what is done is done.
    """
    queue: asyncio.Queue[Unit | None] = asyncio.Queue(parallel * 2)
    directories: list[Directory] = []

    async def plan() -> None:
        async for unit in _units(walk, directories, progress, outcome):
            await queue.put(unit)
        for _ in range(parallel):
            await queue.put(None)

    async def work() -> None:
        unit = await queue.get()
        if unit is None:
            return
        async with connect() as files:
            while unit is not None:
                await _move_unit(files, mover, unit, progress, outcome)
                unit = await queue.get()

    await _all(plan(), *(work() for _ in range(parallel)))
    if directories:
        async with connect() as files:
            deepest_first = sorted(directories, key=lambda directory: -directory.path.count(b"/"))
            for at in range(0, len(deepest_first), _DIRECTORIES_AT_ONCE):
                await _set_directories(files, mover, deepest_first[at : at + _DIRECTORIES_AT_ONCE], outcome)


async def _set_directories(files: FileClient, mover: Mover, directories: list[Directory], outcome: Outcome) -> None:
    """All in one message; where one of them cannot be, each by itself, so that the others are."""
    try:
        await mover.directories(files, directories)
    except FileError as error:
        if len(directories) == 1:
            outcome.failed(Skipped(directories[0].path, error.kind, str(error)))
            return
        for directory in directories:
            await _set_directories(files, mover, [directory], outcome)


async def _all(*works: Awaitable[None]) -> None:
    """Until all are done; the first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _units(
    walk: AsyncIterator[Batch], directories: list[Directory], progress: Progress, outcome: Outcome
) -> AsyncIterator[Unit]:
    """Cut what the walk finds into work."""
    batch: list[Item] = []
    batch_bytes = 0
    async for found in walk:
        for item in found:
            if isinstance(item, Skipped):
                (outcome.skip if item.kind == "skipped" else outcome.failed)(item)
                continue
            if item.size is None:
                if len(directories) == DIRECTORIES_MAX:
                    raise FileError("large", f"there are more than {DIRECTORIES_MAX:,} directories: take them in parts")
                directories.append(Directory(item.target, item.mode, item.mtime_ns))
                continue
            progress.total_files += 1
            progress.total_bytes += item.size
            if item.size > SMALL_BYTES_MAX:
                yield item
                continue
            cost_bytes = item.size + len(item.source) + len(item.target)
            if len(batch) == _BATCH_FILES_MAX or batch_bytes + cost_bytes > _BATCH_BYTES_MAX:
                yield batch
                batch, batch_bytes = [], 0
            batch.append(item)
            batch_bytes += cost_bytes
    if batch:
        yield batch


async def _move_unit(files: FileClient, mover: Mover, unit: Unit, progress: Progress, outcome: Outcome) -> None:
    if isinstance(unit, Item):
        await _move_large(files, mover, unit, progress, outcome)
        return
    results = await mover.small(files, unit)
    for item, result in zip(unit, results, strict=True):
        if isinstance(result, Report):
            outcome.done(result)
            progress.moved(result.size)
            progress.files += 1
        elif result.kind == "large":  # it has grown since it was looked at
            await _move_large(files, mover, item, progress, outcome)
        else:
            outcome.failed(Skipped(item.source, result.kind, result.text))


async def _move_large(files: FileClient, mover: Mover, item: Item, progress: Progress, outcome: Outcome) -> None:
    progress.name = _name(item.source)
    try:
        outcome.done(await mover.large(files, item))
        progress.files += 1
    except FileError as error:
        outcome.failed(Skipped(item.source, error.kind, _naming(item.source, str(error))))
    except ChannelClosed as error:
        outcome.failed(Skipped(item.source, "lost", f"{_name(item.source)}: {error}; repeat to continue"))
        raise


def _naming(path: bytes, text: str) -> str:
    """What went wrong, with the file's name: what is about a message does not know it."""
    name = _name(path)
    return text if name in text else f"{name}: {text}"


def _name(path: bytes) -> str:
    from .names import shown

    return shown(path.rsplit(b"/", 1)[-1])


@contextlib.asynccontextmanager
async def closing(resource: AsyncIterator[object]) -> AsyncIterator[None]:
    """End an asynchronous generator at the end of the `with`."""
    try:
        yield
    finally:
        await resource.aclose()  # type: ignore[attr-defined]
