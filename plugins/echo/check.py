"""Does what comes back equal what was sent, byte by byte? No I/O and no clock: told what happens, and when.

Two ways, for two kinds of channel. Where everything arrives in order, a reply belongs to the oldest message that waits
for one, and is compared piece by piece as it comes (`InOrder`); without message boundaries (a raw stream) the replies
are cut where the messages were. Where messages may be lost or overtake each other, a reply is looked up by its content
(`ByContent`).

Invariant: every message that was sent is counted exactly once as received, lost or still outstanding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from .payload import Payload
from .report import Tally

Expect = Callable[[bytes], bytes] | None
"""Makes of a part of a message what should come back for it; None: whatever comes is right."""


class Display:
    """What a person sees of the replies while they come: here nothing."""

    def part(self, piece: bytes, last: bool) -> None:
        """A part of a reply came; `last`: the reply ends with it."""

    def answered(self, sequence: int, size: int, nanoseconds: int) -> None:
        """A message has its whole reply, right or wrong."""


_REMEMBERED_MAX = 1024


@dataclass(slots=True)
class _Waiting:
    """A message without its reply, or with a part of it."""

    sequence: int
    payload: Payload
    sent_at: int
    received_bytes: int = 0
    corrupt: bool = False


class Check(ABC):
    """Counts into `tally`. All times are nanoseconds of one clock.

    Args:
        tally: where to count.
        expect: what should come back.
        timeout: how long a message may wait for its reply.
        display: what to show of the replies.
    """

    def __init__(self, tally: Tally, expect: Expect, timeout: int, display: Display) -> None:
        self.tally = tally
        self.broken = False
        self._expect = expect
        self._timeout = timeout
        self._display = display
        self._progress_at = 0

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """How many messages wait for their reply."""

    @property
    @abstractmethod
    def deadline(self) -> int | None:
        """When the next message has waited for too long."""

    @abstractmethod
    def received(self, message: bytes, now: int) -> None:
        """A whole message came, or on a raw stream some bytes."""

    def progress(self, now: int) -> None:
        """A part of a long message was sent, or a part of a reply came: while something moves, nothing is overdue."""
        self._progress_at = now

    @abstractmethod
    def expire(self, now: int) -> None:
        """Give up on what has waited for too long."""

    @abstractmethod
    def abandon(self) -> None:
        """Nothing more will come: what is outstanding is lost."""

    @abstractmethod
    def _remember(self, waiting: _Waiting) -> None: ...

    def sent(self, payload: Payload, now: int) -> None:
        """A message is about to be sent."""
        self.tally.sent += 1
        self.tally.bytes_sent += payload.size
        self._remember(_Waiting(self.tally.sent, payload, now))

    def _unexpected(self, nbytes: int, last: bool) -> None:
        self.tally.unexpected += last
        if self._expect is not None:
            self.tally.blame(f"the server sent {nbytes:,} bytes that answer nothing")

    def _answered(self, waiting: _Waiting, now: int) -> None:
        self.tally.received += 1
        self.tally.corrupt += waiting.corrupt
        self.tally.round_trips.record(now - waiting.sent_at)
        self._display.answered(waiting.sequence, waiting.payload.size, now - waiting.sent_at)

    def _late(self, waiting: _Waiting) -> None:
        self.tally.lost += 1
        self.tally.blame(f"no reply to message {waiting.sequence} within {self._timeout / 1e9:g} s")

    def _compare(self, waiting: _Waiting, part: bytes) -> None:
        """Compare a part of a reply with what was expected in its place."""
        if self._expect is None or waiting.corrupt:
            return
        original = waiting.payload.read(waiting.received_bytes, len(part))
        expected = self._expect(original)
        if part[: len(expected)] != expected:
            waiting.corrupt = True
            self.tally.blame(_explain(waiting, part, expected, original))

    def _compare_length(self, waiting: _Waiting, reply_bytes: int) -> None:
        """Compare the length of a whole reply with what was expected."""
        if self._expect is None or waiting.corrupt or reply_bytes == waiting.payload.size:
            return
        waiting.corrupt = True
        self.tally.blame(
            f"the reply to message {waiting.sequence} has {reply_bytes:,} bytes instead of {waiting.payload.size:,}: "
            f"it differs at offset {min(reply_bytes, waiting.payload.size):,}"
        )


class InOrder(Check):
    """For channels that keep the order and lose nothing.

    Args:
        boundaries: off: replies come without message boundaries.
    """

    def __init__(self, tally: Tally, expect: Expect, timeout: int, display: Display, *, boundaries: bool) -> None:
        super().__init__(tally, expect, timeout, display)
        self._waiting: deque[_Waiting] = deque()
        self._boundaries = boundaries

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    @property
    def deadline(self) -> int | None:
        if not self._waiting:
            return None
        return max(self._waiting[0].sent_at, self._progress_at) + self._timeout

    def _remember(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)

    def received(self, message: bytes, now: int) -> None:
        if self._boundaries:
            self.piece(message, len(message), True, now)
        elif self._expect is None:
            self.piece(message, 0, True, now)
        else:
            self._cut(message, now)

    def piece(self, piece: bytes, message_bytes: int, last: bool, now: int) -> None:
        """A part of a reply came.

        Args:
            message_bytes: the length of the whole reply.
            last: the reply ends with this piece.
        """
        self.tally.bytes_received += len(piece)
        self.progress(now)
        self._display.part(piece, last)
        if not self._waiting:
            self._unexpected(len(piece), last)
            return
        oldest = self._waiting[0]
        self._compare(oldest, piece)
        oldest.received_bytes += len(piece)
        if last:
            self._waiting.popleft()
            self._compare_length(oldest, message_bytes)
            self._answered(oldest, now)

    def _cut(self, data: bytes, now: int) -> None:
        """Cut bytes of a raw stream where the messages were, as far as they are known."""
        offset = 0
        while offset < len(data):
            end = len(data)
            if self._waiting:
                oldest = self._waiting[0]
                missing = oldest.payload.size - oldest.received_bytes
                end = min(end, offset + missing)
                self.piece(data[offset:end], oldest.payload.size, end - offset == missing, now)
                self.broken = self.broken or oldest.corrupt
            else:
                self.piece(data[offset:], 0, True, now)
            offset = end

    def expire(self, now: int) -> None:
        """Nothing overtakes here: when the oldest message waits in vain, and nothing moves, all behind it do too."""
        if (deadline := self.deadline) is not None and deadline <= now:
            self._late(self._waiting.popleft())
            self.broken = True
            self.abandon()

    def abandon(self) -> None:
        self.tally.lost += len(self._waiting)
        self._waiting.clear()


class ByContent(Check):
    """For channels that may lose messages, double or reorder them. Messages are short there: they are kept."""

    def __init__(self, tally: Tally, expect: Expect, timeout: int, display: Display) -> None:
        super().__init__(tally, expect, timeout, display)
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._by_reply: dict[bytes, deque[_Waiting]] = {}
        self._over: OrderedDict[int, str] = OrderedDict()

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    @property
    def deadline(self) -> int | None:
        return next(iter(self._waiting.values())).sent_at + self._timeout if self._waiting else None

    def _remember(self, waiting: _Waiting) -> None:
        self._waiting[waiting.sequence] = waiting
        self._by_reply.setdefault(self._reply_to(waiting), deque()).append(waiting)

    def _reply_to(self, waiting: _Waiting) -> bytes:
        return self._expect(waiting.payload.whole()) if self._expect else b""

    def received(self, message: bytes, now: int) -> None:
        self.tally.bytes_received += len(message)
        self._display.part(message, True)
        reply = message if self._expect else b""
        if waiting := self._by_reply.get(reply):
            self._answered(self._forget(waiting[0], "duplicates"), now)
        elif fate := self._over.get(hash(reply)):
            setattr(self.tally, fate, getattr(self.tally, fate) + 1)
            self._over[hash(reply)] = "duplicates"
        elif not self._waiting:
            self._unexpected(len(message), True)
        else:
            self._wrong(message, now)

    def _wrong(self, message: bytes, now: int) -> None:
        """Only when a single message is outstanding is it certain which one came back changed."""
        oldest = next(iter(self._waiting.values()))
        if len(self._waiting) > 1:
            self.tally.corrupt += 1
            self.tally.blame(
                f"a reply of {len(message):,} bytes is none of the {len(self._waiting)} outstanding messages"
            )
            return
        self._compare(oldest, message)
        self._compare_length(oldest, len(message))
        self._answered(self._forget(oldest, "duplicates"), now)

    def _forget(self, waiting: _Waiting, fate: str) -> _Waiting:
        """Take it from the outstanding ones; a reply from now on counts as `fate`."""
        del self._waiting[waiting.sequence]
        reply = self._reply_to(waiting)
        same = self._by_reply[reply]
        same.remove(waiting)
        if not same:
            del self._by_reply[reply]
        self._over[hash(reply)] = fate
        if len(self._over) > _REMEMBERED_MAX:
            self._over.popitem(last=False)
        return waiting

    def expire(self, now: int) -> None:
        while (deadline := self.deadline) is not None and deadline <= now:
            self._late(self._forget(next(iter(self._waiting.values())), "late"))

    def abandon(self) -> None:
        self.tally.lost += len(self._waiting)
        self._waiting.clear()
        self._by_reply.clear()


def _explain(waiting: _Waiting, part: bytes, expected: bytes, original: bytes) -> str:
    """One line for people: which byte is the first that differs, and what the likely reason is."""
    at = next(i for i, (ours, theirs) in enumerate(zip(expected, part, strict=False)) if ours != theirs)
    found = (
        f"the reply to message {waiting.sequence} differs at offset {waiting.received_bytes + at:,}: "
        f"0x{part[at]:02x} instead of 0x{expected[at]:02x}"
    )
    return f"{found} (the server answers in upper case: --expect upper)" if part == original.upper() else found
