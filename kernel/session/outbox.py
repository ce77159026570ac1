"""What a KNL/1 session has to send: control frames first, then streams in turn, each within its credit.

Messages are queued as they are; frames are made only when the link asks (`take`), so a ping overtakes what waits here.
A run of messages that fit is packed by the engine in one call. A message longer than a frame is cut into frames whose
payloads are views of it: it is never copied here. Nor is a slice of a file: it goes to the connection as it is, behind
its header (only where payloads have no checksums: nobody here reads it).

Credit (docs/protocol.md): a DATA frame costs its payload and its header, so that empty messages are not free; a message
counts as much in `Stream.outgoing_bytes`. A stream with something to send is in `_ready`, or waits for credit: its own
(nowhere, `credit` puts it back) or the connection's (`_starved`). FIN is free, there is one a stream.

A long message is unfinished at the receiver for as long as it is being sent, and the receiver has a limit for all of
them together: one that does not fit waits (`_crowded`) until others are through. Those that are longer than the
receiver puts together do not count: only a service that takes pieces wants them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

from kernel.api import Buffer
from kernel.errors import Code
from kernel.framing import knl
from kernel.framing.interface import Engine
from kernel.session.account import NOTHING, Account
from kernel.session.base import Event, Stream, Writable, rest_after_piece
from kernel.session.handshake import Hello
from kernel.slices import FileSlice

# From this size on a payload goes by reference behind its header; below, a copy is cheaper than one more buffer.
_REFERENCE_BYTES_MIN = 8192
# Streams that compete take turns of about this size.
_TURN_BYTES = 64 * 1024
_LENGTH_BYTES = 8
# As much as a lane can count to.
_COUNTED_BYTES_MAX = 2**63 - 1
_HEAD = struct.Struct(">BBHII")
_RESET_OK = Code.OK.to_bytes(2, "big")
# Every receiver takes frames of this size, whatever it announces.
CONTROL_BYTES_MAX = 1024


@dataclass(slots=True)
class _Part:
    """A message, or a piece of one, that is sent as several frames; `view` is what is left of it."""

    view: memoryview | FileSlice
    begin_bytes: int | None
    more: bool


class SendState:
    """What the outbox keeps for a stream.

    Invariants: `cut` comes before everything in `stream.outgoing`; `plain` says that outgoing holds nothing but
    messages that fit a frame; `queued` says that the stream is in one of the outbox's queues.
    """

    __slots__ = ("cut", "fin_due", "plain", "queued", "release_due")

    def __init__(self) -> None:
        self.cut: _Part | None = None
        self.fin_due = False
        self.release_due = False
        self.plain = True
        self.queued = False


class Outbox:
    """The sending half of a session.

    Args:
        account: the connection's.

    Attributes:
        events: the session's list of what sending brings about.
        over: streams both of whose directions ended by what `take` gave out; the session empties it.
        has_more: the last `take` left something that could be sent.
        control_bytes: control frames that wait.
    """

    def __init__(self, engine: Engine, events: list[Event], account: Account) -> None:
        self.events = events
        self._account = account
        self.over: list[Stream] = []
        self.has_more = False
        self._engine = engine
        self._flags = 0
        self._control: list[bytes] = []
        self.control_bytes = 0
        self._ready: deque[Stream] = deque()
        # Lists and no deques: an empty one costs a tenth, and every connection has them.
        self._starved: list[Stream] = []
        self._crowded: list[Stream] = []
        self._frame_bytes_max = 0
        self._message_bytes_max = 0
        self._assembly_bytes_max = 0
        self._ended = False

    def configure(self, peer: Hello, frame_bytes_max: int, *, checksums: bool) -> None:
        """What the peer takes; `frame_bytes_max` is what both sides allow."""
        self._frame_bytes_max = frame_bytes_max
        self._account.send_credit_bytes = peer.connection_credit_bytes
        self._message_bytes_max = peer.message_bytes_max
        self._assembly_bytes_max = peer.assembly_bytes_max
        self._flags = knl.CHECKSUM if checksums else 0

    # --- for a lane --------------------------------------------------------------------------------------------

    @property
    def terms(self) -> tuple[int, int, int, int]:
        """The flags of what we send, the longest frame, the longest message that the peer puts together, and all such
        messages."""
        message_bytes_max = min(self._message_bytes_max, _COUNTED_BYTES_MAX)
        return self._flags, self._frame_bytes_max, message_bytes_max, min(self._assembly_bytes_max, _COUNTED_BYTES_MAX)

    @property
    def at_rest(self) -> bool:
        """Nothing waits to be sent but what lacks its own stream's credit."""
        return not (self._control or self._ready or self._starved or self._crowded or self.over)

    def is_idle(self, stream: Stream) -> bool:
        """The stream has nothing to send."""
        state: SendState = stream.state.send
        return not (stream.outgoing or state.cut or state.fin_due)

    # --- queueing ----------------------------------------------------------------------------------------------

    def control(self, frame_type: int, channel: int, payload: bytes) -> None:
        """Queue a control frame; it goes before all DATA that was not taken yet."""
        if not self._ended:
            frame = self._engine.encode_knl(frame_type, knl.CHECKSUM, channel, [payload], CONTROL_BYTES_MAX)
            self._control.append(frame)
            self.control_bytes += len(frame)

    @property
    def takes_files(self) -> bool:
        """Whether `file` can be called: no payload is to be checksummed."""
        return not self._flags & knl.CHECKSUM

    def raw(self, data: bytes) -> None:
        """Queue bytes that are no frame: the preface."""
        self._control.append(data)

    def message(self, stream: Stream, message: Buffer) -> None:
        size = len(message)
        stream.queue().append(message)
        stream.outgoing_bytes += knl.HEADER_BYTES + size
        if size > self._frame_bytes_max:
            stream.state.send.plain = False
        self._wake(stream)

    def messages(self, stream: Stream, messages: list[bytes]) -> None:
        stream.queue().extend(messages)
        total_bytes, longest_bytes = self._engine.measure(messages)
        stream.outgoing_bytes += total_bytes + knl.HEADER_BYTES * len(messages)
        if longest_bytes > self._frame_bytes_max:
            stream.state.send.plain = False
        self._wake(stream)

    def file(self, stream: Stream, part: FileSlice) -> None:
        """Queue a message whose bytes are in a file."""
        stream.queue().append(part)
        stream.outgoing_bytes += knl.HEADER_BYTES + len(part)
        stream.state.send.plain = False
        self._wake(stream)

    def piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        """Queue a part of one long message.

        Raises:
            UsageError: the pieces do not add up to `message_bytes`.
        """
        state: SendState = stream.state.send
        account = stream.account
        begin = account.sending_rest_bytes == NOTHING
        rest = rest_after_piece(None if begin else account.sending_rest_bytes, len(piece), message_bytes, last)
        if begin and last and message_bytes <= self._frame_bytes_max:
            self.message(stream, piece)
            return
        account.sending_rest_bytes = NOTHING if last else rest
        state.plain = False
        stream.queue().append(_Part(memoryview(piece).cast("B"), message_bytes if begin else None, not last))
        stream.outgoing_bytes += knl.HEADER_BYTES + len(piece)
        self._wake(stream)

    def finish(self, stream: Stream, *, release: bool = False) -> None:
        """Send FIN after what is queued; with `release` RESET(OK) behind it, unless the peer has finished too."""
        stream.state.send.fin_due = True
        stream.state.send.release_due = release
        self._wake(stream)

    def drop(self, stream: Stream) -> None:
        """Forget the stream, with what it has queued."""
        state: SendState = stream.state.send
        stream.outgoing = None
        stream.outgoing_bytes = 0
        stream.wants_writable = False
        state.cut = None
        state.fin_due = False
        if state.queued:
            state.queued = False
            queues: tuple[MutableSequence[Stream], ...] = (self._ready, self._starved, self._crowded)
            next(queue for queue in queues if stream in queue).remove(stream)
        self._end_long(stream)

    def end(self) -> None:
        """The session is over: the control frames that are queued are the last."""
        self._ended = True

    def credit(self, stream: Stream | None, nbytes: int) -> int:
        """The peer can take more: on the stream, or on the connection (None). Returns the new credit."""
        if stream is None:
            self._account.send_credit_bytes += nbytes
            self._ready.extendleft(reversed(self._starved))  # they have waited longest
            self._starved.clear()
            return self._account.send_credit_bytes
        state: SendState = stream.state.send
        account: Account = stream.account
        account.send_credit_bytes += nbytes
        if stream.outgoing or state.cut or state.fin_due:
            self._wake(stream)
        return account.send_credit_bytes

    def _wake(self, stream: Stream) -> None:
        if not stream.state.send.queued:
            stream.state.send.queued = True
            self._ready.append(stream)

    # --- taking ------------------------------------------------------------------------------------------------

    def take(self, bytes_max: int) -> list[Buffer]:
        """Buffers to write, in order: all control frames, then DATA up to about `bytes_max`."""
        buffers: list[Buffer] = []
        if self._control:
            buffers.append(self._control[0] if len(self._control) == 1 else b"".join(self._control))
            self._control.clear()
            self.control_bytes = 0
        while self._ready and bytes_max > 0:
            stream = self._ready.popleft()
            turn = min(bytes_max, _TURN_BYTES) if self._ready else bytes_max
            bytes_max -= self._take_turn(stream, turn, buffers)
        self.has_more = bool(self._ready)
        return buffers

    def _take_turn(self, stream: Stream, bytes_max: int, buffers: list[Buffer]) -> int:
        state: SendState = stream.state.send
        account, connection = stream.account, self._account
        credit = min(account.send_credit_bytes, connection.send_credit_bytes)
        cost = stream.outgoing_bytes
        if state.plain and cost <= credit and cost <= bytes_max:
            if cost:
                buffers.append(self._pack(stream, stream.outgoing))
                stream.outgoing.clear()
        else:
            cost = self._take_some(stream, bytes_max, credit, buffers)
        account.send_credit_bytes -= cost
        connection.send_credit_bytes -= cost
        state.queued = False
        if stream.outgoing or state.cut:
            self._wait(stream)
        else:
            self._emptied(stream, buffers)
        return cost

    def _take_some(self, stream: Stream, bytes_max: int, credit: int, buffers: list[Buffer]) -> int:
        """Frame by frame, while the turn lasts (at least one frame) and the credit suffices (never more)."""
        spent = 0
        small: list[Buffer] = []
        while (stream.outgoing or stream.state.send.cut) and spent < bytes_max:
            if self._next_cost(stream) > credit - spent or self._is_crowded(stream):
                break
            part = self._next_part(stream)
            if part is not None:
                self._flush_small(stream, small, buffers)
                spent += self._cut_frame(stream, part, credit - spent, buffers)
                continue
            message = stream.outgoing.popleft()
            cost = knl.HEADER_BYTES + len(message)
            stream.outgoing_bytes -= cost
            spent += cost
            if isinstance(message, FileSlice):
                self._flush_small(stream, small, buffers)
                self._add_file(self._flags, stream.channel, b"", message, buffers)
            elif len(message) < _REFERENCE_BYTES_MIN:
                small.append(message)
            else:
                self._flush_small(stream, small, buffers)
                buffers += (self._engine.knl_header(knl.DATA, self._flags, stream.channel, message), message)
        self._flush_small(stream, small, buffers)
        return spent

    def _next_part(self, stream: Stream) -> _Part | None:
        """The message to cut, if the next one is long; it moves from `outgoing` to `cut`."""
        state: SendState = stream.state.send
        if state.cut is None:
            head = stream.outgoing[0]
            if isinstance(head, _Part):
                state.cut = head
            elif len(head) > self._frame_bytes_max:
                view = head if isinstance(head, FileSlice) else memoryview(head).cast("B")
                state.cut = _Part(view, len(head), more=False)
            else:
                return None
            nbytes = self._counted_bytes(head)
            stream.account.unfinished_bytes += nbytes
            self._account.unfinished_bytes += nbytes
            stream.outgoing.popleft()
            stream.outgoing_bytes -= knl.HEADER_BYTES
        return state.cut

    def _is_crowded(self, stream: Stream) -> bool:
        """The message to begin next does not fit beside those that are unfinished."""
        if not self._account.unfinished_bytes or stream.state.send.cut is not None:
            return False
        nbytes = self._counted_bytes(stream.outgoing[0])
        return nbytes > 0 and nbytes > self._assembly_bytes_max - self._account.unfinished_bytes

    def _counted_bytes(self, head: Any) -> int:
        """What a message that begins counts among the unfinished ones."""
        nbytes: int
        if isinstance(head, _Part):
            nbytes = head.begin_bytes or 0
        else:
            nbytes = len(head) if len(head) > self._frame_bytes_max else 0
        return nbytes if nbytes <= self._message_bytes_max else 0

    def _end_long(self, stream: Stream) -> None:
        """A long message is through, or given up: there is room for others."""
        if stream.account.unfinished_bytes:
            self._account.unfinished_bytes -= stream.account.unfinished_bytes
            stream.account.unfinished_bytes = 0
            self._ready.extend(self._crowded)
            self._crowded.clear()

    def _next_cost(self, stream: Stream) -> int:
        """The least credit with which the stream can send its next frame."""
        cut = stream.state.send.cut
        if cut is None:
            head = stream.outgoing[0]
            if not isinstance(head, _Part) and len(head) <= self._frame_bytes_max:
                return knl.HEADER_BYTES + len(head)
        return knl.HEADER_BYTES + _LENGTH_BYTES + 1

    def _cut_frame(self, stream: Stream, part: _Part, credit: int, buffers: list[Buffer]) -> int:
        """One frame of a long message, as long as the frame limit and the credit allow."""
        flags, prefix = self._flags, b""
        if part.begin_bytes is not None:
            flags |= knl.BEGIN
            prefix = part.begin_bytes.to_bytes(_LENGTH_BYTES, "big")
            part.begin_bytes = None
        room = min(self._frame_bytes_max, credit - knl.HEADER_BYTES) - len(prefix)
        payload, part.view = part.view[:room], part.view[room:]
        stream.outgoing_bytes -= len(payload)
        if part.view or part.more:
            flags |= knl.MORE
        if not part.view:
            stream.state.send.cut = None
            if not part.more:
                self._end_long(stream)
        if isinstance(payload, FileSlice):
            self._add_file(flags, stream.channel, prefix, payload, buffers)
        elif prefix:
            buffers.append(
                self._engine.encode_knl(knl.DATA, flags, stream.channel, [prefix + payload], self._frame_bytes_max)
            )
        else:
            buffers += (self._engine.knl_header(knl.DATA, flags, stream.channel, payload), payload)
        return knl.HEADER_BYTES + len(prefix) + len(payload)

    def _add_file(self, flags: int, channel: int, prefix: bytes, part: FileSlice, buffers: list[Any]) -> None:
        """A frame most of whose payload nobody here will see: its header, and what is in the file."""
        head = _HEAD.pack(knl.VERSION, knl.DATA, flags, channel, len(prefix) + len(part))
        buffers += (head + self._engine.crc32(head).to_bytes(4, "big") + prefix, part)

    def _flush_small(self, stream: Stream, small: list[Buffer], buffers: list[Buffer]) -> None:
        if small:
            buffers.append(self._pack(stream, small))
            small.clear()

    def _pack(self, stream: Stream, messages: Sequence[Buffer]) -> bytes:
        return self._engine.encode_knl(knl.DATA, self._flags, stream.channel, messages, self._frame_bytes_max)

    def _wait(self, stream: Stream) -> None:
        """Something is left: line up for the next turn, or wait for whichever credit is short."""
        state: SendState = stream.state.send
        cost = self._next_cost(stream)
        if stream.account.send_credit_bytes < cost:
            return
        state.queued = True
        if self._account.send_credit_bytes < cost:
            self._starved.append(stream)
        else:
            (self._crowded if self._is_crowded(stream) else self._ready).append(stream)

    def _emptied(self, stream: Stream, buffers: list[Buffer]) -> None:
        """Nothing is left: tell whoever waits for that, and finish if that was asked for."""
        state: SendState = stream.state.send
        stream.outgoing_bytes = 0
        state.plain = True
        if stream.wants_writable:
            stream.wants_writable = False
            self.events.append(Writable(stream))
        if state.fin_due:
            state.fin_due = False
            buffers.append(self._engine.encode_knl(knl.DATA, knl.FIN, stream.channel, [b""], 0))
            stream.local_open = False
            if stream.remote_open and state.release_due:
                buffers.append(self._engine.encode_knl(knl.RESET, knl.CHECKSUM, stream.channel, [_RESET_OK], 2))
                stream.remote_open = False
            if not stream.remote_open:
                self.over.append(stream)
