"""The standard streams, as every command may rely on them: they are there, and what is printed arrives whole.

Whoever started us may have left us a pipe that does not block: the flag belongs to the pipe, not to the process, and
any program that shares it can set it at any time. A full pipe then takes a part of what is written, or nothing.
Python's own standard output loses the rest without a word where it is unbuffered (PYTHONUNBUFFERED), and fails where it
is not. Ours waits for its reader, whoever that is.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def set_up() -> None:
    """Open those that are closed, and make those that are written to patient."""
    _open_missing()
    sys.stdout = _patient(sys.stdout)
    sys.stderr = _patient(sys.stderr)


def _open_missing() -> None:
    """Those that whoever started us has closed: the next socket would get such a number, and what is printed with it.

    A file opened now has the lowest number that is free, so in this order each gets its own.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            # The number stays taken as long as we run, whichever object writes to it.
            setattr(sys, name, open(os.open(os.devnull, flags), mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _patient(stream: TextIO) -> TextIO:
    """The same stream, that writes all of what it is given, or raises."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw: Any = _PatientFile(stream.fileno(), "w", closefd=False)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _PatientFile(io.FileIO):
    """A descriptor that takes everything, however little it takes at a time."""

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        nbytes = len(rest)
        while rest:
            written = super().write(rest)
            if written is None:
                self._wait()
            else:
                rest = rest[written:]
        return nbytes

    def _wait(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        poll.poll()
