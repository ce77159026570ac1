"""What all checks of a transport stand on: listening, dialling, and two ends that are connected."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from kernel.api import Buffer, Capabilities, Connection, Listener, Transport
from kernel.endpoint import Endpoint
from kernel.limits import Limits
from kernel.registry import LAYERS, TRANSPORTS, Registry
from kernel.testing.checks import CheckFailed, Suite, require, skip
from kernel.testing.end import GREETING, End
from kernel.testing.plugins import LocalRegistry
from kernel.testing.watch import sources_of
from kernel.wiring import wire

_GREETINGS_MAX = 10

_unique = itertools.count()


def noise(nbytes: int, seed: int = 0) -> bytes:
    """Bytes that look like nothing in particular, always the same."""
    return random.Random(seed).randbytes(nbytes)


class Place:
    """A listener with the ends of its connections; both ends are started as soon as there is a connection.

    Attributes:
        ends: of all connections, the clients' and the server's.
    """

    def __init__(self, suite: TransportBase, listener_of: Transport) -> None:
        self.ends: list[End] = []
        self._suite = suite
        self._transport = listener_of
        self._capabilities = listener_of.capabilities()
        self._accepted: asyncio.Queue[End] = asyncio.Queue()
        self._listener: Listener | None = None

    @property
    def listener(self) -> Listener:
        assert self._listener is not None
        return self._listener

    @property
    def faults(self) -> list[str]:
        """The rules that were broken at any end, each once."""
        return list(dict.fromkeys(f"at {end.name}'s end, {fault}" for end in self.ends for fault in end.faults))

    async def open(self) -> None:
        self._listener = await self._transport.listen(self._accept)

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()

    async def dial(self) -> End:
        """The client's end of a new connection."""
        transport = self._suite.make(self.listener.dial_endpoint)
        return self._start(await transport.dial(), is_client=True)

    async def accepted(self) -> End:
        """The server's end of the connection that was accepted next."""
        end = await self.accepted_within(self._suite.patience_seconds)
        if end is None:
            raise CheckFailed(f"waited {self._suite.patience_seconds:g} s in vain for accept() to be called")
        return end

    async def accepted_within(self, seconds: float) -> End | None:
        """As `accepted`; None when nobody comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._accepted.get()
        return None

    async def connect(self) -> tuple[End, End]:
        """Both ends of a new connection."""
        client = await self.dial()
        if not self._capabilities.preserves_messages:
            return client, await self.accepted()
        # Over datagrams the server learns of a client by its first message, and that may be lost.
        greeting = GREETING + b" %d" % next(_unique)
        for _ in range(1 if self._capabilities.reliable else _GREETINGS_MAX):
            client.write([greeting])
            server = await self._greeted(greeting)
            if server is not None:
                return client, server
        raise CheckFailed("the client has sent messages, and accept() was not called")

    async def _greeted(self, greeting: bytes) -> End | None:
        """The server's end that gets this greeting; others come from clients of the past."""
        seconds = self._suite.patience_seconds / (1 if self._capabilities.reliable else _GREETINGS_MAX)
        while (end := await self.accepted_within(seconds)) is not None:
            await end.until(lambda end=end: end.greetings, "the client's first message")  # type: ignore[misc]
            if greeting in end.greetings:
                return end
        return None

    def _accept(self, connection: Connection) -> None:
        self._accepted.put_nowait(self._start(connection, is_client=False))

    def _start(self, connection: Connection, *, is_client: bool) -> End:
        end = End(
            connection,
            is_client=is_client,
            preserves_messages=self._capabilities.preserves_messages,
            patience_seconds=self._suite.patience_seconds,
        )
        self.ends.append(end)
        end.start()
        return end


class TransportBase(Suite):
    """See `TransportSuite`."""

    transport: ClassVar[type[Transport] | None] = None
    endpoint: str = ""

    # --- what a subclass may change ----------------------------------------------------------------------------------

    def registry(self) -> Registry:
        """Where the plugins that the endpoint names are found."""
        return LocalRegistry(*([] if self.transport is None else [self.transport]))

    def new_endpoint(self) -> Endpoint:
        """Where to listen: each time a place that is free."""
        text = self.endpoint or getattr(self.transport, "example", "")
        require(text, "the suite has no endpoint to listen on: set `endpoint`, or the transport's `example`")
        if "{directory}" in text:
            text = text.replace("{directory}", self.new_directory())
        endpoint = Endpoint.parse(text.replace("{unique}", f"check-{os.getpid()}-{next(_unique)}"))
        endpoint.options.setdefault("framing", "raw")
        return endpoint

    # --- for the checks --------------------------------------------------------------------------------------------

    def sources(self) -> Sequence[str]:
        endpoint, registry = self.new_endpoint(), self.registry()
        kinds = [registry.load(TRANSPORTS, endpoint.scheme), *(registry.load(LAYERS, name) for name in endpoint.layers)]
        return [path for kind in kinds for path in sources_of(kind)]

    def make(self, endpoint: Endpoint) -> Transport:
        """The transport of an endpoint, with its layers, not started."""
        return wire(endpoint, self.registry(), Limits(), client=True, service="check").transport

    @property
    def capabilities(self) -> Capabilities:
        """What the transport under test declares."""
        return self.make(self.new_endpoint()).capabilities()

    @contextlib.asynccontextmanager
    async def listening(self, endpoint: Endpoint | None = None) -> AsyncIterator[Place]:
        """A bound endpoint. Afterwards its connections are ended, and it is an error if a rule was broken."""
        place = Place(self, self.make(endpoint or self.new_endpoint()))
        await place.open()
        try:
            yield place
        except CheckFailed as failure:
            raise CheckFailed("; ".join([str(failure), *place.faults])) from None
        finally:
            for end in place.ends:
                end.abort()
            await place.close()
            await asyncio.sleep(0)  # what was aborted is lost in the loop's next turn, also when a check has failed
        for end in place.ends:
            await end.until(lambda end=end: end.lost, "connection_lost after abort()")  # type: ignore[misc]
        require(not place.faults, "; ".join(place.faults))

    @contextlib.asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[End, End]]:
        """The client's and the server's end of one connection."""
        async with self.listening() as place:
            yield await place.connect()

    async def send(self, sender: End, receiver: End, payloads: Sequence[Buffer]) -> None:
        """Send payloads and wait until exactly these have arrived: as bytes, or each as its own message."""
        if receiver.preserves_messages:
            await self._send_messages(sender, receiver, payloads)
            return
        before, expected = len(receiver.data), b"".join(payloads)
        sender.write(payloads)
        await receiver.until(lambda: len(receiver.data) >= before + len(expected), f"{len(expected)} bytes to arrive")
        require_same_bytes(expected, receiver.data[before:])

    async def _send_messages(self, sender: End, receiver: End, payloads: Sequence[Buffer]) -> None:
        before = len(receiver.messages)
        for number, payload in enumerate(payloads, start=1):
            sender.write([payload])
            await receiver.until(
                lambda number=number: len(receiver.messages) >= before + number,  # type: ignore[misc]
                f"message {number} of {len(payloads)} ({len(payload)} bytes) to arrive",
            )
        same = receiver.messages[before:] == [bytes(payload) for payload in payloads]
        require(same, "what arrived differs from the messages that were sent, in number, boundaries, order or bytes")

    def only_if(self, applies: bool, reason: str) -> None:
        """Skip the check unless it applies to this transport."""
        if not applies:
            skip(reason)


def require_same_bytes(sent: bytes, arrived: bytes | bytearray) -> None:
    """Fail the check when anything else has arrived than was sent."""
    if sent == arrived:
        return
    pairs = enumerate(zip(sent, arrived, strict=False))
    at = next((index for index, (one, other) in pairs if one != other), min(len(sent), len(arrived)))
    raise CheckFailed(f"{len(sent)} bytes were sent and {len(arrived)} arrived; they differ from byte {at} on")
