"""Blocking work beside the event loop, which never touches a disk itself.

`Worker` does jobs in order, in one thread; `Ahead` runs a blocking iterator in a thread, some items ahead of who
consumes them. Both are bounded, and both wake the event loop only when it waits: while the disk is the faster side,
a block costs no switch between the two.

Who owns what: only a worker's thread touches the descriptors that its jobs use, closing them included (`always`). So
a channel that ends in the middle leaves nothing that writes to a descriptor that is somebody else's by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Job = Callable[[], Any]


class Worker:
    """Does jobs in order. Made in the event loop; its thread starts with the first job.

    Args:
        depth: so many jobs may wait before `submit` does.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Job, bool] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._submitted = 0
        self._done = 0
        self._failure: BaseException | None = None
        self._skipping = False
        self._waiter: asyncio.Future[None] | None = None

    async def submit(self, job: Job) -> None:
        """Queue a job; waits while too many wait already.

        Raises:
            Exception: what an earlier job raised; the jobs that were queued behind it have been left out.
        """
        self._start()
        while self._submitted - self._done >= self._depth and self._failure is None:
            await self._progress()
        await self._raise_failure()
        self._put(job, always=False)

    async def flush(self) -> None:
        """Wait until all jobs are done.

        Raises:
            Exception: as `submit`.
        """
        while self._done < self._submitted:
            await self._progress()
        await self._raise_failure()

    async def call(self, job: Callable[[], T]) -> T:
        """Do one job behind all others, and wait for what it returns or raises."""
        outcome: list[T] = []
        await self.submit(lambda: outcome.append(job()))
        await self.flush()
        return outcome[0]

    async def open(self, job: Callable[[], T], close: Callable[[T], object]) -> T:
        """As `call`, for what must be closed again. Who is cancelled meanwhile cannot do it: the worker does."""
        outcome: list[T] = []
        try:
            await self.submit(lambda: outcome.append(job()))
            await self.flush()
        except BaseException:
            self.always(lambda: [close(opened) for opened in outcome])
            raise
        return outcome[0]

    def always(self, job: Job) -> None:
        """Queue a job that is done whatever has failed, and after `close` too: it cleans up, and raises nothing."""
        self._start()
        self._put(job, always=True)

    def close(self) -> None:
        """Leave out what has not begun, do what is to be done always, and end the thread. Does not wait."""
        self._skipping = True
        if self._thread is not None:
            self._jobs.put(None)

    async def join(self) -> None:
        """After `close`: wait until nothing is done any more, so that what the jobs use may go."""
        while self._done < self._submitted:
            await self._progress()

    async def _raise_failure(self) -> None:
        if self._failure is None:
            return
        while self._done < self._submitted:
            await self._progress()
        failure, self._failure = self._failure, None
        assert failure is not None
        raise failure

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="kernel-file-worker", daemon=True)
            self._thread.start()

    def _put(self, job: Job, *, always: bool) -> None:
        self._submitted += 1
        self._jobs.put((job, always))

    async def _progress(self) -> None:
        """Wait until a job is done. The waiter stands before the count is read again, so no wake-up is missed."""
        done = self._done
        self._waiter = self._loop.create_future()
        try:
            if self._done == done:
                await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, always = item
            if always or not (self._skipping or self._failure):
                try:
                    job()
                except BaseException as error:
                    self._failure = error
            del item, job
            self._done += 1
            if self._waiter is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._wake)


class Ahead(Generic[T]):
    """An asynchronous iterator over a blocking one, which a thread keeps some items ahead.

    Args:
        items: only the thread touches it; it is closed there, when it ends or `close` is called.
        depth: so many items may be ready and not yet consumed.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._ready: deque[tuple[T | None, BaseException | None]] = deque()
        self._slots: SimpleQueue[None] = SimpleQueue()  # as a semaphore, at a fraction of its price
        for _ in range(depth):
            self._slots.put(None)
        self._closed = False
        self._over = False
        self._waiter: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._work, name="kernel-file-ahead", daemon=True)
        self._thread.start()

    def __aiter__(self) -> Ahead[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            await self._more()
        item, error = self._ready.popleft()
        if error is not None:
            raise error
        self._slots.put(None)
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Read no more. Does not wait."""
        self._closed = True
        self._slots.put(None)

    async def end(self) -> None:
        """Close, and wait until the thread touches nothing any more: what the iterator uses may go then."""
        self.close()
        while not self._over:
            self._ready.clear()
            await self._more()

    async def _more(self) -> None:
        """Wait until something is ready. The waiter stands before that is asked again, so no wake-up is missed."""
        self._waiter = self._loop.create_future()
        try:
            if not self._ready:
                await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for item in self._items:
                self._slots.get()
                if self._closed:
                    break
                self._give(item, None)
            end: BaseException = StopAsyncIteration()
        except BaseException as error:
            end = error
        close = getattr(self._items, "close", None)
        if close is not None:
            close()
        self._over = True
        self._give(None, end)

    def _give(self, item: T | None, error: BaseException | None) -> None:
        self._ready.append((item, error))
        if self._waiter is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)
