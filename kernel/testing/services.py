"""The checks of a service: it lives through cut links, slow and silent peers, cancellation and shutdown.

    class TestMine(ServiceSuite):
        service = Mine                    # also when it is not installed; or with options: "file?root={directory}"
        messages = [b"hello"]             # what a peer says

        async def talk(self, channel):    # left out: say the messages, finish, and read what comes until the end
            channel.send(b"hello")
            assert await channel.receive() == b"HELLO"

It is served over the simulated network, or any other endpoint, by the same server as everywhere, and called by the same
client. Whatever it makes the kernel log as its failure fails the check in which it happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

from kernel import options
from kernel.api import Dialect, Needs, Service, ServiceContext
from kernel.auth.keys import Keyring
from kernel.channel import Channel
from kernel.client import Client, connect, dial
from kernel.endpoint import Endpoint
from kernel.errors import ChannelClosed, Code, KernelError
from kernel.limits import KIB, Limits
from kernel.registry import SERVICES, Registry
from kernel.server import Server
from kernel.testing.checks import CheckFailed, Suite, check, require, skip
from kernel.testing.plugins import LocalRegistry
from kernel.testing.watch import sources_of

_AT_ONCE = 10
_STEPS = 30
_POLL_SECONDS = 0.005
_FLOOD_BYTES = 4 * 1024 * KIB
_FLOOD_MESSAGES = 20_000
# Small, so that a slow reader is felt soon.
_LIMITS = Limits(channel_credit_bytes=64 * KIB, write_buffer_bytes_max=1024 * KIB)
_ANYTHING = (b"hello", b"x" * 1000)
# By these a channel ends when the service has failed.
_FAILURES = (Code.INTERNAL, Code.LOST)
_NONSENSE = (b"", b"\x00", b"\xff" * 100, b"{", b"[]", b'{"a":', b"-1", b"..\x00/..", b"\n" * 50, b"x" * 200 * KIB)

_unique = itertools.count()


class ServiceSuite(Suite):
    """What is asked of every service (`kernel.api.Service`), one check a promise.

    Attributes:
        service: the class, or the name of an installed one, with options behind a `?`. In it, `{directory}` stands for
            a new directory.
        options: the options of a class, as they would stand behind the `?`.
        endpoint: where to serve it, `{directory}` and `{unique}` as for transports; empty: on the simulated network,
            or on a UNIX socket where peers must prove who they are.
        messages: what a peer says, all at once, and what it floods the service with. Without them it says things of
            no meaning, and the service may refuse them.
        keys: with which peers prove who they are, where the endpoint does not have another way.
        evicts_slow_readers: a peer that reads slowly is meant to lose its channel (a chat room goes on without it).
    """

    service: ClassVar[type[Service] | str] = ""
    options: ClassVar[str] = ""
    endpoint: ClassVar[str] = ""
    messages: ClassVar[Sequence[bytes]] = ()
    keys: ClassVar[Keyring | None] = None
    evicts_slow_readers: ClassVar[bool] = False
    patience_seconds: ClassVar[float] = 20.0

    # --- what a subclass may change ----------------------------------------------------------------------------------

    async def talk(self, channel: Channel) -> None:
        """One whole conversation as it should be, from the peer's side; raise when it is not."""
        with contextlib.suppress(ChannelClosed):  # it may end the channel before it has heard all
            channel.send_many(self.said)
        channel.finish()
        try:
            await _read_all(channel)
        except ChannelClosed as closed:
            if self.messages or closed.code in _FAILURES:
                raise

    # --- for the checks --------------------------------------------------------------------------------------------

    @functools.cached_property
    def registry(self) -> Registry:
        """Where the service and the transports are found."""
        return Registry() if isinstance(self.service, str) else LocalRegistry(self.service)

    @functools.cached_property
    def plugin(self) -> str:
        """What `kernel serve --plugin` would be told."""
        text = self.service if isinstance(self.service, str) else f"{self.service.name}?{self.options}".rstrip("?")
        require(text, "the suite has no service: set `service`")
        return text

    @property
    def said(self) -> list[bytes]:
        """What a peer says, with a meaning or without."""
        return list(self.messages or _ANYTHING)

    @property
    def kind(self) -> type[Service]:
        """The class under test."""
        kind: type[Service] = self.registry.load(SERVICES, self.name)
        return kind

    @property
    def name(self) -> str:
        return self.plugin.partition("?")[0]

    def sources(self) -> Sequence[str]:
        return sources_of(self.kind)

    def new_plugin(self) -> str:
        """The service with options of its own."""
        return self.plugin.replace("{directory}", self.new_directory()) if "{directory}" in self.plugin else self.plugin

    def new_endpoint(self, **more: str) -> Endpoint:
        """Where to listen: each time a place that is free."""
        needs = self.kind.needs
        authenticated = isinstance(needs, Needs) and needs.authenticated
        text = self.endpoint or ("unix:{directory}/socket" if authenticated else "sim://{unique}")
        if "{directory}" in text:
            text = text.replace("{directory}", self.new_directory())
        endpoint = Endpoint.parse(text.replace("{unique}", f"check-{os.getpid()}-{next(_unique)}"))
        endpoint.options.update(more)
        return endpoint

    @contextlib.asynccontextmanager
    async def serving(self, endpoint: Endpoint | None = None) -> AsyncIterator[Server]:
        """A server with the service. When it is over, nothing is left, and a failure that was logged is one."""
        server = Server(
            [self.new_plugin()],
            [endpoint or self.new_endpoint()],
            limits=_LIMITS,
            registry=self.registry,
            keys=self.keys,
        )
        with _failures_of_services() as failures:
            before = _left()
            await server.start()
            try:
                yield server
            finally:
                await self._within(server.stop(), "the server to stop")
            await self._until(lambda: _left() <= before, lambda: f"after it was stopped {_more(before)}")
            require(not failures, "; ".join(dict.fromkeys(failures)))

    def connect(self, server: Server) -> Any:
        """A channel to the service: `async with self.connect(server) as channel`."""
        return connect(server.endpoints[0], self.name, registry=self.registry, limits=_LIMITS, keys=self.keys)

    async def dial(self, server: Server) -> Client:
        return await dial(server.endpoints[0], registry=self.registry, limits=_LIMITS, keys=self.keys)

    async def converse(self, server: Server, when: str = "") -> None:
        """One conversation from beginning to end."""
        try:
            async with asyncio.timeout(self.patience_seconds), self.connect(server) as channel:
                await self.talk(channel)
        except TimeoutError:
            raise CheckFailed(f"a conversation{when} did not end within {self.patience_seconds:g} s") from None
        except ChannelClosed as closed:
            raise CheckFailed(f"a conversation{when} was ended: {closed}") from None

    async def _within(self, work: Any, what: str) -> None:
        try:
            async with asyncio.timeout(self.patience_seconds):
                await work
        except TimeoutError:
            raise CheckFailed(f"waited {self.patience_seconds:g} s in vain for {what}") from None

    async def _until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        try:
            async with asyncio.timeout(self.patience_seconds):
                while not condition():  # noqa: ASYNC110 - nobody tells when a task or a descriptor is gone
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise CheckFailed(what()) from None

    # --- the checks ------------------------------------------------------------------------------------------------

    @check
    async def test_it_is_declared(self) -> None:
        """Its options can be described; its needs, dialects and example are what they should be."""
        kind = self.kind
        options.describe(kind.Options)
        example = kind.example
        require(isinstance(example, str), f"its `example` is {example!r}, not text")
        require(not example or "{endpoint}" in example, "its `example` does not say where {endpoint} goes")
        service = self._make()
        require(isinstance(service.needs, Needs), f"its `needs` is {service.needs!r}, not Needs")
        for name, dialect in service.dialects.items():
            require(isinstance(dialect, Dialect), f"its dialect '{name}' is {dialect!r}, not a Dialect")

    @check
    async def test_making_it_does_nothing(self) -> None:
        """The constructor starts nothing: no task, no thread, no open file, nothing in the background."""
        before = _left()
        made = [self._make() for _ in range(2)]
        require(_left() <= before, f"after it was made {_more(before)}, before it was started")
        require(made[0] is not made[1], "two of it are one")

    @check
    async def test_it_starts_and_stops(self) -> None:
        """Started and stopped, three times over, it leaves no task, no thread and no open file."""
        for _ in range(3):
            async with self.serving():
                pass

    @check
    async def test_a_conversation_works(self) -> None:
        """A peer says what a peer says, and the channel ends in order; then the next one."""
        async with self.serving() as server:
            await self.converse(server)
            await self.converse(server, " after another one")

    @check
    async def test_many_at_once(self) -> None:
        """Ten peers at once are served as one is."""
        async with self.serving() as server:
            await asyncio.gather(*(self.converse(server, " beside others") for _ in range(_AT_ONCE)))

    @check
    async def test_silent_peers_hold_nobody_up(self) -> None:
        """Beside peers that say nothing others are served; when a silent one finishes, its channel ends."""
        async with self.serving() as server:
            client = await self.dial(server)
            channels = [await client.open(self.name) for _ in range(3)]
            await self.converse(server, " beside silent peers")
            for channel in channels:
                channel.finish()
            for channel in channels:
                with contextlib.suppress(ChannelClosed):
                    await self._within(_read_all(channel), "the end of a channel whose peer has finished")
            await client.close()

    @check
    async def test_cut_links_leave_nothing(self) -> None:
        """A link that is cut at any moment leaves no task and no open file, and the next peer is served."""
        await self._interrupted(lambda client, channel: client.abort(), "a link was cut")

    @check
    async def test_cancelled_channels_leave_nothing(self) -> None:
        """A channel that the peer resets at any moment leaves nothing, and the others of its link live on."""
        await self._interrupted(lambda client, channel: channel.reset(Code.CANCELLED), "a channel was cancelled")

    async def _interrupted(self, interrupt: Callable[[Client, Channel], None], when: str) -> None:
        async with self.serving() as server:
            await self.converse(server)
            before = _left()
            for steps in range(_STEPS):
                client = await self.dial(server)
                channel = await client.open(self.name)
                talking = asyncio.ensure_future(self.talk(channel))
                for _ in range(steps):
                    await asyncio.sleep(0)
                interrupt(client, channel)
                talking.cancel()
                with contextlib.suppress(asyncio.CancelledError, KernelError, AssertionError):
                    await talking
                client.abort()
            await self._until(
                lambda: not server.channels, lambda: f"{len(server.channels)} channels stay open after {when}"
            )
            await self._until(lambda: _left() <= before, lambda: f"after {when} {_more(before)}")
            await self.converse(server, f" after {when}")

    @check
    async def test_slow_readers_are_held_back(self) -> None:
        """A peer that says much and reads nothing holds nobody up, and is held back in place of being lost."""
        async with self.serving() as server:
            client = await self.dial(server)
            channel = await client.open(self.name)
            sent = await self._flood(channel)
            await self.converse(server, " beside a peer that does not read")
            lost = channel.code is Code.SLOW_READER
            require(
                not lost or self.evicts_slow_readers,
                f"a peer that did not read was lost ({channel.reason}): `await channel.drain()` after each send, "
                "or on_messages, would have held it back; set evicts_slow_readers where that is meant",
            )
            with contextlib.suppress(ChannelClosed):
                channel.finish()
                await self._within(channel.receive(), f"an answer to {sent} messages, once it is read, or the end")
            client.abort()

    async def _flood(self, channel: Channel) -> int:
        """Send until nothing leaves any more, or enough was sent."""
        batch = self.said * (1 + 500 // len(self.said))
        sent = sent_bytes = 0
        while sent < _FLOOD_MESSAGES and sent_bytes < _FLOOD_BYTES and channel.code is None:
            channel.send_many(batch)
            sent, sent_bytes = sent + len(batch), sent_bytes + sum(map(len, batch))
            for _ in range(20):
                await asyncio.sleep(_POLL_SECONDS if channel.buffered_bytes else 0)
            if channel.buffered_bytes > _LIMITS.channel_credit_bytes:
                break
        return sent

    @check
    async def test_nonsense_is_answered_or_refused(self) -> None:
        """Whatever a peer says, the service answers, refuses or ends the channel; it never fails over it."""
        chance = random.Random(1)
        noise = [chance.randbytes(chance.randrange(1, 2000)) for _ in range(30)]
        async with self.serving() as server:
            for message in (*_NONSENSE, *noise):
                client = await self.dial(server)
                channel = await client.open(self.name)
                with contextlib.suppress(ChannelClosed):
                    channel.send(message)
                    channel.send(message)
                    channel.finish()
                    await self._within(_read_all(channel), f"an end after {message[:30]!r}")
                client.abort()
            await self.converse(server, " after nonsense")

    @check
    async def test_draining_ends(self) -> None:
        """A server that drains while peers are silent, and while they talk, ends at its deadline and leaves nothing."""
        async with self.serving() as server:
            client = await self.dial(server)
            silent = await client.open(self.name)
            talking = asyncio.ensure_future(self.talk(await client.open(self.name)))
            await asyncio.sleep(0)
            await self._within(server.drain(self.quiet_seconds), "the server to drain")
            await self._within(silent.wait_closed(), "the end of a channel after the server had drained")
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError, KernelError, AssertionError):
                await talking
            client.abort()

    @check
    async def test_stopping_at_any_moment_leaves_nothing(self) -> None:
        """A server that is stopped at any moment of a conversation stops, and leaves no task and no open file."""
        for steps in range(0, _STEPS, 5):
            async with self.serving() as server:
                client = await self.dial(server)
                talking = asyncio.ensure_future(self.talk(await client.open(self.name)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                await self._within(server.stop(), "the server to stop")
                talking.cancel()
                with contextlib.suppress(asyncio.CancelledError, KernelError, AssertionError):
                    await talking
                client.abort()

    @check
    async def test_its_dialects_live_through_anything(self) -> None:
        """Each dialect can be listened on, and peers that say nothing, say nonsense or hang up do no harm."""
        dialects = self._make().dialects
        if not dialects:
            skip("it has none")
        for dialect in dialects:
            async with self.serving(self.new_endpoint(dialect=dialect)) as server:
                at = server.endpoints[0]
                plain = Endpoint(at.scheme, at.address, {"framing": "raw"}, at.layers)
                for message in _NONSENSE:
                    client = await dial(plain, registry=self.registry)
                    channel = await client.open()
                    if message:
                        channel.send(message)
                    for _ in range(10):
                        await asyncio.sleep(0)
                    client.abort()
                await self._until(lambda: not server.channels, lambda: "channels stay open after their peers hung up")

    def _make(self) -> Service:
        """The service, made and not started."""
        asked = Endpoint.parse(f"plugin://{self.new_plugin()}")
        kind = self.kind

        def spawn(work: Any) -> None:
            work.close()
            raise CheckFailed("the constructor starts something in the background: `start` is the place for it")

        context = ServiceContext(self.name, _LIMITS, logging.getLogger(f"kernel.service.{self.name}"), spawn)
        return kind(options.parse(kind.Options, asked.options, f"the service {self.name}"), context)


async def _read_all(channel: Channel) -> None:
    async for _ in channel:
        pass


class _Left(tuple[int, int, int]):
    """Descriptors, tasks and threads; `<=` holds when there are no more of any."""

    def __le__(self, other: object) -> bool:
        return isinstance(other, _Left) and all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


def _left() -> _Left:
    import threading

    workers = sum(thread.name.startswith("asyncio_") for thread in threading.enumerate())  # the loop's own, which stay
    return _Left((len(os.listdir("/dev/fd")), len(asyncio.all_tasks()), threading.active_count() - workers))


def _more(before: _Left) -> str:
    names = ("descriptors", "tasks", "threads")
    more = {name: now - then for name, now, then in zip(names, _left(), before, strict=True) if now > then}
    return " and ".join(f"{count} more {name}" for name, count in more.items()) + " are there"


@contextlib.contextmanager
def _failures_of_services() -> Any:
    """What the kernel logs as a failure meanwhile, in place of writing it."""
    failures: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                error = record.exc_info[1] if record.exc_info else None
                failures.append(record.getMessage() + (f": {type(error).__name__}: {error}" if error else ""))

    log, handler = logging.getLogger("kernel"), Collect()
    propagated = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield failures
    finally:
        log.removeHandler(handler)
        log.propagate = propagated
