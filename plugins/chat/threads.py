"""The store behind an event loop: a thread that writes, in batches, and one that reads. Nothing here blocks the loop.

While a batch is being written, what comes meanwhile gathers for the next one: the slower the disk, the larger the
batches. What is called back comes in the order of the calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .backplane import Entry, NotPosted, Post
from .store import MEMORY, Store

T = TypeVar("T")

Written = Callable[[list[Any], list[Entry | None] | NotPosted], None]
"""Is called with what became of a batch: the contexts of its posts, and an entry for each, or why there is none."""

_BATCH_MAX = 1000


class StoreThreads:
    """Opens, uses and closes a store in its threads.

    Args:
        store: not yet open.
        written: see `Written`.
    """

    def __init__(self, store: Store, written: Written) -> None:
        self._store = store
        self._reading = store
        self._written = written
        self._writer: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Post, Any]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store.

        Raises:
            StartError: it cannot be used.
        """
        self._writer = self._reader = ThreadPoolExecutor(1, "chat-writer")
        await self.write(self._store.open)
        if self._store.path != MEMORY:  # a database in memory has one connection
            self._reader = ThreadPoolExecutor(1, "chat-reader")
            self._reading = await self.read(lambda _: self._store.reader())

    async def stop(self) -> None:
        """Finish writing, and close."""
        while self._task is not None:
            await self._task
        if self._writer is None:
            return
        if self._reader is not None and self._reader is not self._writer:
            await self.read(Store.close)
            self._reader.shutdown()
        await self.write(self._store.close)
        self._writer.shutdown()
        self._writer = self._reader = None

    def append(self, post: Post, context: Any) -> None:
        """Write it in the next batch; `written` gets the contexts."""
        self._waiting.append((post, context))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
                self._written([context for _, context in batch], await self._write_batch([post for post, _ in batch]))
        finally:
            self._task = None

    async def _write_batch(self, posts: list[Post]) -> list[Entry | None] | NotPosted:
        try:
            return await self.write(lambda: self._store.append(posts))
        except Exception as error:  # whatever it is: those who wait for this batch, and for the next ones, hear of it
            return NotPosted(f"the history cannot be written: {error}")

    async def write(self, work: Callable[[], T]) -> T:
        """Something else that writes, in its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def read(self, work: Callable[[Store], T]) -> T:
        """Something that reads."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, self._reading)
