"""A decoder that leaves its author one method: cut the frame that begins here. For framings written in Python.

The base keeps what has arrived until a frame is whole, and keeps the three outcomes apart. What it holds is bounded as
long as `cut` refuses a frame over the limit as soon as its bytes say how long it is.
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

    @abstractmethod
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        """The frame that begins at `data[start]`: its message, and where the next frame begins. None: not whole yet.

        It is asked again from the same place when more has arrived, so it looks at the header only. `data` is not to be
        kept or changed.

        Raises:
            DecodeError: these bytes are no frame, or announce one over the limit.
        """

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
        del self._arrived[:at]
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
