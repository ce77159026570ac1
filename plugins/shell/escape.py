"""The escape of an interactive session: `~` at the start of a line, as in ssh.

~.  disconnect, which ends the command      ~d  detach, it goes on        ~?  help
~^Z suspend this client                     ~~  a `~`
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

_TILDE = ord("~")
_LINE_ENDS = (13, 10)


class Action(Enum):
    """What a person asks of the client itself."""

    DISCONNECT = ord(".")
    DETACH = ord("d")
    SUSPEND = 26
    HELP = ord("?")


class EscapeFilter:
    """Takes what is typed, gives what is to be sent, with the actions where they were asked for."""

    def __init__(self) -> None:
        self._at_start = True
        self._tilde = False

    def feed(self, data: bytes) -> Iterator[bytes | Action]:
        """The bytes to send and the actions, in order."""
        passed = bytearray()
        for byte in data:
            if self._tilde:
                self._tilde = False
                action = next((action for action in Action if action.value == byte), None)
                if action is not None:
                    if passed:
                        yield bytes(passed)
                        passed.clear()
                    self._at_start = True
                    yield action
                    continue
                if byte != _TILDE:
                    passed.append(_TILDE)
            elif byte == _TILDE and self._at_start:
                self._tilde = True
                continue
            passed.append(byte)
            self._at_start = byte in _LINE_ENDS
        if passed:
            yield bytes(passed)
