"""The echo service: what a peer sends comes back, in one of five manners.

Each mode is a small handler, chosen once when the service is made, so that the path of a message has no branches: mode
`verbatim` sends a whole read of messages back with one call, whatever their number. Messages longer than a frame are
answered piece by piece; none is ever whole in memory.

Invariant: what waits to be sent on a channel stays bounded. A peer that does not read its answers is not read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from kernel.api import ChannelHandler, Needs, Service, ServiceContext
from kernel.channel import Channel
from kernel.errors import OptionError
from kernel.limits import KIB, MIB
from kernel.options import Meta

from .delay import Delayed

_BATCH_BYTES = 64 * KIB
_BATCH_MESSAGES_MAX = 1024


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """What stands behind the `?` in `--plugin echo?mode=upper`."""

    mode: Annotated[
        Literal["verbatim", "upper", "greeting", "sink", "generate"],
        Meta(
            description="verbatim: as it came; upper: ASCII letters in upper case; greeting: `text` once, then close; "
            "sink: read and never answer; generate: send without being asked"
        ),
    ] = "verbatim"
    text: Annotated[str, Meta(description="the answer in mode greeting")] = "hi"
    delay_seconds: Annotated[float, Meta(ge=0, le=3600, description="answer so much later, in order")] = 0.0
    size_bytes: Annotated[int, Meta(ge=1, le=MIB, description="the size of each message in mode generate")] = 1024
    count: Annotated[int, Meta(ge=0, description="how many messages in mode generate, then finish; 0: no end")] = 0


class Echo(Service):
    """Sends back what it gets. See `EchoOptions` for its manners."""

    name = "echo"
    example = "kernel echo {endpoint} hello"
    Options = EchoOptions
    whole_messages: ClassVar[bool] = False

    def __init__(self, options: EchoOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._mode = _mode(options)
        if options.mode == "generate":
            self.needs = Needs(reliable=True)  # without flow control it would flood

    def handler(self) -> ChannelHandler:
        return self._mode


def _mode(options: EchoOptions) -> ChannelHandler:
    mode: ChannelHandler
    match options.mode:
        case "verbatim":
            mode = Verbatim()
        case "upper":
            mode = Upper()
        case "greeting":
            mode = Greeting(options.text.encode())
        case "sink":
            mode = ChannelHandler()
        case "generate":
            mode = Generate(options.size_bytes, options.count)
    if not options.delay_seconds:
        return mode
    if options.mode == "generate":
        raise OptionError("echo: option 'delay_seconds' delays answers, and mode=generate gives none: leave it out")
    return Delayed(mode, options.delay_seconds)


class Verbatim(ChannelHandler):
    """Sends back what it gets."""

    __slots__ = ()

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        channel.send_many(messages)

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        channel.send_piece(piece, message_bytes, last)


class Upper(ChannelHandler):
    """Sends back what it gets, the ASCII letters in upper case."""

    __slots__ = ()

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        channel.send_many([message.upper() for message in messages])

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        channel.send_piece(piece.upper(), message_bytes, last)


class Greeting(ChannelHandler):
    """Answers the first message, whatever it says, with a fixed text, and closes."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text = text

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        channel.send(self._text)
        channel.close()

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        self.on_messages(channel, [])


class Generate(ChannelHandler):
    """Sends messages as fast as the peer reads them, and ignores what comes."""

    __slots__ = ("_batch", "_count")

    def __init__(self, size_bytes: int, count: int) -> None:
        in_batch = min(max(_BATCH_BYTES // size_bytes, 1), _BATCH_MESSAGES_MAX)
        pattern = bytes(range(33, 127))
        self._batch = [(pattern * (size_bytes // len(pattern) + 1))[:size_bytes]] * in_batch
        self._count = count

    def opened(self, channel: Channel) -> None:
        channel.context = self._count
        self.on_writable(channel)

    def on_writable(self, channel: Channel) -> None:
        while not channel.full:
            batch = self._batch
            if self._count:
                batch = batch[: channel.context]
                channel.context -= len(batch)
                if not batch:
                    channel.finish()
                    return
            channel.send_many(batch)
