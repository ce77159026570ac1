"""A message that comes as several payloads, put together in Python."""

from __future__ import annotations

from kernel.framing import errors
from kernel.framing.interface import Buffer
from kernel.framing.pure.reserve import Reserve


class Assembler:
    """A message of `total_bytes`. Raises DecodeError when that is more than `message_bytes_max`, ValueError when
    it is negative."""

    __slots__ = ("_reserve", "_total_bytes")

    def __init__(self, total_bytes: int, message_bytes_max: int) -> None:
        if total_bytes < 0:
            raise errors.out_of_range("total_bytes", total_bytes, message_bytes_max)
        if total_bytes > message_bytes_max:
            raise errors.message_too_large(total_bytes, message_bytes_max)
        self._total_bytes = total_bytes
        self._reserve = Reserve(total_bytes)

    @property
    def missing_bytes(self) -> int:
        return self._reserve.missing

    def add(self, payload: Buffer) -> bytes | None:
        view = memoryview(payload).cast("B")
        missing = self._reserve.missing
        if len(view) > missing:
            raise errors.message_overrun(self._total_bytes - missing + len(view), self._total_bytes)
        self._reserve.add(view)
        return None if self._reserve.missing else self._reserve.take()
