"""Our own terminal: in raw mode while a session lasts, and as it was before whatever ends the session.

Raw mode is left on every way out that leaves a process any say: return, exception, the end of the interpreter, and the
signals that end a process (they become the end of the session) or stop it (it is entered again when we go on).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import termios
import tty
from typing import Any

from .protocol import Terminal

_TERM_UNKNOWN = "dumb"
_SIZE_UNKNOWN = (80, 24)


class Console:
    """The terminal at a descriptor, if there is one; without one, nothing here does anything."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_terminal = os.isatty(descriptor)
        self._before: list[Any] | None = None

    def describe(self) -> Terminal:
        """Its size and type."""
        columns, rows = self.size()
        return Terminal(columns, rows, os.environ.get("TERM") or _TERM_UNKNOWN)

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        for descriptor in (self._descriptor, 1, 2):
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(descriptor)
                return size.columns, size.lines
        return _SIZE_UNKNOWN

    def enter_raw(self) -> None:
        """Pass every key on as it is."""
        if not self.is_terminal:
            return
        if self._before is None:
            self._before = termios.tcgetattr(self._descriptor)
            atexit.register(self.restore)
        tty.setraw(self._descriptor, termios.TCSADRAIN)

    def restore(self) -> None:
        """As it was before."""
        if self._before is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            atexit.unregister(self.restore)
            self._before = None

    def suspend(self) -> None:
        """Stop this process as Ctrl-Z would, and go on in raw mode when somebody continues it."""
        self.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter_raw()

    def say(self, text: str) -> None:
        """A line of our own on stderr, between what the session shows."""
        end = "\r\n" if self._before is not None else "\n"
        with contextlib.suppress(OSError, ValueError):
            print(f"{end if self._before is not None else ''}kernel: {text}", end=end, file=sys.stderr, flush=True)
