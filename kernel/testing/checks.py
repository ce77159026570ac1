"""A suite of checks is a class; a check is one of its `async` methods under `@check`, one property with a name.

The same class runs in two ways. pytest collects a subclass as it collects any class of tests (each check is an ordinary
synchronous `test_...` method, no plugin of pytest's is needed). `run_checks` runs it without pytest, for
`kernel plugins check`. Either way a check gets an event loop of its own, an exception in any callback of that loop
fails it, and what does not apply to a plugin raises `unittest.SkipTest`, which pytest knows.

A check ends, whatever the plugin does: tasks that ignore their cancellation are named and left alone, a loop that is
held is interrupted (`kernel.testing.watch`), and a plugin that ends the process only ends its check.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
import unittest
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from kernel.testing.watch import Interrupted, Watch, line_of

# Tasks that could not be ended. Who let go of one would have Python try it once more, and complain about it anywhere.
_abandoned: list[asyncio.Task[Any]] = []

S = TypeVar("S", bound="Suite")


class CheckFailed(AssertionError):
    """A property does not hold; the message says which, and what was seen instead."""


def require(condition: object, message: str) -> None:
    """Fail the check unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def skip(reason: str) -> None:
    """This check does not apply to this plugin."""
    raise unittest.SkipTest(reason)


def check(method: Callable[[S], Coroutine[Any, Any, None]]) -> Callable[[S], None]:
    """Make an `async` method of a suite a check: a synchronous method that runs it in a loop of its own."""

    @functools.wraps(method)
    def run(suite: S) -> None:
        suite.run_in_loop(method(suite))

    run.is_check = True  # type: ignore[attr-defined]
    return run


class Suite:
    """The base of all suites. Subclass one of the concrete ones.

    Attributes:
        patience_seconds: how long a check waits for one thing that must happen.
        quiet_seconds: how long a check looks whether something happens that must not.
        check_seconds_max: how long a whole check may take.
        held_seconds_max: how long the plugin may keep the event loop to itself.
        stuck_seconds_max: how long the loop may be held by anybody, before the check is interrupted.
    """

    patience_seconds: ClassVar[float] = 5.0
    quiet_seconds: ClassVar[float] = 0.1
    check_seconds_max: ClassVar[float] = 60.0
    held_seconds_max: ClassVar[float] = 1.0
    stuck_seconds_max: ClassVar[float] = 10.0
    _resources: contextlib.ExitStack

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of one check; override it to run the checks on another kind of loop."""
        return asyncio.new_event_loop()

    @classmethod
    def check_names(cls) -> list[str]:
        """The names of the checks, in the order of their definition."""
        names = [name for kind in reversed(cls.__mro__) for name in vars(kind)]
        return [name for name in dict.fromkeys(names) if getattr(getattr(cls, name), "is_check", False)]

    def new_directory(self) -> str:
        """A directory that is removed after the check."""
        directory = tempfile.mkdtemp(prefix="kernel-")
        self._resources.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    def sources(self) -> Sequence[str]:
        """What the paths of the plugin's files begin with (`watch.sources_of`); none: it may hold the loop."""
        return ()

    def run_in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one check to its end, and fail when anything in its loop fails."""
        with contextlib.ExitStack() as self._resources:
            loop = self.new_loop()
            watch = Watch(
                loop,
                self.sources(),
                held_seconds_max=self.held_seconds_max,
                stuck_seconds_max=self.stuck_seconds_max,
            )
            try:
                with watch, asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(self._bounded(work))
            except CheckFailed as failure:
                raise CheckFailed(_joined([str(failure), *watch.findings])) from failure
            except Interrupted:
                loop.close()
            except SystemExit as error:
                raise CheckFailed(f"it ends the process: {error!r}") from error
            require(not watch.findings, _joined(watch.findings))

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a check as a task among others: none of them is waited for longer than things may take here."""
        checking = asyncio.ensure_future(self._guarded(work))
        try:
            await asyncio.wait([checking], timeout=self.check_seconds_max + self.patience_seconds)
        finally:
            stuck = await self._end_all()
        failure: BaseException | None
        if checking in stuck or checking.cancelled():
            failure = CheckFailed(f"it did not end within {self.check_seconds_max:g} s")
        else:
            failure = checking.exception()
        if stuck and not isinstance(failure, unittest.SkipTest):
            told = [str(failure)] if failure else []
            ignored = [f"{_place_of(task)} goes on, though it was cancelled" for task in stuck if task is not checking]
            failure = CheckFailed(_joined(told + ignored))
        if failure is not None:
            raise failure

    async def _end_all(self) -> set[asyncio.Task[Any]]:
        """Cancel all that is left, as the end of every program does; returns what goes on all the same."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if not tasks:
            return set()
        _, stuck = await asyncio.wait(tasks, timeout=self.patience_seconds)
        for task in stuck:
            asyncio.tasks._unregister_task(task)  # asyncio would wait for it for ever
        _abandoned.extend(stuck)
        return stuck

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.extend(_described(context)))
        try:
            async with asyncio.timeout(self.check_seconds_max):
                await work
        except TimeoutError:
            raise CheckFailed(f"it did not end within {self.check_seconds_max:g} s") from None
        require(not faults, _joined(faults))


def _joined(faults: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(faults))


def _place_of(task: asyncio.Task[Any]) -> str:
    """In which coroutine a task waits, the innermost one that is no library's, and in which line of it."""
    place: str = task.get_name()
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if not _is_library(frame.f_code.co_filename):
            place = line_of(frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return place


def _is_library(path: str) -> bool:
    return path.startswith(os.path.dirname(asyncio.__file__))


def _described(context: dict[str, Any]) -> Iterator[str]:
    """A failure in the loop in words, unless it is the watch's, which has told it."""
    error = context.get("exception")
    if not isinstance(error, Interrupted):
        yield str(context["message"]) + (f": {type(error).__name__}: {error}" if error else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check.

    Attributes:
        check: its name, in words.
        promise: what it checks, in one line.
        status: how it ended.
        detail: why it failed, or why it was skipped; one line, empty when it passed.
    """

    check: str
    promise: str
    status: Literal["passed", "failed", "skipped"]
    detail: str = ""


def run_checks(suite: type[Suite], names: Iterable[str] | None = None) -> Iterator[Outcome]:
    """Run the checks of a suite, one after the other, without pytest.

    Args:
        names: as `Suite.check_names` gives them; None: all.
    """
    for name in suite.check_names() if names is None else names:
        run = getattr(suite(), name)
        words = name.removeprefix("test_").replace("_", " ")
        promise = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        try:
            run()
        except unittest.SkipTest as reason:
            yield Outcome(words, promise, "skipped", str(reason))
        except Exception as error:
            yield Outcome(words, promise, "failed", _in_one_line(error))
        else:
            yield Outcome(words, promise, "passed")


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CheckFailed) else f"{type(error).__name__}: {text}"
