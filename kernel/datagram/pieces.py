"""A message that its service sends in pieces: kept until it is whole, as datagrams carry it whole or not at all."""

from __future__ import annotations

from kernel.api import Buffer
from kernel.errors import UsageError


class Pieces:
    """The message that is being sent so."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, piece: Buffer, message_bytes: int, last: bool) -> bytes | None:
        """The message, once it is whole.

        Raises:
            UsageError: the pieces do not add up.
        """
        self._kept += piece
        kept_bytes = len(self._kept)
        if kept_bytes > message_bytes or last != (kept_bytes == message_bytes):
            self._kept.clear()
            raise UsageError(f"the pieces of a message of {message_bytes} bytes have {kept_bytes}: they must add up")
        if not last:
            return None
        message = bytes(self._kept)
        self._kept.clear()
        return message
