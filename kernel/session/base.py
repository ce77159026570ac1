"""The session's interface: bytes or packets in, events out, buffers to send. No I/O, no clock, no asyncio.

One session stands for one connection, whatever its protocol: KNL/1 with many channels (`stream`), a plain framing with
exactly one channel (`plain`), or the datagram protocol (`datagram`). The link drives it and needs not know which:

    events = session.started()              # once
    events = session.received(data)         # or filled(n) after wanted(), messages(packets), received_eof(), tick(now)
    ... session.send(stream, message) ...   # O(1): queues
    write(session.data_to_send(n))
    events = session.take_events()          # what our own calls brought about

Invariants: events come in the order of their causes; `received` never raises for what a peer sent (a broken peer gives
`Ended`, and what is still to be sent says why); after `Ended` every input is ignored; calls of our own side that cannot
be (sending after our own finish) raise `ChannelClosed` or `UsageError` and change nothing. What is sent on a stream
that is over, but whose `Closed` is still to be seen, goes nowhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from kernel.api import Buffer, Principal
from kernel.errors import Code, UsageError
from kernel.limits import Limits
from kernel.slices import FileSlice


class Stream:
    """One channel as its session sees it: a place for what belongs to both, and nothing that acts.

    Attributes:
        channel: its number; 0 where a connection has one channel only.
        service: the service's name.
        pieces: messages longer than a frame are wanted piece by piece.
        accepted: the side that was asked has said yes.
        local_open, remote_open: our side, the peer's side may still send.
        outgoing: messages that wait to be sent, in order (and the session's own items); None before the first one.
        outgoing_bytes: their sum, with something for each message, so that empty ones are not free.
        held_bytes: cost of what was delivered and not yet `consumed`.
        user: the link's own object.
        state: the session's own object.
        account: what the channel may send and be sent, where a protocol has credit.
        wants_writable: give one `Writable` when all that is queued has been taken.
    """

    __slots__ = (
        "__weakref__", "accepted", "account", "channel", "held_bytes", "local_open", "outgoing", "outgoing_bytes",
        "pieces", "remote_open", "service", "state", "user", "wants_writable",
    )  # fmt: skip

    def __init__(self, channel: int, service: str, *, pieces: bool = False) -> None:
        self.channel = channel
        self.service = service
        self.pieces = pieces
        self.accepted = False
        self.local_open = True
        self.remote_open = True
        self.outgoing: Any = None
        self.outgoing_bytes = 0
        self.held_bytes = 0
        self.user: Any = None
        self.state: Any = None
        self.account: Any = None
        self.wants_writable = False

    def queue(self) -> deque[Any]:
        """`outgoing`, to add to it. It is made when first needed: an empty deque is larger than all else here."""
        queue: deque[Any] | None = self.outgoing
        if queue is None:
            queue = self.outgoing = deque()
        return queue


# Events are Structs and not dataclasses: they are made in half the time, at each read, and their classes at each start.


class Ready(Struct):
    """The handshake is over; streams can be opened.

    `principal`: who the peer proved to be in it, None where nobody asked. `peer`: what the peer said of itself.
    """

    principal: Principal | None = None
    peer: dict[str, Any] = field(default_factory=dict)


class OpenRequested(Struct):
    """The peer asks for `stream.service`: answer with `accept` or `refuse` before anything else."""

    stream: Stream


class Opened(Struct):
    """The peer accepted the stream that we opened."""

    stream: Stream


class Messages(Struct):
    """Whole messages of one stream, in order; `cost_bytes` is what to give back by `consumed`."""

    stream: Stream
    messages: list[bytes]
    cost_bytes: int


class Piece(Struct):
    """A part of a long message, on a stream that asked for pieces; `cost_bytes` as in `Messages`."""

    stream: Stream
    piece: bytes
    message_bytes: int
    last: bool
    cost_bytes: int


class Finished(Struct):
    """The peer has sent its last message on the stream; ours may go on."""

    stream: Stream


class Closed(Struct):
    """The stream is over in both directions: finished (`Code.OK`), reset by the peer, or refused."""

    stream: Stream
    code: Code
    reason: str


class Writable(Struct):
    """All that was queued on the stream has been handed out by `data_to_send`."""

    stream: Stream


class GoingAway(Struct):
    """The peer will take no new streams; those that it has go on."""

    code: Code
    reason: str


class Pong(Struct):
    """The answer to our `ping`."""

    payload: bytes


class Ended(Struct):
    """The session is over; send what is still to be sent, then close the connection.

    `by_peer`: the peer said so or broke the protocol; `reason` is for people, in one line. `abrupt`: the protocol has
    no words for it, only an aborted connection tells the peer.
    """

    code: Code
    reason: str
    by_peer: bool
    abrupt: bool = False


Event = Ready | OpenRequested | Opened | Messages | Piece | Finished | Closed | Writable | GoingAway | Pong | Ended


class Fault(Exception):
    """Inside a session: the peer broke the protocol. Never leaves it: it becomes an ERROR to the peer and `Ended`.

    `reason` is told to the peer; `detail`, where given, goes only into our own `Ended`.
    """

    def __init__(self, code: Code, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.detail = detail or reason


def rest_after_piece(rest_bytes: int | None, piece_bytes: int, message_bytes: int, last: bool) -> int:
    """What is missing of a message after another piece of it.

    Args:
        rest_bytes: what was missing before; None: this is the first piece.

    Raises:
        UsageError: the pieces do not add up.
    """
    rest = (message_bytes if rest_bytes is None else rest_bytes) - piece_bytes
    if rest < 0 or last != (rest == 0):
        raise UsageError(
            f"the pieces of a message of {message_bytes} bytes must add up to it, and the last one says so: "
            f"{rest} bytes are left after this piece, and last is {last}"
        )
    return rest


class Session(ABC):
    """What the link drives. See the module's text for the rules.

    Plain attributes, because the link looks at them once a read:

    Attributes:
        limits: what we allow the peer.
        wanted: the rest of a large frame, to be received into straight (then `filled`); None: use your own buffer.
        wants_data: off: read no more from the connection for now. Only sessions without credit need that.
        has_more: off: `data_to_send` has handed out all that can be sent, asking again gives nothing.
        write_finished: nothing will be sent any more, and the connection's half-close is to say so.
        timed: `deadline` has to be looked at; off: the owner's tick is fine enough.
        events: what our own calls and `data_to_send` brought about; `take_events` empties it, always the same list.
    """

    __slots__ = ("__weakref__", "events", "has_more", "limits", "timed", "wanted", "wants_data", "write_finished")

    def __init__(self, limits: Limits, wanted: Callable[[], memoryview | None] | None = None) -> None:
        self.limits = limits
        self.wanted = wanted or _nothing_wanted
        self.wants_data = True
        self.has_more = True
        self.write_finished = False
        self.timed = False
        self.events: list[Event] = []

    @abstractmethod
    def started(self) -> list[Event]:
        """The connection is there. Called once, before everything else."""

    def take_events(self) -> list[Event]:
        """What calls of our own side and `data_to_send` brought about (`Closed`, `Writable`, `Ended`), each once."""
        taken = self.events[:]
        self.events.clear()
        return taken

    # --- from the peer -----------------------------------------------------------------------------------------

    def filled(self, nbytes: int) -> list[Event]:
        """`nbytes` were received into `wanted()`."""
        raise AssertionError("filled() without wanted()")

    @abstractmethod
    def received(self, data: Buffer) -> list[Event]:
        """Bytes of the stream arrived; `data` is lent until this returns."""

    @abstractmethod
    def messages(self, packets: list[bytes]) -> list[Event]:
        """Whole messages (datagrams) arrived on a transport that preserves them."""

    @abstractmethod
    def received_eof(self) -> list[Event]:
        """The peer will send no more bytes."""

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest (the clock given to `tick`), or None. See `timed`."""
        return None

    @abstractmethod
    def tick(self, now: float) -> list[Event]:
        """Time has passed: retransmit, probe a silent peer, give up on a vanished one."""

    # --- from our side -----------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, service: str, *, pieces: bool = False) -> Stream:
        """Client: ask for a service. Messages may be sent at once; `Opened` or `Closed` tells the answer."""

    @abstractmethod
    def accept(self, stream: Stream, *, pieces: bool = False) -> None:
        """Server: serve a stream that was `Opened`."""

    @abstractmethod
    def refuse(self, stream: Stream, code: Code, reason: str) -> None:
        """Server: turn the stream away, surely not processed."""

    @abstractmethod
    def send(self, stream: Stream, message: Buffer) -> None:
        """Queue one message."""

    @abstractmethod
    def send_many(self, stream: Stream, messages: list[bytes]) -> None:
        """Queue messages, in order; cheaper than one by one."""

    @abstractmethod
    def send_piece(self, stream: Stream, piece: Buffer, message_bytes: int, last: bool) -> None:
        """Queue a part of one message whose whole length is `message_bytes`; no other message may come between."""

    @property
    def takes_files(self) -> bool:
        """Whether `send_slice` can be called; where not, the file has to be read and sent in pieces."""
        return False

    def send_slice(self, stream: Stream, part: FileSlice) -> None:
        """Queue one message whose bytes are in a file. `data_to_send` gives out slices among its buffers then."""
        raise AssertionError("send_slice() where takes_files is off")

    @abstractmethod
    def consumed(self, stream: Stream, nbytes: int) -> None:
        """The service is done with so many bytes: the peer may send as many more."""

    @abstractmethod
    def finish(self, stream: Stream) -> None:
        """Half-close: no more messages after those that are queued."""

    @abstractmethod
    def release(self, stream: Stream) -> None:
        """Finish, and end the other direction too as soon as our last message is out."""

    @abstractmethod
    def reset(self, stream: Stream, code: Code, reason: str) -> None:
        """End the stream in both directions now; what is queued is dropped."""

    @abstractmethod
    def ping(self, payload: bytes) -> None:
        """Ask the peer for a `Pong`."""

    @abstractmethod
    def go_away(self, code: Code, reason: str) -> None:
        """Take no new streams from now on, and tell the peer; those that are open go on."""

    @abstractmethod
    def close(self, code: Code, reason: str) -> None:
        """End the session: the reason is queued, then nothing more."""

    @abstractmethod
    def data_to_send(self, bytes_max: int) -> list[Buffer]:
        """Take what is due, control frames first, then streams in turn; about `bytes_max` at most.

        The caller asks again when its own queue has room: what waits here can still be overtaken by a ping.
        """

    @property
    @abstractmethod
    def streams(self) -> list[Stream]:
        """The streams that are not over."""


def _nothing_wanted() -> memoryview | None:
    return None
