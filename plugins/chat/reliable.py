"""Messages in order, whole and once, over a channel that loses, doubles and reorders them. No I/O and no clock.

A datagram is a line `SEQUENCE ACKNOWLEDGED [RECEIVED,...]`, and then messages, one a line: JSON has no bare newlines.
SEQUENCE is the number of the first message in it, the others follow; ACKNOWLEDGED is the number that is expected next
from the other side, and RECEIVED are those beyond it that are here already, so that only the holes are sent again.

Each message is kept until it is acknowledged and sent again when that takes too long, less and less often. Who hears
nothing for `give_up_seconds` gives up: `lost` is set, and what `unacknowledged` counts may not have arrived.

Invariants: messages are handed on in order, each once; at most `WINDOW_MESSAGES` are on their way, and no more, nor
more than `_EARLY_BYTES_MAX`, are kept out of order: what is dropped comes again; a datagram that makes no sense changes
nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

WINDOW_MESSAGES = 128
DATAGRAM_BYTES = 1100
"""Messages share a datagram up to this size; a longer message has one of its own."""

_RECEIVED_MAX = 32
_EARLY_BYTES_MAX = 256 * 1024
_RETRY_SECONDS_FIRST = 0.5
_RETRY_SECONDS_MIN = 0.1
_RETRY_SECONDS_MAX = 2.0
# So many later messages are there: it was lost, not delayed.
_OVERTAKEN_TIMES = 3
_NUMBER_MAX = 1 << 53


@dataclass(slots=True)
class _Sent:
    """A message that is not acknowledged yet."""

    message: bytes
    sent_at: float
    again: bool = False
    overtaken: int = 0


class Reliable:
    """One end of a conversation.

    Args:
        give_up_seconds: silence of so long, while something waits for its acknowledgement, means the end.

    Attributes:
        lost: the other side has not answered for too long.
    """

    def __init__(self, give_up_seconds: float) -> None:
        self.lost = False
        self._give_up_seconds = give_up_seconds
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._sent_bytes = 0
        self._next = 1
        self._expected = 1
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0
        self._acknowledge = False
        self._window = WINDOW_MESSAGES
        self._round_trip: float | None = None
        self._variation = 0.0
        self._retry_seconds = _RETRY_SECONDS_FIRST
        self._retry_at: float | None = None
        self._heard_at: float | None = None

    @property
    def unacknowledged(self) -> int:
        """How many messages may not have arrived yet."""
        return len(self._queue) + len(self._sent)

    @property
    def pending_bytes(self) -> int:
        """How much is kept for the other side."""
        return self._queue_bytes + self._sent_bytes

    @property
    def deadline(self) -> float | None:
        """When to call `tick`; None: there is nothing to wait for."""
        return self._retry_at

    def send(self, messages: list[bytes]) -> None:
        """Queue messages; none of them holds a newline."""
        self._queue.extend(messages)
        self._queue_bytes += sum(map(len, messages))

    def ask(self) -> None:
        """Have a datagram sent though there is nothing new: whoever does not know us will say so."""
        self._acknowledge = True

    def received(self, datagram: bytes, now: float) -> list[bytes]:
        """What a datagram brings: the messages whose turn it is."""
        head, _, body = datagram.partition(b"\n")
        try:
            numbers = [int(word) for word in head.replace(b",", b" ").split()]
        except ValueError:
            return []
        if len(numbers) < 2 or not all(0 < number < _NUMBER_MAX for number in numbers) or numbers[1] > self._next:
            return []
        self._acknowledged(numbers[1], set(numbers[2:]), now)
        return self._arrived(numbers[0], body.split(b"\n")) if body else []

    def _arrived(self, sequence: int, messages: list[bytes]) -> list[bytes]:
        self._acknowledge = True
        for number, message in enumerate(messages, sequence):
            fits = number == self._expected or self._early_bytes + len(message) <= _EARLY_BYTES_MAX
            if fits and self._expected <= number < self._expected + WINDOW_MESSAGES and number not in self._early:
                self._early[number] = message
                self._early_bytes += len(message)
        ready = []
        while (next_one := self._early.pop(self._expected, None)) is not None:
            ready.append(next_one)
            self._early_bytes -= len(next_one)
            self._expected += 1
        return ready

    def _acknowledged(self, expected: int, beyond: set[int], now: float) -> None:
        self._heard_at = now
        arrived = [number for number in self._sent if number < expected or number in beyond]
        if not arrived:
            return
        for number in arrived:
            sent = self._sent.pop(number)
            self._sent_bytes -= len(sent.message)
            if not sent.again:
                self._measure(now - sent.sent_at)
        self._window = min(self._window + len(arrived), WINDOW_MESSAGES)
        for number, sent in self._sent.items():
            if number < arrived[-1]:
                sent.overtaken += 1
        self._retry_seconds = self._retry_base()
        self._retry_at = now + self._retry_seconds if self._sent else None

    def _measure(self, round_trip: float) -> None:
        """Smoothed as in RFC 6298."""
        if self._round_trip is None:
            self._round_trip, self._variation = round_trip, round_trip / 2
            return
        self._variation += (abs(self._round_trip - round_trip) - self._variation) / 4
        self._round_trip += (round_trip - self._round_trip) / 8

    def _retry_base(self) -> float:
        if self._round_trip is None:
            return _RETRY_SECONDS_FIRST
        return min(max(self._round_trip + 4 * self._variation, _RETRY_SECONDS_MIN), _RETRY_SECONDS_MAX)

    def tick(self, now: float) -> None:
        """Time has passed: what waits for too long is due again."""
        if self._retry_at is None or now < self._retry_at:
            return
        if self._heard_at is not None and now - self._heard_at >= self._give_up_seconds:
            self.lost = True
            self._retry_at = None
            return
        for sent in self._sent.values():
            sent.overtaken = _OVERTAKEN_TIMES
        self._window = max(self._window // 2, 4)
        self._retry_seconds = min(self._retry_seconds * 2, _RETRY_SECONDS_MAX)
        self._retry_at = now + self._retry_seconds

    def data_to_send(self, now: float) -> list[bytes]:
        """The datagrams that are due."""
        runs = self._due_again(now)
        fresh: list[tuple[int, bytes]] = []
        while self._queue and len(self._sent) < self._window:
            message = self._queue.popleft()
            self._queue_bytes -= len(message)
            self._sent_bytes += len(message)
            self._sent[self._next] = _Sent(message, now)
            fresh.append((self._next, message))
            self._next += 1
        runs += _runs(fresh)
        if self._sent and self._retry_at is None:
            self._retry_at = now + self._retry_seconds
            self._heard_at = now  # the time of silence begins when there is something to answer
        if not runs and not self._acknowledge:
            return []
        self._acknowledge = False
        received = b",".join(b"%d" % number for number in sorted(self._early)[:_RECEIVED_MAX])
        tail = b" %d %s\n" % (self._expected, received) if received else b" %d\n" % self._expected
        return [b"%d%s%s" % (first, tail, body) for first, body in runs or [(self._next, b"")]]

    def _due_again(self, now: float) -> list[tuple[int, bytes]]:
        due: list[tuple[int, bytes]] = []
        for number, sent in self._sent.items():
            if sent.overtaken >= _OVERTAKEN_TIMES and len(due) < self._window:
                sent.overtaken, sent.again, sent.sent_at = 0, True, now
                due.append((number, sent.message))
        return _runs(due)


def _runs(numbered: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Messages that follow one another, joined as far as they share a datagram."""
    runs: list[tuple[int, bytes]] = []
    lines: list[bytes] = []
    first, size = 0, 0
    for number, message in numbered:
        if lines and (number != first + len(lines) or size + len(message) > DATAGRAM_BYTES):
            runs.append((first, b"\n".join(lines)))
            lines = []
        if not lines:
            first, size = number, 0
        lines.append(message)
        size += len(message) + 1
    if lines:
        runs.append((first, b"\n".join(lines)))
    return runs
