"""A decoder that leaves its author one method: cut the frame that begins here. For framings written in Python.

The base keeps what has arrived until a frame is whole, and keeps the three outcomes apart. What it holds is bounded as
long as `cut` refuses a frame over the limit as soon as its bytes say how long it is. How long it takes is bounded as
long as `cut` looks at a frame's header only, and searches its body by `find`, which goes on where it ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from kernel.framing import errors
from kernel.framing.errors import DecodeError
from kernel.framing.interface import Buffer


class SimpleDecoder(ABC):
    """Derive from it, and define `cut`. It is a `Decoder[bytes]`."""

    def __init__(self) -> None:
        self._arrived = bytearray()
        self._error: DecodeError | None = None
        # For each delimiter: where its last search began, and where the next one from there begins.
        self._searched: dict[bytes, tuple[int, int]] = {}

    @abstractmethod
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        """The frame that begins at `data[start]`: its message, and where the next frame begins. None: not whole yet.

        It is asked again from the same place when more has arrived, be it one byte, so it looks at the header only; a
        delimiter is looked for by `find`. `data` is not to be kept or changed.

        Raises:
            DecodeError: these bytes are no frame, or announce one over the limit.
        """

    def find(self, delimiter: bytes, start: int) -> int:
        """Where the first `delimiter` is in `data` from `start` on, for `cut`; -1: nowhere yet.

        As `data.find(delimiter, start)`, but asked again from the same `start` it looks at no byte twice: without it, a
        frame that comes byte by byte costs the square of its length.
        """
        began, searched = self._searched.get(delimiter, (-1, 0))
        found = self._arrived.find(delimiter, searched if began == start else start)
        unsearched = max(start, len(self._arrived) - len(delimiter) + 1) if found < 0 else found
        self._searched[delimiter] = start, unsearched
        return found

    @property
    def error(self) -> DecodeError | None:
        return self._error

    @property
    def pending_bytes(self) -> int:
        return len(self._arrived)

    def feed(self, data: Buffer) -> list[bytes]:
        if self._error is not None:
            raise self._error
        self._arrived += data
        messages: list[bytes] = []
        at = 0
        try:
            while at < len(self._arrived) and (found := self.cut(self._arrived, at)) is not None:
                message, at = found
                messages.append(message)
        except DecodeError as error:
            self._error = error
            at = len(self._arrived)
        if at:
            del self._arrived[:at]
            self._searched = {end: (began - at, next_at - at) for end, (began, next_at) in self._searched.items()}
        return messages

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> list[bytes]:
        raise ValueError(f"filled({nbytes}) without a view from wanted()")

    def finish(self) -> list[bytes]:
        if self._arrived and self._error is None:
            self._error = errors.truncated(len(self._arrived))
            self._arrived.clear()
        return []
