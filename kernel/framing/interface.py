"""What an engine offers, and what every decoder does.

A decoder has exactly three outcomes: whole frames, more bytes needed, or corrupt. Bytes go in as they
arrived, cut anywhere; frames come out whole and in order, the same ones wherever the bytes were cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, overload

from kernel.framing.errors import DecodeError
from kernel.framing.layout import Knl, Layout, Length

Buffer = bytes | bytearray | memoryview
"""Bytes in a row: what a memoryview shows are single bytes, without gaps."""
Run = tuple[int, int, int, list[bytes], int]
"""Frames that came one after the other and share their header's meaning: (type, flags, channel, payloads,
the sum of their bytes). Where a run ends depends on how the bytes were cut; the frames in it don't."""
Packet = tuple[int, int, int, int, int, int, bytes]
"""(kind, connection, sequence, fragment index, fragment count, message bytes, fragment)"""

DIRECT_BYTES_MIN = 65536
"""Least rest of a frame for which a decoder lends the frame's own buffer."""

Frame = TypeVar("Frame")


class Decoder(Protocol[Frame]):
    """Bytes in, whole frames out. A frame's limit is checked as soon as its header is there.

    Either feed it what was received, or, while it lends its own buffer, receive into that and say how much
    came. A decoder belongs to one thread at a time.
    """

    @property
    def error(self) -> DecodeError | None:
        """Why the stream is corrupt; None while it isn't. Final: whatever is fed later raises it."""

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame that have arrived; 0 between two frames."""

    def feed(self, data: Buffer) -> list[Frame]:
        """Take what was received; return the frames it completes. `data` is not kept.

        Corrupt bytes don't raise here: the frames before them are returned, and `error` is set. Raises
        `error` where it was set before.
        """

    def wanted(self) -> memoryview | None:
        """The buffer of the large frame that is being received: where its next bytes belong.

        None: receive wherever you like, and feed. The view is good for one `filled`; it is released by
        `filled` and by `feed`, unless somebody still exports it. Its bytes are not to be written after
        that.
        """

    def filled(self, nbytes: int) -> list[Frame]:
        """`nbytes` were received into the start of the view that `wanted` gave last. As `feed` otherwise."""

    def finish(self) -> list[Frame]:
        """The stream has ended. Returns what counts as a frame because of that; sets `error` if one is cut
        off."""


class FrameDecoder(Decoder[Frame], Protocol[Frame]):
    """A decoder whose limit can be moved, as when a peer has authenticated itself."""

    frame_bytes_max: int
    """Most bytes of a frame's body, for frames whose header is still to come. Raises ValueError out of range."""


class Assembler(Protocol):
    """One message out of many payloads, in a buffer reserved for it as its bytes arrive."""

    @property
    def missing_bytes(self) -> int:
        """Bytes of the message that haven't arrived."""

    def add(self, payload: Buffer) -> bytes | None:
        """Append a payload; return the message once it is whole. Raises DecodeError when there is more of
        it than announced; the assembler is of no use then."""


class Reassembly(Protocol):
    """One message out of fragments that come in any order."""

    def place(self, index: int, fragment: Buffer) -> int:
        """Take a fragment; return how many are missing, or -1 if this one was there already. Raises
        DecodeError unless the fragment has the size that its index asks for."""

    def take(self) -> bytes:
        """The message, once none is missing."""


class EncodeKnl(Protocol):
    def __call__(
        self, kind: int, flags: int, channel: int, payloads: Sequence[Buffer], /, frame_bytes_max: int = ...
    ) -> bytes: ...


class Crc32(Protocol):
    def __call__(self, data: Buffer, value: int = ..., /) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of all of framing. The functions mean the same in each engine."""

    name: str
    length_decoder: Callable[[Length, int], FrameDecoder[bytes]]
    knl_decoder: Callable[[Knl, int], FrameDecoder[Run]]
    length_header: Callable[[Length, int], bytes]
    encode_length: Callable[[Length, Sequence[Buffer]], bytes]
    knl_header: Callable[[int, int, int, Buffer], bytes]
    encode_knl: EncodeKnl
    measure: Callable[[Sequence[Buffer]], tuple[int, int]]
    """The sum of the sizes of some messages, and the longest one's size."""
    crc32: Crc32
    assembler: Callable[[int, int], Assembler]
    parse_packet: Callable[[Buffer], Packet]
    pack_fragments: Callable[[int, int, int, Buffer, int], list[bytes]]
    reassembly: Callable[[int, int], Reassembly]

    @overload
    def decoder(self, layout: Length, direct_bytes_min: int = ...) -> FrameDecoder[bytes]: ...
    @overload
    def decoder(self, layout: Knl, direct_bytes_min: int = ...) -> FrameDecoder[Run]: ...
    def decoder(
        self, layout: Layout, direct_bytes_min: int = DIRECT_BYTES_MIN
    ) -> FrameDecoder[bytes] | FrameDecoder[Run]:
        """A decoder at the start of a stream. It lends its own buffer (`wanted`) for a frame of which at
        least `direct_bytes_min` bytes are missing."""
        if isinstance(layout, Knl):
            return self.knl_decoder(layout, direct_bytes_min)
        return self.length_decoder(layout, direct_bytes_min)
