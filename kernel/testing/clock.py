"""A virtual clock: an event loop in which waiting costs nothing, because time jumps to whatever is due next.

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(an_hour_in_a_millisecond())

Time passes only while nothing is ready to run, so a program without real input and output (`sim://`) runs the same
every time. When nothing is due any more, the program would wait for ever: `Deadlock` says so, at once.
"""

from __future__ import annotations

import asyncio
import selectors


class Deadlock(RuntimeError):
    """Everybody waits, and nothing is left that could happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on a virtual clock. It begins at 0 seconds, and is good for some weeks.

    Real sockets work in it, but time does not wait for them: a time-out next to real input is over at once.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; the selector calls it when there is nothing else to do."""
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    """Never waits: it looks what is ready, and else lets the loop's time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock("everybody waits, and nothing is left that could happen")
        if not ready and timeout is not None and timeout > 0:
            self._loop.advance(timeout)
        return ready
