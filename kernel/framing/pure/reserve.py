"""Room for one large bytes object that arrives in pieces.

`io.BytesIO` keeps its content in a bytes object and hands that very object out, so each byte is copied
once: from where it was received. Room is made only in step with what has arrived: an announced length alone
costs nothing. Whoever holds on to a lent view keeps the buffer it belongs to, and the reserve goes on in a
new one.
"""

from __future__ import annotations

import contextlib
import io

from kernel.framing.interface import Buffer

GROWTH = 4
"""Room lent at once, as a multiple of what has arrived: what an idle peer can tie up for each byte it
sent."""


class Reserve:
    """`missing` bytes are still to come; `take` is for when there are none."""

    __slots__ = ("_arrived", "_file", "_view", "_whole", "missing")

    def __init__(self, size: int) -> None:
        self.missing = size
        self._arrived = 0
        self._file = io.BytesIO()
        self._view: memoryview | None = None
        self._whole: bytes | None = None

    def add(self, data: Buffer) -> None:
        """Append `data`, no more than is missing."""
        self._release()
        if self._arrived == 0 and len(data) == self.missing:
            self._whole = bytes(data)
        else:
            self._write(self._arrived, data)
        self._arrived += len(data)
        self.missing -= len(data)

    def lend(self) -> memoryview:
        """A view into which the next bytes can be received."""
        self._release()
        end = self._arrived + min(self.missing, GROWTH * self._arrived + 1)
        if self._file.seek(0, io.SEEK_END) < end:
            self._write(end - 1, b"\0")
        self._view = self._file.getbuffer()[self._arrived : end]
        return self._view

    def received(self, nbytes: int) -> None:
        """`nbytes` were received into the view lent last. Raises ValueError where there is none so large."""
        if self._view is None or not 0 <= nbytes <= len(self._view):
            raise ValueError(f"filled({nbytes}) without a view of that size from wanted()")
        self._release()
        self._arrived += nbytes
        self.missing -= nbytes

    def take(self) -> bytes:
        """The whole. (BytesIO makes a copy of it where somebody still exports the buffer.)"""
        if self._whole is not None:
            return self._whole
        self._release()
        return self._file.getvalue()

    def _release(self) -> None:
        if self._view is not None:
            with contextlib.suppress(BufferError):  # exported, as by a loop that still holds what it received into
                self._view.release()
            self._view = None

    def _write(self, position: int, data: Buffer) -> None:
        self._file.seek(position)
        try:
            self._file.write(data)
        except BufferError:  # a view is held on to: leave the buffer to its holder
            self._file = io.BytesIO(self._file.getvalue())
            self._file.seek(position)
            self._file.write(data)
