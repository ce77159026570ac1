"""Connections that are turned away before they get a session: told why, where their protocol has words for it.

A peer that is told why holds a descriptor until it hangs up, or the connection's own patience ends; so only a few are
told at the same time, and the others are reset.
"""

from __future__ import annotations

from kernel.api import Buffer, Connection

_AT_ONCE_MAX = 32


class Refusals:
    """What a server does with connections for which it has no place."""

    def __init__(self) -> None:
        self._leaving: set[_Leaving] = set()

    def turn_away(self, connection: Connection, words: bytes) -> None:
        """Say `words` and close; nothing to say, or too many listening: reset."""
        if not words or len(self._leaving) >= _AT_ONCE_MAX:
            connection.abort()
            return
        leaving = _Leaving(connection, self._leaving)
        self._leaving.add(leaving)
        connection.start(leaving)
        connection.write([words])
        connection.close()

    def abort(self) -> None:
        """Reset those that are still here."""
        for leaving in list(self._leaving):
            leaving.connection.abort()


class _Leaving:
    """The receiver of such a connection: it hears nothing."""

    def __init__(self, connection: Connection, place: set[_Leaving]) -> None:
        self.connection = connection
        self._place = place

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> None:
        raise AssertionError("filled() without wanted()")

    def data_received(self, data: Buffer) -> None:
        """It will see our words when it has said its own."""

    def messages_received(self, messages: list[bytes]) -> None:
        """As above."""

    def eof_received(self) -> None:
        """We are closing already."""

    def write_drained(self) -> None:
        """There is no more to say."""

    def connection_established(self) -> None:
        """It never is."""

    def connection_lost(self, error: Exception | None) -> None:
        self._place.discard(self)
