"""A suite of checks is a class; a check is one of its `async` methods under `@check`, one property with a name.

The same class runs in two ways. pytest collects a subclass as it collects any class of tests (each check is an ordinary
synchronous `test_...` method, no plugin of pytest's is needed). `run_checks` runs it without pytest, for
`kernel plugins check`. Either way a check gets an event loop of its own, an exception in any callback of that loop
fails it, and what does not apply to a plugin raises `unittest.SkipTest`, which pytest knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import tempfile
import unittest
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

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
    """

    patience_seconds: ClassVar[float] = 5.0
    quiet_seconds: ClassVar[float] = 0.1
    check_seconds_max: ClassVar[float] = 60.0
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

    def run_in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one check to its end, and fail when anything in its loop fails."""
        with contextlib.ExitStack() as self._resources, asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(_describe(context)))
        try:
            async with asyncio.timeout(self.check_seconds_max):
                await work
        except TimeoutError:
            raise CheckFailed(f"it did not end within {self.check_seconds_max:g} s") from None
        require(not faults, "; ".join(faults))


def _describe(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return str(context["message"]) + (f": {type(error).__name__}: {error}" if error else "")


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
