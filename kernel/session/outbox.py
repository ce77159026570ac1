"""What a KNL/1 session has to send: control frames first, then streams in turn, each within its credit.

Messages are queued as they are; frames are made only when the link asks (`take`), so a ping overtakes what waits here.
A run of messages that fit is packed by the engine in one call. A message longer than a frame is cut into frames whose
payloads are views of it: it is never copied here.

Credit (docs/protocol.md): a DATA frame costs its payload and its header, so that empty messages are not free. A stream
with something to send is in `_ready`, or waits for credit: its own (nowhere, `credit` puts it back) or the connection's
(`_starved`). FIN is free, there is one a stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kernel.api import Buffer
from kernel.errors import Code, UsageError
from kernel.framing import knl
from kernel.framing.interface import Engine
from kernel.session.base import Closed, Event, Stream, Writable

# From this size on a payload goes by reference behind its header; below, a copy is cheaper than one more buffer.
_REFERENCE_BYTES_MIN = 8192
# Streams that compete take turns of about this size.
_TURN_BYTES = 64 * 1024
_LENGTH_BYTES = 8
RESET_OK = Code.OK.to_bytes(2, "big")
_CONTROL_BYTES_MAX = 16 * 1024


@dataclass(slots=True)
class _Part:
    """A message, or a piece of one, that is sent as several frames; `view` is what is left of it."""

    view: memoryview
    begin_bytes: int | None
    more: bool


class SendState:
    """What the outbox keeps for a stream.

    Invariant: `cut` comes before everything in `stream.outgoing`; `plain` says that outgoing holds nothing but
    messages that fit a frame.
    """

    __slots__ = ("credit_bytes", "cut", "fin_due", "piece_rest_bytes", "plain", "queued", "release_due")

    def __init__(self, credit_bytes: int) -> None:
        self.credit_bytes = credit_bytes
        self.cut: _Part | None = None
        self.fin_due = False
        self.release_due = False
        self.piece_rest_bytes: int | None = None
        self.plain = True
        self.queued = False


class Outbox:
    """The sending half of a session. `events` is the session's list: what sending brings about.
    `has_more`: the last `take` left something that could be sent. `control_bytes`: control frames that wait."""

    def __init__(self, engine: Engine, events: list[Event]) -> None:
        self.events = events
        self.has_more = False
        self._engine = engine
        self._flags = 0
        self._control: list[bytes] = []
        self.control_bytes = 0
        self._ready: deque[Stream] = deque()
        self._starved: deque[Stream] = deque()
        self._credit_bytes = 0
        self._frame_bytes_max = 0

    def configure(self, frame_bytes_max: int, credit_bytes: int, *, checksums: bool) -> None:
        """What the peer's HELLO allows."""
        self._frame_bytes_max = frame_bytes_max
        self._credit_bytes = credit_bytes
        self._flags = knl.CHECKSUM if checksums else 0

    # --- queueing ----------------------------------------------------------------------------------------------

    def control(self, frame_type: int, channel: int, payload: bytes, flags: int = 0) -> bytes:
        """Queue a control frame; it goes before all DATA that was not taken yet."""
        frame = self._engine.encode_knl(frame_type, flags | knl.CHECKSUM, channel, [payload], _CONTROL_BYTES_MAX)
        self._control.append(frame)
        self.control_bytes += len(frame)
        return frame

    def raw(self, data: bytes) -> None:
        """Queue bytes that are no frame: the preface."""
        self._control.append(data)

    def message(self, stream: Stream, message: Buffer) -> None:
        size = len(message)
        stream.outgoing.append(message)
        stream.outgoing_bytes += size
        if size > self._frame_bytes_max:
            stream.state.send.plain = False
        self._wake(stream)

    def messages(self, stream: Stream, messages: list[bytes]) -> None:
        stream.outgoing.extend(messages)
        total_bytes, longest_bytes = self._engine.measure(messages)
        stream.outgoing_bytes += total_bytes
        if longest_bytes > self._frame_bytes_max:
            stream.state.send.plain = False
        self._wake(stream)

    def piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        """Queue a part of one long message.

        Raises:
            UsageError: the pieces do not add up to `message_bytes`.
        """
        state: SendState = stream.state.send
        begin = state.piece_rest_bytes is None
        rest = (message_bytes if state.piece_rest_bytes is None else state.piece_rest_bytes) - len(piece)
        if rest < 0 or last != (rest == 0):
            raise UsageError(
                f"the pieces of a message of {message_bytes} bytes must add up to it, and the last one says so: "
                f"{rest} bytes are left after this piece, and last is {last}"
            )
        if begin and last and message_bytes <= self._frame_bytes_max:
            self.message(stream, piece)
            return
        state.piece_rest_bytes = None if last else rest
        state.plain = False
        stream.outgoing.append(_Part(memoryview(piece).cast("B"), message_bytes if begin else None, not last))
        stream.outgoing_bytes += len(piece)
        self._wake(stream)

    def finish(self, stream: Stream, *, release: bool = False) -> None:
        """Send FIN after what is queued; with `release` RESET(OK) behind it, unless the peer has finished too."""
        stream.state.send.fin_due = True
        stream.state.send.release_due = release
        self._wake(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what the stream has queued."""
        stream.outgoing.clear()
        stream.outgoing_bytes = 0
        stream.state.send.cut = None
        stream.state.send.fin_due = False

    def drop_all(self) -> None:
        """The session is ending: only control frames still matter."""
        self._ready.clear()
        self._starved.clear()

    def credit(self, stream: Stream | None, nbytes: int) -> int:
        """The peer can take more: on the stream, or on the connection (None). Returns the new credit."""
        if stream is None:
            self._credit_bytes += nbytes
            self._ready.extend(self._starved)
            self._starved.clear()
            return self._credit_bytes
        state: SendState = stream.state.send
        state.credit_bytes += nbytes
        if stream.outgoing or state.cut or state.fin_due:
            self._wake(stream)
        return state.credit_bytes

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
        credit = min(state.credit_bytes, self._credit_bytes)
        cost = stream.outgoing_bytes + knl.HEADER_BYTES * len(stream.outgoing)
        if state.plain and cost <= credit and cost <= bytes_max:
            if cost:
                buffers.append(self._pack(stream, stream.outgoing))
                stream.outgoing.clear()
        else:
            cost = self._take_some(stream, bytes_max, credit, buffers)
        state.credit_bytes -= cost
        self._credit_bytes -= cost
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
            if self._next_cost(stream) > credit - spent:
                break
            part = self._next_part(stream)
            if part is not None:
                self._flush_small(stream, small, buffers)
                spent += self._cut_frame(stream, part, credit - spent, buffers)
                continue
            message = stream.outgoing.popleft()
            stream.outgoing_bytes -= len(message)
            spent += knl.HEADER_BYTES + len(message)
            if len(message) < _REFERENCE_BYTES_MIN:
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
                state.cut = _Part(memoryview(head).cast("B"), len(head), more=False)
            else:
                return None
            stream.outgoing.popleft()
        return state.cut

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
        if prefix:
            buffers.append(
                self._engine.encode_knl(knl.DATA, flags, stream.channel, [prefix + payload], self._frame_bytes_max)
            )
        else:
            buffers += (self._engine.knl_header(knl.DATA, flags, stream.channel, payload), payload)
        return knl.HEADER_BYTES + len(prefix) + len(payload)

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
        if state.credit_bytes < cost:
            return
        state.queued = True
        (self._ready if self._credit_bytes >= cost else self._starved).append(stream)

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
                buffers.append(self._engine.encode_knl(knl.RESET, knl.CHECKSUM, stream.channel, [RESET_OK], 2))
                stream.remote_open = False
            if not stream.remote_open:
                self.events.append(Closed(stream, Code.OK, ""))
