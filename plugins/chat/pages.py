"""Lists that are cut where one message ends: what fits, and whether there is more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .backplane import Entry
from .protocol import PAGE_BYTES_MAX, Left, Presence, encode

T = TypeVar("T")

# What a message's frame of JSON may add to its text.
_FRAME_BYTES = 200
# The same around a name; and what stands between two of them.
_QUOTE_BYTES = 3
_COMMA_BYTES = 1


def fitting(items: Iterable[T], size: Callable[[T], int], bytes_max: int = PAGE_BYTES_MAX) -> tuple[list[T], bool]:
    """The first items that fit together, one at least; and whether others do not."""
    taken: list[T] = []
    for item in items:
        bytes_max -= size(item)
        if bytes_max < 0 and taken:
            return taken, True
        taken.append(item)
    return taken, False


def entry_bytes(entry: Entry) -> int:
    return len(entry.text.encode()) + _FRAME_BYTES


def name_bytes(name: str) -> int:
    return len(name.encode()) + _QUOTE_BYTES


def info_bytes(info: object) -> int:
    return len(encode(info)) + _COMMA_BYTES


def presences(room: str, joined: list[str], left: list[Left]) -> Iterator[Presence]:
    """Comings and goings, in as many messages as they take."""
    while joined or left:
        coming, more = fitting(joined, name_bytes)
        going = [] if more else fitting(left, info_bytes, PAGE_BYTES_MAX - sum(map(name_bytes, coming)))[0]
        joined, left = joined[len(coming) :], left[len(going) :]
        yield Presence(room=room, joined=coming, left=going)
