"""What lies in a directory, as the wire tells it. Blocks: for a thread."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator

from .confine import Root
from .messages import Entry, Kind
from .names import STATE_DIRECTORY

_BATCH_ENTRIES = 256
_BATCH_NAME_BYTES = 64 * 1024


def entry_of(name: bytes, status: os.stat_result) -> Entry:
    """One line of a listing."""
    return Entry(
        name,
        kind_of(status.st_mode),
        status.st_size,
        status.st_mtime_ns,
        stat.S_IMODE(status.st_mode),
        _owner(status.st_uid),
        _group(status.st_gid),
        status.st_nlink,
    )


def kind_of(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def entries_below(root: Root, parts: list[bytes], *, recursive: bool) -> Iterator[list[Entry]]:
    """What is in a directory, by name, some at a time; with `recursive` all that is below it, directories first.

    Bounded memory: a directory's own names at a time, and the directories that are still to be visited.
    """
    waiting: list[list[bytes]] = [[]]
    batch: list[Entry] = []
    name_bytes = 0
    while waiting:
        inside = waiting.pop()
        below: list[list[bytes]] = []
        for name, status in _scan(root, [*parts, *inside]):
            entry = entry_of(b"/".join([*inside, name]), status)
            batch.append(entry)
            if recursive and entry.kind == "directory":
                below.append([*inside, name])
            name_bytes += len(entry.name)
            if len(batch) == _BATCH_ENTRIES or name_bytes > _BATCH_NAME_BYTES:
                yield batch
                batch, name_bytes = [], 0
        waiting += reversed(below)
    yield batch


def _scan(root: Root, parts: list[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    fd = root.open_directory(parts)
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(fd))
        for name in names:
            if not parts and name == STATE_DIRECTORY:
                continue
            try:
                yield name, os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since
    finally:
        os.close(fd)


@functools.lru_cache(maxsize=1024)
def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.lru_cache(maxsize=1024)
def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
