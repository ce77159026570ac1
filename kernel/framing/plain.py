"""Framings without a length: whatever arrives, and lines. In Python only: both do their work in one C call
a chunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kernel.framing import errors
from kernel.framing.errors import DecodeError
from kernel.framing.interface import Buffer


class RawDecoder:
    """Each chunk is a message: what one read gave. An empty chunk is none."""

    __slots__ = ()
    error: DecodeError | None = None
    pending_bytes = 0

    def feed(self, data: Buffer) -> list[bytes]:
        return [bytes(data)] if len(data) else []

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> list[bytes]:
        raise ValueError(f"filled({nbytes}) without a view from wanted()")

    def finish(self) -> list[bytes]:
        return []


class LineDecoder:
    """Yields lines without their delimiter; with the default one, without a carriage return before it either.

    What follows the last delimiter when the stream ends is a line too. A line of more than `line_bytes_max`
    bytes (its delimiter not counted) is corrupt, and found to be so before much more of it has arrived.
    """

    __slots__ = ("_delimiter", "_error", "_line_bytes_max", "_tail")

    def __init__(self, line_bytes_max: int = 65536, delimiter: bytes = b"\n") -> None:
        if not delimiter:
            raise ValueError("delimiter is empty, it must be at least one byte")
        if line_bytes_max < 1:
            raise ValueError(f"line_bytes_max is {line_bytes_max}, it must be at least 1")
        self._line_bytes_max = line_bytes_max
        self._delimiter = delimiter
        self._tail = bytearray()
        self._error: DecodeError | None = None

    @property
    def error(self) -> DecodeError | None:
        return self._error

    @property
    def pending_bytes(self) -> int:
        return len(self._tail)

    def feed(self, data: Buffer) -> list[bytes]:
        if self._error is not None:
            raise self._error
        tail, searched = self._tail, max(0, len(self._tail) - len(self._delimiter) + 1)
        tail += data
        if tail.find(self._delimiter, searched) < 0:
            lines = []
        else:
            *lines, rest = bytes(tail).split(self._delimiter)
            tail[:] = rest
        lines = self._within_limit(lines)
        if len(tail) > self._line_bytes_max + len(self._delimiter) - 1:
            self._fail()
        return self._without_return(lines)

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> list[bytes]:
        raise ValueError(f"filled({nbytes}) without a view from wanted()")

    def finish(self) -> list[bytes]:
        lines = [bytes(self._tail)] if self._tail else []
        self._tail.clear()
        return self._without_return(lines)

    def _within_limit(self, lines: list[bytes]) -> list[bytes]:
        """The lines before the first one that is too long."""
        if max(map(len, lines), default=0) <= self._line_bytes_max:
            return lines
        self._fail()
        return list(itertools.takewhile(lambda line: len(line) <= self._line_bytes_max, lines))

    def _without_return(self, lines: list[bytes]) -> list[bytes]:
        if self._delimiter != b"\n":
            return lines
        return [line.removesuffix(b"\r") for line in lines]

    def _fail(self) -> None:
        self._error = errors.line_too_large(self._line_bytes_max)
        self._tail.clear()


def check_line(message: Buffer, delimiter: bytes = b"\n") -> None:
    """Raises EncodeError for a message that is no line: with its end behind it, it would end earlier."""
    if (bytes(message) + delimiter).find(delimiter) != len(message):
        raise errors.unsendable_line(delimiter)


def encode_lines(messages: Sequence[Buffer], delimiter: bytes = b"\n") -> bytes:
    """All messages as lines, in one buffer. Raises EncodeError where that would move a line's end: a message
    contains the delimiter, or ends with the start of it."""
    encoded = delimiter.join([*messages, b""])
    if list(map(len, encoded.split(delimiter))) != [*map(len, messages), 0]:
        raise errors.unsendable_line(delimiter)
    return encoded
