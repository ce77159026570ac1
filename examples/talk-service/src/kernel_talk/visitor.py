"""A visitor: a client that sends some text, reads once, and sends the next. Answers are measured for that."""

from __future__ import annotations

import time

from kernel import Channel

ANSWER_BYTES_MAX = 1024
# What an operator may have said beyond the next answer.
_WAITING_BYTES_MAX = 64 * 1024


class Visitor:
    """One conversation, from the visitor's first turn to its end.

    Attributes:
        ending: the word by which either side ends it.
        waits: his turn is not answered yet; since when, `waits_since` tells.
    """

    def __init__(self, channel: Channel, ending: bytes) -> None:
        self.channel = channel
        self.ending = ending
        self.waits = False
        self.waits_since = 0.0
        self._said: list[bytes] = []
        self._ends = False

    def turn(self) -> None:
        """He has said something, and reads now; or said more before he was answered, which changes nothing."""
        if not self.waits:
            self.waits, self.waits_since = True, time.monotonic()
        self._go_on()

    def say(self, text: bytes) -> None:
        """Say something to him, now or with his next turn."""
        if text and sum(map(len, self._said)) + len(text) <= _WAITING_BYTES_MAX:
            self._said.append(text)
        self._go_on()

    def finish(self) -> None:
        """What has been said is the last."""
        self._ends = True
        self._go_on()

    def answer(self, text: bytes) -> None:
        """One answer, whatever else waits."""
        self.waits = False
        if self.channel.code is None:  # he may be gone since
            self.channel.send(text)

    def _go_on(self) -> None:
        if self.waits and self._said:
            answer, rest = cut(b"\n".join(self._said))
            self._said = [rest] if rest else []
            self.answer(answer)
        if self._ends and not self._said:
            self.channel.close()


def cut(text: bytes) -> tuple[bytes, bytes]:
    """What fits into one answer, and the rest; no character is cut in two."""
    if len(text) <= ANSWER_BYTES_MAX:
        return text, b""
    end = ANSWER_BYTES_MAX
    while end > ANSWER_BYTES_MAX - 4 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end], text[end:]
