"""`sync`: make one side like the other, by what both sides' listings say.

A file is moved when it is missing, or its size or modification time is another; modification times are kept by every
transfer, so a second run moves nothing. Nothing is removed unless asked for. Both listings are held while they are
compared: some hundred bytes for each file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from .client import FileClient
from .confine import Root
from .download import split
from .errors import FileError, in_words
from .listing import entries_below
from .messages import Entry
from .names import shown
from .threads import Ahead
from .transfer import Batch, Item, Skipped

ENTRIES_MAX = 1_000_000
"""Of a server's directory: its listing is held in memory."""


@dataclass(slots=True)
class Plan:
    """What is to be done.

    Attributes:
        moves: what is missing or different there, directories too.
        extra: what is there and not here, deepest first.
        same: how many files need nothing.
    """

    moves: list[Item | Skipped] = field(default_factory=list)
    extra: list[bytes] = field(default_factory=list)
    same: int = 0


def compare(ours: dict[bytes, Entry], theirs: dict[bytes, Entry], source: bytes, target: bytes) -> Plan:
    """What makes `theirs` like `ours`; paths in the plan stand below `source` and `target`."""
    plan = Plan()
    for name, entry in ours.items():
        there = theirs.get(name)
        if entry.kind == "directory":
            if there is not None and there.kind != "directory":
                plan.moves.append(_in_the_way(name))
            else:
                plan.moves.append(Item(_below(source, name), _below(target, name), None, entry.mode, entry.mtime_ns))
        elif entry.kind != "file":
            plan.moves.append(Skipped(name, "skipped", f"{shown(name)}: it is no regular file: skipped"))
        elif there is None or (there.kind == "file" and not _same(entry, there)):
            plan.moves.append(Item(_below(source, name), _below(target, name), entry.size))
        elif there.kind != "file":
            plan.moves.append(_in_the_way(name))
        else:
            plan.same += 1
    extra = [name for name in theirs if name not in ours]
    plan.extra = sorted(extra, key=lambda name: (-name.count(b"/"), name))
    return plan


def _same(ours: Entry, theirs: Entry) -> bool:
    return (ours.size, ours.mtime_ns) == (theirs.size, theirs.mtime_ns)


def _in_the_way(name: bytes) -> Skipped:
    return Skipped(name, "exists", f"{shown(name)}: something of another kind has this name there: remove it first")


def _below(base: bytes, name: bytes) -> bytes:
    return b"/".join(filter(None, (base, name)))


async def remote_entries(files: FileClient, path: bytes) -> dict[bytes, Entry]:
    """Everything below a directory of the server's; nothing where there is none yet."""
    try:
        if (await files.stat(path)).kind != "directory":
            raise FileError("not-directory", f"{shown(path)}: it is no directory: sync is for directories")
        found: dict[bytes, Entry] = {}
        async for entry in files.entries(path, recursive=True):
            if len(found) == ENTRIES_MAX:
                text = f"{shown(path)}: there are more than {ENTRIES_MAX:,} entries: sync what is below it in parts"
                raise FileError("large", text)
            found[b"/".join(split(entry.name))] = entry
        return found
    except FileError as error:
        if error.kind == "missing":
            return {}
        raise


async def local_entries(path: bytes, *, missing_ok: bool) -> dict[bytes, Entry]:
    """Everything below a local directory."""
    try:
        root = Root(path)
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return {}
        raise in_words(path, error) from None
    try:
        found: dict[bytes, Entry] = {}
        ahead = Ahead(entries_below(root, [], recursive=True), 4)
        try:
            async for batch in ahead:
                found.update((entry.name, entry) for entry in batch)
        finally:
            await ahead.end()
        return found
    finally:
        root.close()


async def walk(plan: Plan) -> AsyncIterator[Batch]:
    """The plan's moves, as `transfer.move` takes them."""
    yield plan.moves


def remove_local(path: bytes, names: list[bytes]) -> list[Skipped]:
    """Remove what is extra below a local directory; what could not be removed."""
    failures: list[Skipped] = []
    root = Root(path)
    try:
        for name in names:
            try:
                with root.parent(name.split(b"/")) as (directory, last):
                    if stat.S_ISDIR(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                        os.rmdir(last, dir_fd=directory)
                    else:
                        os.unlink(last, dir_fd=directory)
            except OSError as error:
                told = in_words(name, error)
                failures.append(Skipped(name, told.kind, str(told)))
    finally:
        root.close()
    return failures
