"""From here to there: the walk over local files, and how each is stored."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from .client import FileClient, Report, open_local
from .errors import FileError, in_words
from .messages import SMALL_BYTES_MAX, Directory, Failed, Policy, SmallFile
from .names import shown
from .progress import Progress
from .sums import small_digest
from .threads import Ahead
from .transfer import Batch, Item, Mover, Skipped

_WALK_BATCH = 64


async def walk(roots: list[tuple[bytes, bytes]], *, recursive: bool) -> AsyncIterator[Batch]:
    """Everything to be stored: for each local path, under which path there."""
    ahead = Ahead(_in_batches(_walk_all(roots, recursive=recursive)), 4)
    try:
        async for batch in ahead:
            yield batch
    finally:
        ahead.close()


def _in_batches(items: Iterator[Item | Skipped]) -> Iterator[Batch]:
    while batch := list(itertools.islice(items, _WALK_BATCH)):
        yield batch


def _walk_all(roots: list[tuple[bytes, bytes]], *, recursive: bool) -> Iterator[Item | Skipped]:
    for local, target in roots:
        try:
            status = os.stat(local)
        except OSError as error:
            yield _failed(local, error)
            continue
        if stat.S_ISDIR(status.st_mode):
            if recursive:
                yield from _walk(local, target, status)
            else:
                yield Skipped(local, "directory", f"{shown(local)}: it is a directory: add -r")
        else:
            yield _item(local, target, status)


def _walk(local: bytes, target: bytes, status: os.stat_result) -> Iterator[Item | Skipped]:
    yield Item(local, target, None, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    try:
        names = sorted(os.listdir(local))
    except OSError as error:
        yield _failed(local, error)
        return
    for name in names:
        inner, inner_target = os.path.join(local, name), os.path.join(target, name)
        try:
            inner_status = os.lstat(inner)
        except OSError as error:
            yield _failed(inner, error)
            continue
        if stat.S_ISDIR(inner_status.st_mode):
            yield from _walk(inner, inner_target, inner_status)
        else:
            yield _item(inner, inner_target, inner_status)


def _item(local: bytes, target: bytes, status: os.stat_result) -> Item | Skipped:
    if stat.S_ISREG(status.st_mode):
        return Item(local, target, status.st_size)
    what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
    return Skipped(local, "skipped", f"{shown(local)}: it is {what}: skipped")


def _failed(local: bytes, error: OSError) -> Skipped:
    told = in_words(local, error)
    return Skipped(local, told.kind, str(told))


class PutMover(Mover):
    """Stores local files."""

    def __init__(self, policy: Policy, progress: Progress, *, resume: bool = True) -> None:
        self._policy = policy
        self._progress = progress
        self._resume = resume

    async def large(self, files: FileClient, item: Item) -> Report:
        return await files.put(
            Path(os.fsdecode(item.source)),
            item.target,
            policy=self._policy,
            resume=self._resume,
            parents=True,
            moved=self._progress.moved,
        )

    async def small(self, files: FileClient, items: list[Item]) -> list[Report | Failed]:
        read = await files.do(_read_smalls, items)
        there = [file for file in read if isinstance(file, SmallFile)]
        stored = iter(await files.put_small(there, self._policy) if there else [])
        results: list[Report | Failed] = []
        for file in read:
            if isinstance(file, Failed):
                results.append(file)
                continue
            outcome = next(stored)
            if isinstance(outcome, Failed):
                results.append(outcome)
            elif outcome.digest != small_digest(file.sum, len(file.data)):
                text = f"{shown(file.path)}: what the server has stored is not what was sent: repeat"
                results.append(Failed("digest", text))
            else:
                results.append(Report(outcome.path, len(file.data), len(file.data), outcome.digest))
        return results

    async def directories(self, files: FileClient, directories: list[Directory]) -> None:
        await files.set_directories(directories)


def _read_smalls(items: list[Item]) -> list[SmallFile | Failed]:
    return [_read_small(item) for item in items]


def _read_small(item: Item) -> SmallFile | Failed:
    try:
        source = open_local(item.source)
        try:
            if source.size > SMALL_BYTES_MAX:
                return Failed("large", "")
            data, sum_ = source.small()
            source.check_unchanged()
            return SmallFile(item.target, source.mtime_ns, source.mode, sum_, data)
        finally:
            source.close()
    except FileError as error:
        return Failed(error.kind, str(error))
    except OSError as error:
        told = in_words(item.source, error)
        return Failed(told.kind, str(told))
