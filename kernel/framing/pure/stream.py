"""What both Python decoders do: cut whole frames out of each chunk, and keep what is left over.

A chunk goes through three stages. First the frame that an earlier chunk left unfinished is completed
(`_resume`). Then whole frames are cut with plain slices of bytes, the fast path (`_cut`, one per layout).
What remains is less than a frame: an unfinished header goes into a small array; with a whole header the
limit is checked and the frame gets its own `Reserve`. There is no tail buffer, and no byte is looked at
twice.

Invariant: `_head` and `_reserve` are never both in use; neither is between two frames.
"""

from __future__ import annotations

import abc
import struct
from typing import Generic, TypeVar

from kernel.framing import errors
from kernel.framing.errors import DecodeError
from kernel.framing.interface import Buffer
from kernel.framing.pure.reserve import Reserve

Frame = TypeVar("Frame")

WINDOW = 65536
"""A chunk that isn't bytes is turned into bytes in windows of this size; longer frames are taken out
uncut."""


def check_limit(value: int, high: int) -> None:
    """Raise ValueError unless `value` can be a frame_bytes_max."""
    if not 0 <= value <= high:
        raise errors.out_of_range("frame_bytes_max", value, high)


class StreamDecoder(abc.ABC, Generic[Frame]):
    """`Decoder` without a layout."""

    __slots__ = (
        "_direct_bytes_min",
        "_error",
        "_head",
        "_header_bytes",
        "_overhead",
        "_peek",
        "_pending",
        "_reserve",
        "_skip",
        "_total",
    )

    def __init__(self, header_bytes: int, overhead: int, length_field: str, direct_bytes_min: int) -> None:
        self._header_bytes = header_bytes
        self._overhead = overhead
        self._peek = struct.Struct(length_field).unpack_from
        self._direct_bytes_min = direct_bytes_min
        self._error: DecodeError | None = None
        self._pending = False
        self._head = bytearray()
        self._reserve: Reserve | None = None
        self._skip = 0
        self._total = 0

    @abc.abstractmethod
    def _cut(self, data: bytes, pos: int, frames: list[Frame]) -> int:
        """Append the whole frames from `pos` on to `frames`; return where the first unfinished or corrupt one
        starts, `_error` set if corrupt."""

    @abc.abstractmethod
    def _open(self, header: bytes) -> Reserve:
        """A header is whole: set `_total` and `_skip`, and reserve room. Raises DecodeError."""

    @abc.abstractmethod
    def _close(self, payload: bytes, frames: list[Frame]) -> None:
        """The frame opened last is whole. Raises DecodeError."""

    @property
    def error(self) -> DecodeError | None:
        return self._error

    @property
    def pending_bytes(self) -> int:
        if self._reserve is None:
            return len(self._head)
        return self._total - self._skip - self._reserve.missing

    def feed(self, data: Buffer) -> list[Frame]:
        if self._error is not None:
            raise self._error
        frames: list[Frame] = []
        if type(data) is not bytes:
            self._feed_view(memoryview(data).cast("B"), frames)
            return frames
        pos = self._resume(memoryview(data), 0, frames) if self._pending else 0
        if pos < len(data) and self._error is None:
            pos = self._cut(data, pos, frames)
            if pos < len(data) and self._error is None:
                self._resume(memoryview(data), pos, frames)
        return frames

    def wanted(self) -> memoryview | None:
        reserve = self._reserve
        if reserve is None or self._skip or reserve.missing < self._direct_bytes_min:
            return None
        if self.pending_bytes < self._direct_bytes_min // 4:
            return None
        return reserve.lend()

    def filled(self, nbytes: int) -> list[Frame]:
        if self._error is not None:
            raise self._error
        if self._reserve is None:
            raise ValueError(f"filled({nbytes}) without a view of that size from wanted()")
        self._reserve.received(nbytes)
        frames: list[Frame] = []
        self._settle(frames)
        return frames

    def finish(self) -> list[Frame]:
        if self._error is None and self._pending:
            self._fail(errors.truncated(self.pending_bytes))
        return []

    def _feed_view(self, view: memoryview, frames: list[Frame]) -> None:
        pos, size = 0, len(view)
        if self._pending:
            pos = self._resume(view, pos, frames)
        while pos < size and self._error is None:
            if size - pos <= WINDOW or self._peek(view, pos)[0] + self._overhead <= WINDOW:
                pos += self._cut(bytes(view[pos : pos + WINDOW]), 0, frames)
            if pos < size and self._error is None:
                pos = self._resume(view, pos, frames)

    def _resume(self, view: memoryview, pos: int, frames: list[Frame]) -> int:
        """Go on with the unfinished frame, or begin one; return where the next one starts."""
        if self._reserve is None:
            start = pos
            pos += self._header_bytes - len(self._head)
            self._head += view[start:pos]
            self._pending = True
            if len(self._head) < self._header_bytes:
                return len(view)
            try:
                self._reserve = self._open(bytes(self._head))
            except DecodeError as error:
                self._fail(error)
                return pos
            self._head.clear()
        pos = self._fill(self._reserve, view, pos)
        self._settle(frames)
        return pos

    def _fill(self, reserve: Reserve, view: memoryview, pos: int) -> int:
        skipped = min(self._skip, len(view) - pos)
        self._skip -= skipped
        pos += skipped
        end = min(pos + reserve.missing, len(view))
        reserve.add(view[pos:end])
        return end

    def _settle(self, frames: list[Frame]) -> None:
        """Hand the frame out if it is whole."""
        reserve = self._reserve
        if reserve is None or reserve.missing or self._skip:
            return
        try:
            self._close(reserve.take(), frames)
        except DecodeError as error:
            self._fail(error)
            return
        self._reserve = None
        self._pending = False

    def _fail(self, error: DecodeError) -> None:
        self._error = error
        self._pending = False
        self._reserve = None
        self._head.clear()
        self._skip = 0
