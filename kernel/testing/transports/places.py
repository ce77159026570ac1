"""Checks of listening and dialling: addresses, errors for people, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from kernel.api import Capabilities, Connection, Listener
from kernel.endpoint import Endpoint
from kernel.errors import DialError, KernelError, StartError
from kernel.testing.checks import CheckFailed, check, require
from kernel.testing.end import End
from kernel.testing.transports.base import Place, TransportBase, noise

_CLIENTS = 30
# More turns of the loop than any dial on one machine takes; beyond, `dial` is left to finish.
_DIAL_STEPS = 300
_POLL_SECONDS = 0.01
# Nobody resolves these: whatever they mean to a transport, the answer is one line.
_NONSENSE = (
    "",
    ":",
    "[",
    "]:1",
    "%00",
    "%00:1",
    "a b",
    "a b:1",
    "127.0.0.1:99999",
    "x" * 300,
    "x" * 300 + ":1",
    "\udcff",
)


class PlaceChecks(TransportBase):
    """See `TransportSuite`."""

    @check
    async def test_what_was_bound_can_be_dialled(self) -> None:
        """The listener's endpoint, printed and read again, leads to it: real port, same layers, same options."""
        asked = self.new_endpoint()
        async with self.listening(asked) as place:
            bound = place.listener.endpoint
            require(Endpoint.parse(str(bound)) == bound, f"'{bound}' is not read back as it was written")
            require(
                (bound.scheme, bound.layers, bound.options) == (asked.scheme, asked.layers, asked.options),
                f"'{asked}' was bound as '{bound}': only the address may differ",
            )
            client, server = await place.connect()
            await self.send(client, server, [b"hello"])

    @check
    async def test_addresses_are_for_people(self) -> None:
        """`local` and `peer` are one printable line, also when it is over, and neither is taken for the other."""
        async with self.listening() as place:
            client, server = await place.connect()
            _require_own_places(place.listener.endpoint.address, client, server)
            for end in (client, server):
                _require_printable(end)
                end.abort()
                await end.until(lambda end=end: end.lost, "connection_lost after abort()")  # type: ignore[misc]
                _require_printable(end)

    @check
    async def test_capabilities_are_declared_before_anything_starts(self) -> None:
        """`capabilities()` gives the same answer before and after binding, and for who dials."""
        transport = self.make(self.new_endpoint())
        declared = transport.capabilities()
        require(isinstance(declared, Capabilities), f"capabilities() gives {declared!r}")
        async with self.listening(transport.endpoint) as place:
            dialling = self.make(place.listener.dial_endpoint).capabilities()
            require(dialling == declared, f"who listens declares {declared}, who dials {dialling}")
        require(transport.capabilities() == declared, "capabilities() changes")

    @check
    async def test_peer_credentials_are_as_declared(self) -> None:
        """The server knows the client's user where that is declared, and nowhere else."""
        async with self.pair() as (_, server):
            uid = server.connection.principal.uid
            if self.capabilities.identity == "unix":
                require(uid == os.getuid(), f"the client's user is {os.getuid()}, the server was told {uid}")
            else:
                require(uid is None, f"the server was told of user {uid}, which is not declared as its identity")

    @check
    async def test_many_clients_at_once(self) -> None:
        """Many connections to one listener, opened together, each with its own data."""
        async with self.listening() as place:
            pairs = [await place.connect() for _ in range(_CLIENTS)]
            for number, (client, _) in enumerate(pairs):
                client.write([b"%03d" % number])
            for number, (_, server) in enumerate(pairs):
                await server.until(lambda end=server: len(end.arrived) >= 3, "three bytes of each client")  # type: ignore[misc]
                require(server.arrived == b"%03d" % number, "one client's bytes arrived in another one's connection")

    @check
    async def test_listeners_do_not_disturb_each_other(self) -> None:
        """Two listeners at two places serve at the same time; one goes on when the other is closed."""
        async with self.listening() as one, self.listening() as other:
            require(
                one.listener.endpoint != other.listener.endpoint,
                "both listeners are at one place: give the suite an endpoint that is free each time, "
                "for example with port 0, {unique} or {directory}",
            )
            for place in (one, other):
                client, server = await place.connect()
                await self.send(client, server, [b"to the right one"])
            await one.close()
            client, server = await other.connect()
            await self.send(client, server, [b"still there"])

    @check
    async def test_a_place_that_is_taken_is_refused(self) -> None:
        """To bind what is bound is a StartError in one line that names the endpoint; who was there goes on."""
        async with self.listening() as place:
            second = self.make(place.listener.endpoint)
            await _require_error(StartError, place.listener.endpoint, lambda: second.listen(lambda connection: None))
            client, _ = await place.connect()
            client.write([b"undisturbed"])
            await client.happens(lambda: False, self.quiet_seconds)
            require(
                any(end.arrived == b"undisturbed" for end in place.ends if not end.is_client),
                "the listener that was there first takes no more connections",
            )

    @check
    async def test_a_closed_listener_is_gone(self) -> None:
        """After `close` nobody is there (DialError in one line), the place is free, and connections live on."""
        async with self.listening() as place:
            client, server = await place.connect()
            await place.close()
            await place.close()
            bound = place.listener.endpoint
            if self.capabilities.reliable:
                dialling = self.make(place.listener.dial_endpoint)
                await _require_error(DialError, bound, dialling.dial)
                await self.send(client, server, [b"alive"])
                await self.send(server, client, [b"as well"])
            client.abort()
            server.abort()
            for end in (client, server):
                await end.until(lambda end=end: end.lost, "connection_lost after abort()")  # type: ignore[misc]
            async with self.listening(bound) as again:
                require(again.listener.endpoint == bound, f"'{bound}' was bound again as '{again.listener.endpoint}'")
                client, server = await again.connect()
                await self.send(client, server, [b"again"])

    @check
    async def test_a_paused_listener_accepts_later(self) -> None:
        """Between `pause` and `resume` nobody is accepted; who dialled meanwhile is accepted then."""
        self.only_if(not self.capabilities.preserves_messages, "there may be nothing to accept before a message")
        async with self.listening() as place:
            place.listener.pause()
            place.listener.pause()
            dialling = asyncio.ensure_future(place.dial())
            try:
                require(
                    await place.accepted_within(self.quiet_seconds) is None, "a paused listener accepted a connection"
                )
                place.listener.resume()
                place.listener.resume()
                server = await place.accepted()
                await self.send(await dialling, server, [b"patience"])
            finally:
                dialling.cancel()
                await asyncio.wait([dialling])

    @check
    async def test_nonsense_is_refused_in_one_line(self) -> None:
        """Whatever stands in an endpoint, what comes of it is an error for people, and never another exception."""
        for address in _NONSENSE:
            scheme = str(self.new_endpoint()).partition(":")[0]

            async def dial(text: str = f"{scheme}://{address}?framing=raw") -> None:
                transport = self.make(Endpoint.parse(text))
                transport.capabilities()
                (await transport.dial()).abort()

            await _require_error(KernelError, None, dial)
            await asyncio.sleep(0)  # what takes its time over each does not hold the loop for as long as over all

    @check
    async def test_cancelling_dial_leaves_nothing_open(self) -> None:
        """`dial`, cancelled at any await, closes what it has opened and ends; the listener goes on."""
        async with self.listening() as place:
            await place.connect()
            ignored = heeded = 0
            async with self._leaving_nothing(place, "after dial() was cancelled"):
                for steps in range(_DIAL_STEPS):
                    dialling = asyncio.ensure_future(self.make(place.listener.dial_endpoint).dial())
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    finished = dialling.done()
                    dialling.cancel()
                    try:
                        (await dialling).abort()
                        ignored += not finished
                    except asyncio.CancelledError:
                        heeded += steps > 0  # before it has begun, nobody can ignore it
                    if finished:
                        break
            # At its last await the connection may be there already; who never ends has swallowed it.
            require(heeded or not ignored, "dial() was cancelled, and returned a connection all the same")
            await place.dial()

    @check
    async def test_a_refused_dial_leaves_nothing_open(self) -> None:
        """Where nobody listens, `dial` is a DialError, and what it has opened is closed again (where it is told)."""
        self.only_if(self.capabilities.reliable, "nobody is told that nobody is there")
        async with self.listening() as place:
            await place.connect()
            await place.close()
            async with self._leaving_nothing(place, "after dial() was refused"):
                for _ in range(3):
                    dialling = self.make(place.listener.dial_endpoint)
                    await _require_error(DialError, place.listener.endpoint, dialling.dial)

    @check
    async def test_nothing_is_left_behind(self) -> None:
        """When a connection is over, by whatever end, there are no more open descriptors and tasks than before."""
        async with self.listening() as place:
            await place.connect()
            async with self._leaving_nothing(place, "after connections were closed"):
                for method in ("close", "abort"):
                    client, server = await place.connect()
                    await self.send(client, server, [noise(100)])
                    getattr(client, method)()
            async with self._leaving_nothing(place, "after a listener was closed"), self.listening():
                pass

    @contextlib.asynccontextmanager
    async def _leaving_nothing(self, place: Place, when: str) -> AsyncIterator[None]:
        """Afterwards, descriptors and tasks return to what they were before; the loop may need some turns for that."""
        await self._settle(place.ends)
        before = _open_descriptors(), len(asyncio.all_tasks())
        yield
        try:
            async with asyncio.timeout(self.patience_seconds):
                await self._settle(place.ends)
                while (_open_descriptors(), len(asyncio.all_tasks())) > before:
                    await asyncio.sleep(_POLL_SECONDS)
                    await self._settle(place.ends)
        except TimeoutError:
            descriptors, tasks = _open_descriptors() - before[0], len(asyncio.all_tasks()) - before[1]
            raise CheckFailed(
                f"{when}, {max(0, descriptors)} descriptors and {max(0, tasks)} tasks stay open"
            ) from None

    async def _settle(self, ends: list[End]) -> None:
        """The clients are gone; the servers find out, where they can, and are aborted else."""
        for end in ends:
            if end.is_client:
                end.abort()
        for end in ends:
            if self.capabilities.reliable:
                await end.until(lambda end=end: end.eof or end.lost, "the end of a connection whose peer is gone")  # type: ignore[misc]
            end.abort()
            await end.until(lambda end=end: end.lost, "connection_lost after abort()")  # type: ignore[misc]


def _require_own_places(bound: str, client: End, server: End) -> None:
    """Limits are kept for each `peer`: it is not who asks, and the listener's place is not the client's. (All names of
    one socket file are the same.)"""
    for end, other in ((client, server), (server, client)):
        own = end.connection.local
        mistaken = own == end.connection.peer and own != other.connection.local
        require(not mistaken, f"{end.name}'s `peer` is its own address, {own!r}")
    swapped = client.connection.local == bound != client.connection.peer
    require(not swapped, f"the client's `local` is where the listener is, {bound!r}: `local` and `peer` are swapped")


def _require_printable(end: End) -> None:
    for what, text in (("local", end.connection.local), ("peer", end.connection.peer)):
        require(isinstance(text, str) and text and text.isprintable(), f"{end.name}'s `{what}` is {text!r}")


async def _require_error(
    kind: type[KernelError], endpoint: Endpoint | None, action: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """The action must fail with an error of that kind, whose text is fit for people."""
    try:
        made = await action()
    except KernelError as error:
        text = str(error)
        require(isinstance(error, kind), f"{type(error).__name__} was raised in place of {kind.__name__}: {text}")
        require(text and text.isprintable(), f"the error is not one printable line: {text!r}")
        named = endpoint is None or str(endpoint.without_options()) in text or endpoint.address in text
        require(named, f"the error does not name the endpoint: {text}")
    except Exception as error:
        raise CheckFailed(f"{type(error).__name__} was raised in place of {kind.__name__}: {error}") from error
    else:
        if isinstance(made, Connection):
            made.abort()
        if isinstance(made, Listener):
            await made.close()
        require(endpoint is None, f"no {kind.__name__} was raised")


def _open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))
