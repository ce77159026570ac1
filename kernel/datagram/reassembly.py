"""What a receiver keeps of messages: those that are unfinished, and which ones it has had already.

A message is handed on whole or not at all, and only once. Unfinished messages are bounded three times over: by the
peer's own table (bytes and number), by their age, and by the `ReassemblyBudget` that all peers of a listener share.
When the
budget is spent, the peers that hold most lose theirs: who floods us hurts himself first.
"""

from __future__ import annotations

from kernel.datagram.counters import SessionCounters
from kernel.datagram.packets import ahead
from kernel.framing.errors import DecodeError
from kernel.framing.fragments import FragmentTable
from kernel.framing.interface import Engine

WINDOW_MESSAGES = 1024
"""How far behind the newest message one may be and still be new; a network reorders by a handful."""

_WINDOW_MASK = (1 << WINDOW_MESSAGES) - 1
_PEER_MESSAGES_MAX = 64


class SequenceWindow:
    """Which of the last sequence numbers have been seen; what is older counts as seen."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = 0xFFFFFFFF
        self._seen = _WINDOW_MASK

    def __contains__(self, sequence: int) -> bool:
        distance = ahead(self._newest, sequence)
        return distance >= 0 and (distance >= WINDOW_MESSAGES or bool(self._seen >> distance & 1))

    def add(self, sequence: int) -> None:
        """It has been seen; to be called for what is not contained."""
        step = ahead(sequence, self._newest)
        if step <= 0:
            self._seen |= 1 << -step
        else:
            self._seen = (self._seen << min(step, WINDOW_MESSAGES) | 1) & _WINDOW_MASK
            self._newest = sequence


class ReassemblyBudget:
    """Bytes of unfinished messages that all peers of a listener, or one client, may hold together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._holders: dict[Reassembler, int] = {}
        self.held_bytes = 0
        self.shed_messages = 0

    def hold(self, holder: Reassembler, nbytes: int) -> None:
        """`holder` holds so many bytes from now on. May empty it, or others."""
        self.release(holder)
        if nbytes:
            self._holders[holder] = nbytes
            self.held_bytes += nbytes
            if self.held_bytes > self._bytes_max:
                self._shed()

    def release(self, holder: Reassembler) -> None:
        """`holder` holds nothing any more."""
        self.held_bytes -= self._holders.pop(holder, 0)

    def _shed(self) -> None:
        """Empty the greatest holders until a quarter is free again, so that this is rare."""
        for holder in sorted(self._holders, key=self._holders.__getitem__, reverse=True):
            if self.held_bytes <= self._bytes_max * 3 // 4:
                return
            self.shed_messages += holder.clear()


class Reassembler:
    """One peer's incoming messages. Numbers are per connection, so one peer cannot touch another one's messages.

    Attributes:
        delivered: messages handed out; equal to the number that the peer has sent when none is missing.
    """

    __slots__ = ("_budget", "_counters", "_current", "_message_bytes_max", "_table", "_window", "delivered")

    def __init__(
        self, message_bytes_max: int, budget: ReassemblyBudget, engine: Engine, counters: SessionCounters
    ) -> None:
        self._message_bytes_max = message_bytes_max
        self._table = FragmentTable(message_bytes_max, 2 * message_bytes_max, _PEER_MESSAGES_MAX, engine)
        self._budget = budget
        self._counters = counters
        self._window = SequenceWindow()
        self._current = -1  # known not to be in the window
        self.delivered = 0

    @property
    def unfinished_messages(self) -> int:
        return len(self._table)

    def add(self, sequence: int, index: int, count: int, message_bytes: int, fragment: bytes) -> bytes | None:
        """Take a fragment as `parse_packet` gives it; return the message once it is whole."""
        if sequence != self._current:  # most fragments follow one of their own message
            if sequence in self._window:
                self._counters.duplicates += 1
                return None
            self._current = sequence
        table = self._table
        if count == 1 and not table.memory_bytes and message_bytes <= self._message_bytes_max:
            message: bytes | None = fragment
        else:
            held_bytes, conflicts = table.memory_bytes, table.conflicts
            try:
                message = table.add(sequence, index, count, message_bytes, fragment)
            except DecodeError:
                self._counters.rejected += 1
                return None
            if table.memory_bytes != held_bytes:
                self._budget.hold(self, table.memory_bytes)
            if table.conflicts != conflicts:
                self._counters.rejected += 1
                self._close(sequence)
        if message is not None:
            self._close(sequence)
            self.delivered += 1
        return message

    def _close(self, sequence: int) -> None:
        """Take no more of this message: it is delivered, or beyond repair."""
        self._window.add(sequence)
        self._current = -1

    def expire(self, age_ticks_max: int) -> None:
        """Let the clock go on by one tick, and drop messages that were begun more than so many ticks ago."""
        if self._table.tick(age_ticks_max):
            self._budget.hold(self, self._table.memory_bytes)

    def clear(self) -> int:
        """Drop what is unfinished, and give its bytes back; returns the number of messages."""
        dropped = self._table.tick(0)
        self._budget.release(self)
        return dropped
