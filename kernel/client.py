"""The client's side: dial an endpoint, open channels.

async with kernel.connect("tcp://127.0.0.1:7000", "echo") as channel:      # one channel
async with kernel.dial("tcp://127.0.0.1:7000") as client:                  # many in one connection
    channel = await client.open("echo")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from kernel.api import Capabilities, ChannelHandler, Connection, Peer
from kernel.channel import Channel
from kernel.endpoint import Endpoint
from kernel.errors import Code, DialError, Refused
from kernel.limits import Limits
from kernel.link import TICK_SECONDS, Link
from kernel.registry import Registry
from kernel.session.base import Stream
from kernel.wiring import Wiring, wire

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

_TIMEOUT_SECONDS = 10.0
# How long leaving `async with` waits for what was sent to leave; a peer that does not read shall not hold us.
_CLOSE_SECONDS = 5.0


class Client:
    """A connection to a server. Made by `dial`."""

    def __init__(self, wiring: Wiring, limits: Limits, keys: Keyring | None = None) -> None:
        self._key_id = keys.first.id if keys else ""
        self.endpoint = wiring.endpoint
        self.limits = limits
        self._wiring = wiring
        self._link: Link | None = None
        self._ready: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, timeout_seconds: float) -> None:
        """Dial and shake hands.

        Raises:
            DialError: nobody answered in time, or not in our protocol.
        """
        loop = asyncio.get_running_loop()
        self._ready, self._ended = loop.create_future(), loop.create_future()
        try:
            async with asyncio.timeout(timeout_seconds):
                self._start_link(await self._wiring.transport.dial())
                await self._ready
        except TimeoutError:
            # A datagram's "connection" is made by us alone.
            was_accepted = self._link is not None and self._wiring.capabilities.reliable
            self.abort()
            raise DialError(f"{self.endpoint} {_why_silent(was_accepted, timeout_seconds)}") from None
        except BaseException:
            self.abort()
            raise

    def _start_link(self, connection: Connection) -> None:
        peer = Peer(connection.peer, self.endpoint.scheme, connection.principal)
        self._link = Link(connection, self._wiring.session(connection), self, peer)
        self._link.message_bytes_max = self.capabilities.message_bytes_max
        self._link.reliable = self.capabilities.reliable and self.capabilities.ordered
        self._link.start()
        self._tick()

    @property
    def capabilities(self) -> Capabilities:
        """What channels of this connection give: whether messages can be lost, keep their boundaries, and so on."""
        return self._wiring.capabilities

    async def open(self, service: str = "", *, handler: ChannelHandler | None = None, pieces: bool = False) -> Channel:
        """Open a channel to a service, and wait until the server has accepted it.

        Args:
            service: its name; may be empty where the framing has no channels (the listener is bound to one).
            handler: is called with what arrives; None: `channel.receive()` gets it.
            pieces: get messages longer than a frame in pieces.

        Raises:
            Refused: the server turned the channel away.
            ChannelClosed: the connection is going away or over.
        """
        assert self._link is not None
        channel = self._link.open(service, handler, pieces=pieces)
        try:
            await channel.wait_opened()
        except asyncio.CancelledError:
            channel.reset(Code.CANCELLED, "the client gave up")
            raise
        except Refused as refused:
            raise Refused(refused.code, self._with_key(refused.reason)) from None
        return channel

    def _with_key(self, reason: str) -> str:
        """Who is told that authentication failed wants to know which key he used."""
        if reason != "authentication failed" or not self._key_id:
            return reason
        return f"{reason} (we hold the key '{self._key_id}': it may be unknown there, or another one)"

    async def ping(self) -> float:
        """Ask whether the server is there; returns the round-trip time in seconds."""
        assert self._link is not None
        return await self._link.ping()

    async def close(self) -> None:
        """Say goodbye, and wait until it has left."""
        if self._link is not None and self._ended is not None:
            self._link.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await asyncio.shield(self._ended)
        self.abort()

    def close_soon(self) -> None:
        """Say goodbye without waiting; the link goes when that has left."""
        if self._link is not None:
            self._link.close()

    def abort(self) -> None:
        """End at once."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._link is not None:
            self._link.abort()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- the link calls ----------------------------------------------------------------------------------------------

    def link_ready(self, link: Link) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def open_requested(self, link: Link, stream: Stream) -> None:
        link.refuse(stream, Code.NO_SUCH_SERVICE, "a client serves nothing")

    def link_going_away(self, link: Link, code: Code, reason: str) -> None:
        """`open` fails from now on; channels that are open finish their work."""

    def link_ended(self, link: Link, code: Code, reason: str) -> None:
        if self._ready is not None and not self._ready.done():
            reason = self._with_key(reason)
            self._ready.set_exception(DialError(f"{self.endpoint}: {reason or code.label}", code))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(TICK_SECONDS, self._tick)
        if self._link is not None:
            self._link.tick(loop.time())


def _why_silent(was_accepted: bool, seconds: float) -> str:
    if was_accepted:
        remedy = "is a kernel server there, and does it listen with framing=knl? Else say so, for example ?framing=line"
        return f"took the connection, and did not answer within {seconds:g} s: {remedy}"
    return f"did not answer within {seconds:g} s: is a kernel server there?"


class Dialing:
    """What `dial` returns: await it, or enter it with `async with`."""

    def __init__(
        self,
        endpoint: str | Endpoint,
        keys: Keyring | None,
        limits: Limits | None,
        registry: Registry | None,
        seconds: float,
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._limits = limits or Limits()
        self._registry = registry or Registry()
        self._seconds = seconds
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._dial().__await__()

    async def _dial(self) -> Client:
        wiring = wire(self._endpoint, self._registry, self._limits, client=True, keys=self._keys)
        client = Client(wiring, self._limits, self._keys)
        await client.start(self._seconds)
        return client

    async def __aenter__(self) -> Client:
        self._client = await self._dial()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


class Connecting:
    """What `connect` returns: await it, or enter it with `async with`."""

    def __init__(self, dialing: Dialing, service: str, handler: ChannelHandler | None, pieces: bool) -> None:
        self._dialing = dialing
        self._service = service
        self._handler = handler
        self._pieces = pieces
        self._client: Client | None = None
        self._channel: Channel | None = None

    def __await__(self) -> Generator[Any, None, Channel]:
        return self._connect().__await__()

    async def _connect(self) -> Channel:
        self._client = client = await self._dialing
        try:
            self._channel = channel = await client.open(self._service, handler=self._handler, pieces=self._pieces)
        except BaseException:
            await client.close()
            raise
        channel.on_over(client.close_soon)
        return channel

    async def __aenter__(self) -> Channel:
        return await self._connect()

    async def __aexit__(self, kind: object, *_: object) -> None:
        channel, client = self._channel, self._client
        if channel is None or client is None:
            return
        if kind is None:
            channel.close()
        else:
            channel.reset(Code.CANCELLED, "the client gave up")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await channel.wait_closed()
        await client.close()


def dial(
    endpoint: str | Endpoint,
    *,
    keys: Keyring | None = None,
    limits: Limits | None = None,
    registry: Registry | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Dialing:
    """Connect to a server; the client can then open many channels (one, where the framing has no channels).

    Args:
        endpoint: where, with options: `tcp://127.0.0.1:7000`, `unix:/run/x.sock`, `tcp://h:1?framing=line`.
        keys: the first of them proves who we are, and the server must prove that it holds it too.
        limits: what the server may make us hold; None: the defaults.
        registry: where plugins are found; None: all that is installed.
        timeout_seconds: for dialling and the handshake together.

    Raises:
        UsageError: the endpoint is wrong.
        DialError: nobody answered in time, or not in our protocol.
    """
    return Dialing(endpoint, keys, limits, registry, timeout_seconds)


def connect(
    endpoint: str | Endpoint,
    service: str = "",
    *,
    handler: ChannelHandler | None = None,
    pieces: bool = False,
    keys: Keyring | None = None,
    limits: Limits | None = None,
    registry: Registry | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Connecting:
    """Connect and open one channel; when it ends, the connection does. For the arguments see `dial` and `Client.open`.

    Raises:
        Refused: the server turned the channel away.
        UsageError, DialError: as `dial`.
    """
    return Connecting(Dialing(endpoint, keys, limits, registry, timeout_seconds), service, handler, pieces)
