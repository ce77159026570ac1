"""The framings that a listener can ask for by name, `?framing=length&width=2`: what the entry points name.

A framing is a frozen dataclass. Its fields are its options, each of a plain type (int, str, bool, or None)
with a default and its help (`metadata={"help": ...}`), and are checked when it is made: ValueError says in one line
which of them is wrong. A plugin brings a framing of its own as a class of the same shape, under the entry point group
`kernel.framings`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from kernel.framing.engine import engine
from kernel.framing.interface import Buffer, Decoder, Engine, Run
from kernel.framing.layout import Knl, Length
from kernel.framing.plain import LineDecoder, RawDecoder, check_line, encode_lines

JOIN_BYTES_MAX = 16384
"""Longer messages are not copied into a common buffer: they go by themselves, after their header."""


Encoder = Callable[[Sequence[Buffer]], list[Buffer]]
Check = Callable[[Buffer], None]


class Framing(Protocol):
    """What the kernel needs to know of a framing."""

    name: ClassVar[str]
    api_version: ClassVar[int]
    """The version of this interface for which it was written; see `kernel.api.API_VERSION`."""
    channels: ClassVar[bool]
    """Whether its frames name a channel, as KNL's runs do. Without, a connection carries one service's
    messages."""
    keeps_messages: ClassVar[bool]
    """Whether what is sent as one message arrives as one, on a transport that knows bytes only."""

    def decoder(self) -> Decoder[Any]:
        """A decoder for one connection: of messages (bytes), or of runs where there are channels."""


class MessageFraming(Framing, Protocol):
    """A framing without channels: messages out, messages in."""

    def decoder(self) -> Decoder[bytes]: ...

    def encoder(self) -> Encoder:
        """What one connection encodes with: it makes the buffers to write for some messages, small ones joined, large
        ones by reference, and raises EncodeError for a message that the framing cannot carry. A framing may also have
        `checker()`, which makes what raises that for one message: then a client's `send` does, and not its connection's
        end."""


@dataclasses.dataclass(frozen=True, slots=True)
class KnlFraming(Knl):
    """Many channels in one connection: the kernel's own protocol, KNL/1."""

    name: ClassVar[str] = "knl"
    api_version: ClassVar[int] = 1
    channels: ClassVar[bool] = True
    keeps_messages: ClassVar[bool] = True

    def decoder(self) -> Decoder[Run]:
        return engine().decoder(self)


@dataclasses.dataclass(frozen=True, slots=True)
class LengthFraming(Length):
    """Messages after their length."""

    name: ClassVar[str] = "length"
    api_version: ClassVar[int] = 1
    channels: ClassVar[bool] = False
    keeps_messages: ClassVar[bool] = True

    def decoder(self) -> Decoder[bytes]:
        return engine().decoder(self)

    def encoder(self) -> Encoder:
        return _length_encoder(self, engine())

    def checker(self) -> Check:
        """Makes what raises EncodeError for a message whose length cannot be said."""
        low = self.offset + max(0, self.adjust)
        high = self.offset + min(self.frame_bytes_max, self.field_max + self.adjust)

        def check(message: Buffer) -> None:
            if not low <= len(message) <= high:
                engine().length_header(self, len(message))  # says what is wrong

        return check


@functools.lru_cache(maxsize=64)
def _length_encoder(layout: Length, engine: Engine) -> Encoder:
    """It keeps nothing of a connection, so that those of one listener share it."""

    def by_reference(message: Buffer) -> list[Buffer]:
        view = memoryview(message).cast("B")
        field = engine.length_header(layout, len(view))
        return [bytes(view[: layout.offset]) + field, view[layout.offset :]]

    return gathering(functools.partial(engine.encode_length, layout), by_reference)


@dataclasses.dataclass(frozen=True, slots=True)
class RawFraming:
    """No framing: each read is a message."""

    name: ClassVar[str] = "raw"
    api_version: ClassVar[int] = 1
    channels: ClassVar[bool] = False
    keeps_messages: ClassVar[bool] = False

    def decoder(self) -> Decoder[bytes]:
        return RawDecoder()

    def encoder(self) -> Encoder:
        return gathering(b"".join, lambda message: [message])


@dataclasses.dataclass(frozen=True, slots=True)
class LineFraming:
    """Lines."""

    name: ClassVar[str] = "line"
    api_version: ClassVar[int] = 1
    channels: ClassVar[bool] = False
    keeps_messages: ClassVar[bool] = True
    line_bytes_max: int = dataclasses.field(default=65536, metadata={"help": "longest line, its end not counted"})
    delimiter: str = dataclasses.field(
        default="\n", metadata={"help": "what ends a line; unless given, also a carriage return before it"}
    )

    def __post_init__(self) -> None:
        self.decoder()

    def decoder(self) -> Decoder[bytes]:
        return LineDecoder(self.line_bytes_max, self.delimiter.encode())

    def encoder(self) -> Encoder:
        delimiter = self.delimiter.encode()
        return lambda messages: [encode_lines(messages, delimiter)]

    def checker(self) -> Check:
        """Makes what raises EncodeError for a message that is no line."""
        delimiter = self.delimiter.encode()
        return lambda message: check_line(message, delimiter)


def gathering(join: Callable[[Sequence[Buffer]], bytes], by_reference: Callable[[Buffer], list[Buffer]]) -> Encoder:
    """An encoder that joins runs of short messages to one buffer, and leaves long ones where they are."""

    measure = engine().measure

    def encode(messages: Sequence[Buffer]) -> list[Buffer]:
        if measure(messages)[1] <= JOIN_BYTES_MAX:
            return [join(messages)]
        buffers: list[Buffer] = []
        for is_long, group in itertools.groupby(messages, lambda message: len(message) > JOIN_BYTES_MAX):
            if is_long:
                buffers.extend(itertools.chain.from_iterable(map(by_reference, group)))
            else:
                buffers.append(join(list(group)))
        return buffers

    return encode
