"""Watches a check from outside of its event loop: ends what hangs, and says which line of the plugin's held the loop.

A thread of its own looks again and again whether the loop has turned since the last time. It counts its looks and not
seconds, because on a busy machine both are late. A loop that is held for long is interrupted, by a signal that raises
`Interrupted` in whatever the main thread does (a check that runs in another thread is only watched). Calls that wait
and let nobody else run are noticed as they are made, by an audit hook: `time.sleep`, `urlopen`. Python
tells of the sleeps from 3.13 on; before that, ours does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

_LOOK_SECONDS = 0.05
# Its default is to do nothing: one that comes too late harms nobody.
_SIGNAL = signal.SIGURG
_WAITING_CALLS = ("time.sleep", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request")
# While somebody looks at the plugin in one of these, nothing is held for too long.
_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd_bundle")
_KERNEL = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_hooked = False
_watching: Watch | None = None
_sleep = time.sleep


class Interrupted(BaseException):
    """The loop was held for so long that the check is over."""


def sources_of(kind: type) -> tuple[str, ...]:
    """Where the code of a plugin lies: its module, or the package that this is in."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return ()
    return (os.path.dirname(file) + os.sep,) if "." in module.__name__ or hasattr(module, "__path__") else (file,)


class Watch:
    """A context manager around everything that a loop runs, to be entered in the loop's thread.

    Args:
        sources: what the paths of the plugin's own files begin with; what others do is not the plugin's fault.
        held_seconds_max: how long it may keep the loop to itself.
        stuck_seconds_max: after which time the loop is interrupted.

    Attributes:
        findings: what was seen, in words.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sources: Sequence[str],
        *,
        held_seconds_max: float,
        stuck_seconds_max: float,
    ) -> None:
        self.findings: list[str] = []
        self._loop = loop
        self._sources = tuple(sources)
        self._held_looks_max = held_seconds_max / _LOOK_SECONDS
        self._stuck_looks_max = stuck_seconds_max / _LOOK_SECONDS
        self._thread_id = threading.get_ident()
        self._can_interrupt = threading.current_thread() is threading.main_thread()
        self._interrupting = False
        self._turned = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="kernel-watch", daemon=True)

    def __enter__(self) -> Watch:
        global _hooked, _watching
        if not _hooked:
            _hooked = True
            sys.addaudithook(_on_audit)
        _watching = self
        if sys.version_info < (3, 13):
            time.sleep = _audited_sleep  # type: ignore[assignment]
        if self._can_interrupt:
            self._old_handler = signal.signal(_SIGNAL, self._on_signal)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _watching
        _watching = None
        time.sleep = _sleep
        self._interrupting = False
        self._over.set()
        self._thread.join()
        if self._can_interrupt:
            signal.signal(_SIGNAL, self._old_handler)

    # --- the thread that looks -----------------------------------------------------------------------------------

    def _look_on(self) -> None:
        looks, told = 0, False
        while not self._over.wait(_LOOK_SECONDS):
            frames = list(_frames(sys._current_frames().get(self._thread_id)))
            if self._turned or any(_module(frame) in _DEBUGGERS for frame in frames):
                looks, told = 0, False
                self._ask_for_a_turn()
                continue
            looks += 1
            where = next((line_of(frame) for frame in frames if self._is_plugins(frame)), "")
            if looks > self._held_looks_max and where and not told:
                told = True
                self.findings.append(f"it holds the event loop, and nobody else is served: {where}")
            if looks > self._stuck_looks_max:
                looks, self._stuck_looks_max = 0, self._held_looks_max  # another one need not be waited for so long
                if not told:
                    self.findings.append(f"the event loop is stuck: {line_of(frames[0])}")
                self._interrupt()

    def _ask_for_a_turn(self) -> None:
        self._turned = False
        try:
            self._loop.call_soon_threadsafe(self._turn)
        except RuntimeError:  # it is closed
            self._turned = True

    def _turn(self) -> None:
        self._turned = True

    def _is_plugins(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._sources) if self._sources else False

    # --- the thread of the loop ----------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._can_interrupt:
            self._interrupting = True
            signal.pthread_kill(self._thread_id, _SIGNAL)

    def _on_signal(self, *_: object) -> None:
        if self._interrupting:
            self._interrupting = False
            raise Interrupted

    def on_waiting_call(self, event: str, args: tuple[Any, ...]) -> None:
        """A call that waits is made. Whose it is tells the frame that is next, the standard library's aside."""
        if threading.get_ident() != self._thread_id or args[0] == 0:  # a sleep of nothing
            return
        for frame in _frames(sys._getframe(2)):
            if frame.f_code is _audited_sleep.__code__:
                continue
            if self._is_plugins(frame):
                where = line_of(frame)
                self.findings.append(f"it calls {event}() in the event loop, and nobody else is served: {where}")
                return
            if frame.f_code.co_filename.startswith(_KERNEL):
                return


def _on_audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _WAITING_CALLS and _watching is not None:
        _watching.on_waiting_call(event, args)


def _audited_sleep(seconds: float) -> None:
    sys.audit("time.sleep", seconds)
    _sleep(seconds)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, and those that have called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def line_of(frame: FrameType) -> str:
    """Where a frame is: `Shout.serve, shout.py line 20`."""
    code = frame.f_code
    return f"{code.co_qualname}, {os.path.basename(code.co_filename)} line {frame.f_lineno}"
