"""A channel as both sides of a transfer use it: messages, and behind a `Block` the bytes of that block.

Strict: a block's bytes are exactly one message of the announced length, whatever pieces it comes in. Whoever sends
anything else has lost his place, and nothing that follows can be trusted: the channel ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar, cast, overload

from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code

from . import messages
from .errors import FileError, from_peer
from .messages import MESSAGE_BYTES_MAX, Message

L = TypeVar("L")
M = TypeVar("M")
N = TypeVar("N")


class Abandoned(FileError):
    """The sender has stopped in the middle, and says why."""


class Wire:
    """One channel, opened for pieces.

    Attributes:
        waiting: for the peer to send something.
        pieces: how many it has sent.
        talking: in the middle of what we have to say, which may take us any time.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.waiting = False
        self.pieces = 0
        self.talking = False

    def send(self, message: Message) -> None:
        """Queue a message; `channel.drain` waits for room."""
        self.channel.send(messages.encode(message))

    async def receive(self) -> Message | None:
        """The next message; None when the peer has finished.

        Raises:
            FileError: it is none.
            ChannelClosed: the channel is over.
        """
        parts: list[bytes] = []
        while (item := await self._piece()) is not None:
            piece, message_bytes, last = item
            if message_bytes > MESSAGE_BYTES_MAX:
                raise FileError("protocol", f"a message of {message_bytes} bytes, the limit is {MESSAGE_BYTES_MAX}")
            parts.append(piece)
            if last:
                return messages.decode(parts[0] if len(parts) == 1 else b"".join(parts))
        return None

    @overload
    async def expect(self, kind: type[M], /) -> M: ...
    @overload
    async def expect(self, kind: type[M], other: type[N], /) -> M | N: ...
    @overload
    async def expect(self, kind: type[M], other: type[N], third: type[L], /) -> M | N | L: ...
    async def expect(self, *kinds: type) -> Any:
        """The next message, which must be one of these; a `Failed` is raised.

        Raises:
            FileError: the peer could not do it, or says something else.
            ChannelClosed: the channel is over.
        """
        message = await self.receive()
        if message is None:
            raise ChannelClosed(Code.LOST, "the peer ended the channel in the middle")
        if isinstance(message, kinds):
            return message
        if isinstance(message, messages.Failed):
            raise from_peer(message.kind, message.text)
        if isinstance(message, messages.Abandon):
            told = from_peer(message.kind, message.text)
            raise Abandoned(told.kind, str(told))
        raise FileError("protocol", f"the peer sent {type(message).__name__} where it makes no sense")

    async def _piece(self) -> tuple[bytes, int, bool] | None:
        self.waiting = True
        try:
            piece = await self.channel.receive()
        finally:
            self.waiting = False
        self.pieces += 1
        return cast("tuple[bytes, int, bool] | None", piece)

    @contextlib.contextmanager
    def talks(self) -> Iterator[None]:
        """For the length of the `with`, it is us who have something to say."""
        self.talking = True
        try:
            yield
        finally:
            self.talking = False

    async def block(self, nbytes: int) -> list[bytes]:
        """The bytes behind a `Block`, in the parts in which they came."""
        parts: list[bytes] = []
        while (item := await self._piece()) is not None:
            piece, message_bytes, last = item
            if message_bytes != nbytes:
                raise FileError("protocol", f"a block of {message_bytes} bytes where {nbytes} were announced")
            parts.append(piece)
            if last:
                return parts
        raise ChannelClosed(Code.LOST, "the peer ended the channel inside a block")
