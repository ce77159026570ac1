"""What the kernel and its plugins promise each other. Read this file and you can write a transport or a service.

    transport --Connection--> kernel --Channel--> service
              <--Receiver----        <--Service--

A *transport* makes connections: it binds or dials, and moves bytes (a stream) or whole messages (datagrams). A
*service* talks with one peer over a channel: it gets and sends messages, and never learns which transport carries them.
The kernel in between cuts streams into messages, keeps limits, identity, flow control and shutdown.

A *layer* is a transport around another one. A *framing*, how a stream is cut into messages, has its own interface in
`kernel.framing.entry`. `kernel plugins new NAME --kind ...` writes one of each to start from, and `kernel plugins check
NAME` tells whether it keeps what is promised here (`kernel.testing`).

Rules that hold for every method here:

- Everything runs in one event loop's thread; nothing may block it. What may wait is `async def`.
- Constructors have no side effects; whatever was started can be stopped, also after a start that failed half-way.
- A buffer that is lent (`Receiver.data_received`) is the receiver's until it returns, then the lender's again.
- Who calls is who owns: the kernel closes connections and channels that a plugin leaves open.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kernel.endpoint import Endpoint, network_of
from kernel.errors import Code
from kernel.limits import Limits

if TYPE_CHECKING:
    from kernel.channel import Channel

API_VERSION = 1
"""The version of this file. A plugin class says which one it was written for in `api_version`."""

API_VERSION_MIN = 1
"""The oldest version that this kernel still serves."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a transport gives, as far as its framing keeps it. Compared with `Needs` before anything starts.

    Attributes:
        preserves_messages: each write arrives as one message (datagrams); False: a stream of bytes.
        reliable: what is sent arrives, or the connection is seen to fail.
        ordered: what arrives does so in the order in which it was sent.
        message_bytes_max: the largest message that a single write may hold; None: no limit of the transport's own.
        half_close: one direction can end while the other goes on.
        encrypted: others on the path can neither read nor change it.
        local_only: both ends are on one machine.
        identity: by what the transport itself establishes who the peer is: `unix` (its user, told by the operating
            system), `tls` (its certificate); empty: it does not. An endpoint can ask for it by `auth=`.
    """

    preserves_messages: bool = False
    reliable: bool = True
    ordered: bool = True
    message_bytes_max: int | None = None
    half_close: bool = True
    encrypted: bool = False
    local_only: bool = False
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a service cannot do without.

    Attributes:
        reliable: every message arrives, or the channel is seen to fail.
        ordered: messages arrive in order.
        half_close: the end of one direction must be told from the end of both.
        message_bytes_min: messages of at least this size must pass.
        authenticated: every peer has proved who it is.
    """

    reliable: bool = False
    ordered: bool = False
    half_close: bool = False
    message_bytes_min: int = 0
    authenticated: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a peer is, whichever way that was established.

    Attributes:
        name: unique within the mechanism, `anonymous` when nobody asked.
        mechanism: `none`, `unix`, `hmac` or `tls`.
        uid, gid: the peer's user and group where the operating system vouches for them, else None.
    """

    name: str = "anonymous"
    mechanism: str = "none"
    uid: int | None = None
    gid: int | None = None

    def __str__(self) -> str:
        return self.name if self.mechanism == "none" else f"{self.mechanism}:{self.name}"


ANONYMOUS = Principal()


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a plugin that has none."""


# ---------------------------------------------------------------------------------------------------------------
# Transports
# ---------------------------------------------------------------------------------------------------------------


class Receiver(Protocol):
    """The kernel's side of a connection; the transport calls it, always from the event loop.

    A stream transport asks `wanted()` before each read. A view means: the rest of a large frame; read straight into
    it, then `filled(n)`. None means: read into your own buffer, then `data_received(view)`. A transport that has the
    bytes already calls `data_received` alone. A transport that preserves messages calls `messages_received` alone.
    """

    def wanted(self) -> memoryview | None: ...

    def filled(self, nbytes: int) -> None: ...

    def data_received(self, data: Buffer) -> None:
        """Bytes of the stream; lent until this returns."""

    def messages_received(self, messages: list[bytes]) -> None:
        """Whole messages in the order of their arrival; now the receiver's own."""

    def eof_received(self) -> None:
        """The peer will send no more; it may still read."""

    def write_drained(self) -> None:
        """All that was written has left: there is room again."""

    def connection_established(self) -> None:
        """Only where `Connection.established` was off at `start`: the two ends understand each other from now on."""

    def connection_lost(self, error: Exception | None) -> None:
        """The last call. None: it ended in order (we closed it, or both sides finished); a `ChannelClosed` says why."""


class Connection(ABC):
    """One peer, as a transport hands it to the kernel. The kernel calls; nothing here blocks or raises for I/O reasons.

    Failures are told by `Receiver.connection_lost`, exactly once, never from inside a call of the kernel's.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def local(self) -> str:
        """Our address, for people: `127.0.0.1:7000`."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The peer's address, for people and for limits per source."""

    @property
    def principal(self) -> Principal:
        """Who the operating system or the transport says that the peer is."""
        return ANONYMOUS

    @property
    def established(self) -> bool:
        """Off while the ends have yet to come to terms (TLS): what is written waits, and nobody is served so far.

        `Receiver.connection_established` tells when that is over; `principal` and `channel_binding` are right then.
        """
        return True

    @property
    def channel_binding(self) -> bytes:
        """What names the server's end of an encrypted connection, the same bytes on both sides; empty elsewhere."""
        return b""

    sends_files: ClassVar[bool] = False
    """Whether `write` also takes a `FileSlice` among the buffers: part of a file, which the system sends by itself."""

    @abstractmethod
    def start(self, receiver: Receiver) -> None:
        """Begin to read. Called once, before anything else."""

    @abstractmethod
    def write(self, buffers: Sequence[Buffer]) -> None:
        """Take all of the buffers, in order: send what can be sent now, keep the rest and send it as room comes.

        On a transport that preserves messages each buffer is one message. The buffers must not change afterwards.
        After `finish_writing`, `close` or a loss, calls are ignored.
        """

    @property
    @abstractmethod
    def write_pending_bytes(self) -> int:
        """What was written and could not be sent yet. When it returns to 0, `Receiver.write_drained` is called."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more until `resume_reading`; the peer feels it as back-pressure. May be called twice."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read again; ignored when not paused."""

    @abstractmethod
    def finish_writing(self) -> None:
        """Half-close: tell the peer, after the pending bytes, that no more come. Without half-close: nothing."""

    @abstractmethod
    def close(self) -> None:
        """Send what is pending, then end both directions, then `connection_lost(None)`."""

    @abstractmethod
    def abort(self) -> None:
        """End at once; pending bytes are lost."""


Acceptor = Callable[[Connection], None]
"""What a listener calls for each new connection. The kernel starts it or aborts it."""


class Listener(ABC):
    """A bound endpoint that accepts connections."""

    @property
    @abstractmethod
    def endpoint(self) -> Endpoint:
        """What was really bound: the port in place of 0."""

    @property
    def dial_endpoint(self) -> Endpoint:
        """How a client reaches it: the same, unless a client needs other options."""
        return self.endpoint

    @abstractmethod
    def pause(self) -> None:
        """Accept no more for now; may be called twice."""

    @abstractmethod
    def resume(self) -> None:
        """Accept again; ignored when not paused."""

    @abstractmethod
    async def close(self) -> None:
        """Unbind and leave nothing behind (the socket file). Connections that were accepted live on."""


class Transport(ABC):
    """A way to reach peers. One instance stands for one endpoint with its options, and binds or dials it.

    `Options` is a frozen dataclass whose fields are the `?key=value` options of the endpoint, with defaults; its types
    are checked and its help is shown by `kernel plugins info` (see `kernel.options`).
    """

    name: ClassVar[str]
    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type] = NoOptions
    example: ClassVar[str] = ""
    """An endpoint that can be bound on any machine at any time, for checks; `{directory}` stands for a new directory,
    `{unique}` for a new name."""

    def __init__(self, endpoint: Endpoint, options: object, limits: Limits) -> None:
        self.endpoint = endpoint
        self.options = options
        self.limits = limits

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What connections of this endpoint give, known before anything is bound."""

    def hint(self) -> str:
        """What `kernel serve` prints under the endpoint in place of commands that talk to it; empty: the commands."""
        return ""

    @abstractmethod
    async def listen(self, accept: Acceptor) -> Listener:
        """Bind the endpoint and call `accept` for each connection.

        Raises:
            StartError: one line that names the endpoint, the reason and the remedy.
        """

    @abstractmethod
    async def dial(self) -> Connection:
        """Connect to the endpoint. Cancelling leaves nothing open.

        Raises:
            DialError: one line that names the endpoint, the reason and the remedy.
        """


class Layer(Transport):
    """A transport around another one: `NAME+tcp://...`. To who uses it, it is a transport like any other.

    It binds and dials through `inner`, and wraps the connections that come of it. It gets the whole endpoint, layers
    and all, and so does `inner`: what the inner listener says was bound is right for the layer too.
    """

    def __init__(self, endpoint: Endpoint, options: object, limits: Limits, inner: Transport) -> None:
        super().__init__(endpoint, options, limits)
        self.inner = inner

    def capabilities(self) -> Capabilities:
        """What `inner` gives; override it where the layer gives more or less."""
        return self.inner.capabilities()


# ---------------------------------------------------------------------------------------------------------------
# Services
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a channel.

    Attributes:
        principal: who the peer proved to be.
        address: where it is, for people: `127.0.0.1:50312`, `/run/x.sock`.
        transport: by which transport it came: `tcp`.
        dialect: which of the service's dialects its listener speaks; empty: none, the service's own protocol.
    """

    address: str
    transport: str
    principal: Principal = ANONYMOUS
    dialect: str = ""

    @property
    def source(self) -> str:
        """On whose account its doings go: who it proved to be, else its address, without the port, for IPv6 its /64."""
        return str(self.principal) if self.principal.mechanism != "none" else network_of(self.address)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A plain protocol of a service's, for clients that know nothing of ours. A listener asks for it: `?dialect=NAME`.

    The service sees it as `channel.dialect`. What passes is what the framing makes of the bytes, without channels.

    Attributes:
        options: what it settles of the endpoint: its framing without channels, and that framing's own options:
            `{"recv": "raw", "send": "length", "width": "4", "endian": "little", "signed": "1"}`.
        help: one line: who speaks it.
        needs: what it cannot do without; None: what the service needs.
    """

    options: Mapping[str, str]
    help: str = ""
    needs: Needs | None = None


class ChannelHandler:
    """What becomes of one channel's messages; each method is optional and must not block.

    The kernel calls, from the event loop. An exception ends this channel with `INTERNAL` and is logged; the server
    lives on. A message counts as consumed when the method returns; `channel.pause_reading()` holds the peer back.
    """

    __slots__ = ()

    def opened(self, channel: Channel) -> None:
        """The channel is ready in both directions."""

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        """All messages that one read brought, in order. Override this one for speed, or `on_message`."""
        for message in messages:
            self.on_message(channel, message)

    def on_message(self, channel: Channel, message: bytes) -> None:
        """One whole message."""

    def on_piece(self, channel: Channel, piece: bytes, message_bytes: int, last: bool) -> None:
        """A part of a message longer than a frame, in order; only on channels with `whole_messages` off.

        Args:
            message_bytes: the length of the whole message.
            last: the message ends with this piece.
        """

    def on_finish(self, channel: Channel) -> None:
        """The peer has sent its last message. The default finishes our direction too."""
        channel.finish()

    def on_writable(self, channel: Channel) -> None:
        """After `channel.buffered_bytes` had reached the high-water mark, all of it has been sent."""

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        """The last call: the channel is over in both directions."""


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What the kernel gives a service when it makes it.

    Attributes:
        name: the name under which it is served.
        limits: the server's limits.
        log: a logger of its own.
        spawn: start a background task that the kernel cancels when the service stops.
    """

    name: str
    limits: Limits
    log: logging.Logger
    spawn: Callable[[Coroutine[Any, Any, None]], object]


class Service(ChannelHandler):
    """A network service. One instance serves all channels. Write one of:

    - `async def serve(self, channel)`: a coroutine per channel, for comfort: `async for message in channel: ...`
    - `def on_message(self, channel, message)` (or `on_messages`): synchronous, for speed. `channel.context` is yours.

    An exception in either ends that channel with `INTERNAL`; the server lives on.
    """

    name: ClassVar[str]
    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type] = NoOptions
    needs: Needs = Needs()
    """What it cannot do without; where that depends on its options, the constructor sets it."""
    example: ClassVar[str] = ""
    """A command that talks with it, for `kernel serve` to print; `{endpoint}` is where it listens."""
    whole_messages: ClassVar[bool] = True
    """Off: messages longer than a frame come piece by piece, in bounded memory (`on_piece`, `channel.pieces()`)."""
    bulk: ClassVar[bool] = False
    """On: large transfers are its purpose, and connections to a server that has it get `Limits.for_bulk`."""
    dialects: Mapping[str, Dialect] = MappingProxyType({})
    """Plain protocols that it speaks besides its own, by name; where they depend on its options, the constructor sets
    it."""

    def __init__(self, options: object, context: ServiceContext) -> None:
        self.options = options
        self.context = context

    async def start(self) -> None:
        """Called before the first channel. What fails here fails the server's start."""

    def drain(self) -> None:
        """The server takes nothing new, and stops when its channels have ended: end those that would go on for ever."""

    async def stop(self) -> None:
        """Called after the last channel, also when `start` failed half-way."""

    def handler(self) -> ChannelHandler:
        """Who is called with the next channel's messages: this service, or one for its options or for each channel."""
        return self

    async def serve(self, channel: Channel) -> None:
        """Talk with one peer; the channel ends in order when this returns. It is cancelled when the peer is gone."""
