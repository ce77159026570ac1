"""How far a command is: one line that is drawn again on a terminal, a plain line now and then elsewhere.

The transfer only adds to numbers; a timer draws. Everything goes to stderr.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TextIO

_DRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0
_SETTLE_SECONDS = 0.5
_BAR_COLUMNS_MAX = 30
_USUAL_COLUMNS = 80


def size(nbytes: float) -> str:
    """`812 B`, `1.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """`0:42`, `1:02:03`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts, and shows.

    Args:
        shown: off: counts only.

    Attributes:
        total_bytes, total_files: what is known to be ahead; they grow while directories are read.
        moved_bytes, files: what is done.
        name: the file at hand.
    """

    def __init__(self, *, shown: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown
        self._terminal = shown and self._stream.isatty()
        self.total_bytes = 0
        self.total_files = 0
        self.moved_bytes = 0
        self.files = 0
        self.name = ""
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def moved(self, nbytes: int) -> None:
        """So many bytes more are through, or (negative) must be moved once more."""
        self.moved_bytes += nbytes

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    async def __aenter__(self) -> Progress:
        self._began = time.monotonic()
        if self._shown:
            self._task = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            if self._terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    async def _show(self) -> None:
        await asyncio.sleep(_SETTLE_SECONDS if self._terminal else _LINE_SECONDS)
        while True:
            try:
                self._draw()
            except OSError:  # nobody reads it any more
                return
            await asyncio.sleep(_DRAW_SECONDS if self._terminal else _LINE_SECONDS)

    def _draw(self) -> None:
        if not self._terminal:
            self._stream.write(f"{self.line(_USUAL_COLUMNS)}\n")
        else:
            self._stream.write(f"\r{self.line(self._columns() - 1)}\x1b[K")
        self._stream.flush()

    def _columns(self) -> int:
        """How wide the terminal is now: the one that is drawn on, which standard output need not be."""
        try:
            return max(2, os.get_terminal_size(self._stream.fileno()).columns or _USUAL_COLUMNS)
        except (OSError, ValueError):
            return _USUAL_COLUMNS

    def line(self, columns: int) -> str:
        """Share, bar, bytes, rate, time left, name: as much of that as fits."""
        share = min(1.0, self.moved_bytes / self.total_bytes) if self.total_bytes else 0.0
        rate = self.moved_bytes / max(self.seconds, 0.001)
        left = max(0, self.total_bytes - self.moved_bytes)
        parts = [f"{share:4.0%}" if self.total_bytes else " ...", size(self.moved_bytes), f"{size(rate)}/s"]
        if rate and self.total_bytes:
            parts.append(f"{duration(left / rate)} left")
        if self.total_files > 1:
            parts.append(f"file {min(self.files + 1, self.total_files)} of {self.total_files}")
        text = "  ".join(parts)
        room = columns - len(text) - 4
        if room >= 10 and self._terminal and self.total_bytes:
            width = min(_BAR_COLUMNS_MAX, room)
            full = round(share * width)
            text = f"{parts[0]} [{'#' * full}{'.' * (width - full)}] {'  '.join(parts[1:])}"
        room = columns - len(text) - 2
        if room > 8 and self.name:
            text += "  " + (self.name if len(self.name) <= room else "..." + self.name[-(room - 3) :])
        return text[:columns]
