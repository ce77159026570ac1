"""Counts what code does in place of timing it: the same on every machine, however busy.

Three things are added up: the lines of Python that are run, the bytes that are allocated (so each copy counts), and
the bytes that searches look through in the bytearrays of an object. Who does the more, the more there is already, shows
it in one of them. What is not seen: searches in bytes of another kind, and what C functions do without allocating.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, SupportsIndex

from kernel.framing import Decoder

# A line allocates no more than that for small things, whatever it does; so does the counting itself.
_SMALL_BYTES = 512


def work_of_feeding(decoder: Decoder[Any], chunks: Iterable[bytes], units_max: float = math.inf) -> int:
    """What it costs a decoder to be fed these chunks, one after the other; it ends when it costs more than a limit."""
    work = Work()
    with _allocations_traced():
        for chunk in chunks:
            work.watch(decoder)
            with work:
                decoder.feed(chunk)
            if work.units > units_max:
                break
    return work.units


@contextlib.contextmanager
def _allocations_traced() -> Iterator[None]:
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


class Work:
    """Counts what is done inside of `with work:`, in this thread, while `tracemalloc` traces.

    Attributes:
        units: lines run, bytes allocated and bytes searched, all together.
    """

    def __init__(self) -> None:
        self.units = 0
        self._level = 0
        self._old_trace: Any = None

    def __enter__(self) -> Work:
        tracemalloc.reset_peak()
        self._level = tracemalloc.get_traced_memory()[0]
        self._old_trace = sys.gettrace()
        sys.settrace(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._old_trace)
        self._add_allocated()

    def watch(self, thing: object) -> None:
        """Count also what is searched in the bytearrays that are attributes of a thing."""
        slots = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
        for name in slots | getattr(thing, "__dict__", {}).keys():
            value = getattr(thing, name, None)
            if type(value) is bytearray:
                with contextlib.suppress(AttributeError, TypeError):  # it cannot be changed, then it is not counted
                    setattr(thing, name, _Searched(value, self))

    def _on_event(self, _frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            self.units += 1
        self._add_allocated()
        return self._on_event

    def _add_allocated(self) -> None:
        """What was allocated since the last line, also where it is free again."""
        level, peak = tracemalloc.get_traced_memory()
        if peak - self._level > _SMALL_BYTES:
            self.units += peak - self._level
        tracemalloc.reset_peak()
        self._level = level


class _Searched(bytearray):
    """A bytearray that tells how many bytes are looked at in search of something."""

    def __init__(self, content: bytearray, work: Work) -> None:
        super().__init__(content)
        self._work = work

    def find(self, sub: Any, start: Any = None, end: Any = None, /) -> int:
        found = super().find(sub, start, end)
        self._looked_through(start, end if found < 0 else found)
        return found

    def index(self, sub: Any, start: Any = None, end: Any = None, /) -> int:
        found = self.find(sub, start, end)
        if found < 0:
            raise ValueError("subsection not found")
        return found

    def rfind(self, sub: Any, start: Any = None, end: Any = None, /) -> int:
        found = super().rfind(sub, start, end)
        self._looked_through(start if found < 0 else found, end)
        return found

    def count(self, sub: Any, start: Any = None, end: Any = None, /) -> int:
        self._looked_through(start, end)
        return super().count(sub, start, end)

    def __contains__(self, sub: Any, /) -> bool:
        return self.find(sub) >= 0

    def __iter__(self) -> Iterator[int]:
        self._looked_through(None, None)
        return super().__iter__()

    def partition(self, sep: Any, /) -> tuple[bytearray, bytearray, bytearray]:
        self._looked_through(None, None)
        return super().partition(sep)

    def split(self, sep: Any = None, maxsplit: SupportsIndex = -1) -> list[bytearray]:
        self._looked_through(None, None)
        return super().split(sep, maxsplit)

    def _looked_through(self, start: SupportsIndex | None, end: SupportsIndex | None) -> None:
        self._work.units += len(range(*slice(start, end).indices(len(self))))
