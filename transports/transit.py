"""Things on their way: each is handed on when its time has come, in the order of arrival, by one timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Transit(Generic[T]):
    """A queue by time of arrival.

    Args:
        on_arrival: gets all that is due, from the event loop.
    """

    def __init__(self, on_arrival: Callable[[list[T]], None]) -> None:
        self._on_arrival = on_arrival
        self._loop = asyncio.get_running_loop()
        self._number = itertools.count()
        self._items: list[tuple[float, int, T]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, arrival: float, item: T) -> None:
        """This arrives then; of two at one time the first comes first."""
        heapq.heappush(self._items, (arrival, next(self._number), item))
        if self._timer is None or arrival < self._timer.when():
            self._set_timer()

    def clear(self) -> None:
        """Nothing arrives any more."""
        self._items.clear()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._items[0][0], self._arrive) if self._items else None

    def _arrive(self) -> None:
        self._timer = None
        now = self._loop.time()
        due: list[T] = []
        while self._items and self._items[0][0] <= now:
            due.append(heapq.heappop(self._items)[2])
        self._set_timer()
        if due:
            self._on_arrival(due)
