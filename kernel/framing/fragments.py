"""The unfinished messages of one datagram peer, within limits; where one is reached, the oldest message goes.

How many fragments a message has, and how long it is, is said by its first fragment; one that says otherwise
kills the message. Memory is counted by announced length: what a message may take, not what it takes so far.
"""

from __future__ import annotations

from kernel.framing import errors
from kernel.framing.engine import engine as select_engine
from kernel.framing.interface import Buffer, Engine, Reassembly


class FragmentTable:
    """Messages by sequence number, the oldest first.

    message_bytes_max   longest message
    memory_bytes_max    most bytes that the unfinished messages announce together, at least message_bytes_max
    messages_max        most unfinished messages, at least 1

    completed    messages handed out
    evicted      messages dropped unfinished: pushed out by newer ones, or too old
    conflicts    messages dropped because a fragment contradicted the first one
    duplicates   fragments ignored because they were there already
    """

    __slots__ = (
        "_clock",
        "_make",
        "_memory_bytes_max",
        "_message_bytes_max",
        "_messages",
        "_messages_max",
        "completed",
        "conflicts",
        "duplicates",
        "evicted",
        "memory_bytes",
    )

    def __init__(
        self,
        message_bytes_max: int = 1 << 20,
        memory_bytes_max: int = 4 << 20,
        messages_max: int = 64,
        engine: str | Engine | None = None,
    ) -> None:
        if memory_bytes_max < message_bytes_max:
            raise ValueError(
                f"memory_bytes_max is {memory_bytes_max}, it must be at least message_bytes_max, {message_bytes_max}"
            )
        if messages_max < 1:
            raise ValueError(f"messages_max is {messages_max}, it must be at least 1")
        self._message_bytes_max = message_bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._messages_max = messages_max
        self._make = select_engine(engine).reassembly
        self._messages: dict[int, tuple[int, int, int, Reassembly]] = {}
        self._clock = 0
        self.memory_bytes = 0
        self.completed = self.evicted = self.conflicts = self.duplicates = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, sequence: int, index: int, count: int, message_bytes: int, fragment: Buffer) -> bytes | None:
        """Take a fragment as `parse_packet` gives it; return the message once it is whole.

        Raises DecodeError for a message over the limit and for a fragment of the wrong size.
        """
        known = self._messages.get(sequence)
        if known is None:
            return self._begin(sequence, index, count, message_bytes, fragment)
        if known[:2] != (count, message_bytes):
            self.conflicts += 1
            self._drop(sequence)
            return None
        missing = known[3].place(index, fragment)
        if missing < 0:
            self.duplicates += 1
        if missing:
            return None
        self._drop(sequence)
        self.completed += 1
        return known[3].take()

    def tick(self, age_ticks_max: int) -> int:
        """Let the table's clock go on by one, and drop what was begun more than `age_ticks_max` ticks ago;
        return how many messages that were."""
        self._clock += 1
        before = self.evicted
        while self._messages and self._clock - self._oldest()[2] > age_ticks_max:
            self._evict()
        return self.evicted - before

    def _begin(self, sequence: int, index: int, count: int, message_bytes: int, fragment: Buffer) -> bytes | None:
        if message_bytes > self._message_bytes_max:
            raise errors.message_too_large(message_bytes, self._message_bytes_max)
        message = self._make(count, message_bytes)
        if message.place(index, fragment) == 0:
            self.completed += 1
            return message.take()
        while len(self._messages) == self._messages_max or self.memory_bytes + message_bytes > self._memory_bytes_max:
            self._evict()
        self._messages[sequence] = (count, message_bytes, self._clock, message)
        self.memory_bytes += message_bytes
        return None

    def _oldest(self) -> tuple[int, int, int, Reassembly]:
        return next(iter(self._messages.values()))

    def _evict(self) -> None:
        self._drop(next(iter(self._messages)))
        self.evicted += 1

    def _drop(self, sequence: int) -> None:
        self.memory_bytes -= self._messages.pop(sequence)[1]
