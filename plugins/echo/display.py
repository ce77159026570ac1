"""What a person sees of the replies while they come: their text on stdout, or a line for each on stderr.

A reply is shown as it came, byte for byte, except on a terminal: there control characters are written as escapes, for
whoever answers decides what they would do to it.
"""

from __future__ import annotations

import re
import sys
from typing import BinaryIO

from .check import Display

_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


class TextDisplay(Display):
    """The replies themselves, each ended by a newline unless `newline` is off."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        self.newline = True
        self._out = out or sys.stdout.buffer
        self._escape = self._out.isatty()

    def part(self, piece: bytes, last: bool) -> None:
        self._out.write(escaped(piece) if self._escape else piece)
        if last:
            if self.newline:
                self._out.write(b"\n")
            self._out.flush()


def escaped(text: bytes) -> bytes:
    """The text without characters that steer a terminal."""
    return _CONTROL.sub(lambda found: b"".join(b"\\x%02x" % byte for byte in found[0]), text)


class PingDisplay(Display):
    """A line for each reply, as ping prints it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def answered(self, sequence: int, size: int, nanoseconds: int) -> None:
        print(f"{size} bytes from {self._endpoint}: seq={sequence} time={nanoseconds / 1e6:.3f} ms", file=sys.stderr)
