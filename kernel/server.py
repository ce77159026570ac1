"""A server: services on one side, listeners on the other, links between them. Embeddable in any asyncio program.

    async with Server(["echo"], ["tcp://127.0.0.1:0"]) as server:
        print(server.endpoints)

Start order: everything is checked, then the services start, then the listeners bind; what fails half-way undoes what
was done. Drain order: listeners close, peers are told (GOAWAY), channels finish their work until the deadline, links
close, services stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from kernel import access, options
from kernel.admission import Admission, Refusal, source_of
from kernel.api import Connection, Listener, Peer, Service, ServiceContext
from kernel.auth.level import NONE
from kernel.auth.policy import AccessPolicy
from kernel.channel import Channel
from kernel.counts import Counts
from kernel.endpoint import Endpoint
from kernel.errors import BrokenPlugin, Code, EndpointError, PluginError, StartError, UsageError
from kernel.exposure import check_exposure
from kernel.limits import Limits
from kernel.link import TICK_SECONDS, Link
from kernel.refusals import Refusals
from kernel.registry import SERVICES, Registry
from kernel.session.base import Stream
from kernel.throttle import Throttle
from kernel.wiring import Wiring, check_needs, wire

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

log = logging.getLogger("kernel.server")

Plugin = str | type[Service] | Service

S = TypeVar("S")
T = TypeVar("T")

# When stopping: how long goodbyes may take to leave.
_GOODBYE_SECONDS = 1.0
# And how long a service's tasks may take to end that were cancelled.
_CANCEL_SECONDS = 5.0


class Server:
    """Serve some services on some endpoints. The constructor only remembers; `start` does.

    Args:
        plugins: services: `"echo"`, `"echo?mode=upper"`, a class derived from `Service`, or an instance of one.
        listen: endpoints, in the order in which `endpoints` will give what was bound.
        limits: see `Limits`.
        registry: where plugins are found; None: all that is installed.
        keys: with which peers prove who they are (`auth=hmac`); a listener that has no other way then asks for it.
        policy: who may open which service; None: whoever has met his listener's level may open everything.
        allow_insecure_network: listeners may be open to the network without authentication or encryption.
        strict_plugins: a broken plugin fails the start; off: it is named in the log and left out, with what needs it.
        access_log: log each channel when it is over (`kernel.access`).

    Attributes:
        counts: what has happened since the start.
    """

    def __init__(
        self,
        plugins: Sequence[Plugin],
        listen: Sequence[str | Endpoint],
        *,
        limits: Limits | None = None,
        registry: Registry | None = None,
        keys: Keyring | None = None,
        policy: AccessPolicy | None = None,
        allow_insecure_network: bool = False,
        strict_plugins: bool = True,
        access_log: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self._plugins = list(plugins)
        self._listen = list(listen)
        self._registry = registry or Registry()
        self.keys = keys
        self._policy = policy or AccessPolicy()
        self._allow_insecure_network = allow_insecure_network
        self._strict_plugins = strict_plugins
        self._access_log = access_log
        self.counts = Counts()
        self._services: dict[str, _Hosted] = {}
        self._wirings: list[Wiring] = []
        self._listeners: list[Listener] = []
        self._links: dict[Link, _Place] = {}
        self._admission = Admission(self.limits)
        self._refusals = Refusals()
        self._refused = Throttle(log)
        self._denied = Throttle(log)
        self._ticker: asyncio.TimerHandle | None = None
        self._draining = False
        self._closed: asyncio.Event | None = None
        self._idle: asyncio.Event | None = None
        self._linkless = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Check everything, start the services, bind the listeners.

        Raises:
            UsageError: something is wrong with what was asked for.
            StartError: the outside world refused.
        """
        if self._closed is not None:
            raise UsageError("this server was started before: make another one")
        self._closed, self._idle = asyncio.Event(), asyncio.Event()
        self._wirings = self._check()
        try:
            for hosted in self._services.values():
                await hosted.start()
                self._check_wanted()
            for index, wiring in enumerate(self._wirings):
                self._listeners.append(await wiring.transport.listen(functools.partial(self._accept, index)))
                self._check_wanted()
        except BaseException:
            await self.stop()
            raise
        self._tick()

    @property
    def state(self) -> Literal["starting", "serving", "draining", "stopped"]:
        """Where it is in its life; peers are taken while it is serving."""
        if self._closed is not None and self._closed.is_set():
            return "stopped"
        if self._draining:
            return "draining"
        return "starting" if self._ticker is None else "serving"

    @property
    def endpoints(self) -> list[Endpoint]:
        """What was bound, in the order of `listen`; a client can dial each."""
        return [listener.dial_endpoint for listener in self._listeners]

    @property
    def listening(self) -> list[tuple[Endpoint, Wiring]]:
        """What was bound, with how it is served."""
        return list(zip(self.endpoints, self._wirings, strict=True))

    @property
    def services(self) -> list[str]:
        """The names of what is served."""
        return list(self._services)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    @property
    def channels(self) -> list[Channel]:
        """All channels that are open."""
        return [channel for link in self._links for channel in link.channels]

    def set_limits(self, limits: Limits) -> None:
        """Change the limits for connections to come, for their number, and for the drain.

        Connections that are open keep theirs, and so does what a transport holds for all of its peers.
        """
        self.limits = self._admission.limits = limits
        self._wirings = [self._wire(wiring.endpoint, wiring.service) for wiring in self._wirings]

    def set_access(self, keys: Keyring | None, policy: AccessPolicy | None) -> None:
        """Change the keys for connections to come, and the policy for channels to come.

        Raises:
            UsageError: a listener would ask for another level of authentication than it does; nothing is changed.
        """
        before, self.keys = self.keys, keys
        try:
            wirings = [self._wire(wiring.endpoint, wiring.service) for wiring in self._wirings]
            for old, new in zip(self._wirings, wirings, strict=True):
                if old.auth != new.auth:
                    raise UsageError(f"'{old.endpoint}' would change from auth={old.auth} to auth={new.auth}: restart")
        except UsageError:
            self.keys = before
            raise
        self._wirings, self._policy = wirings, policy or AccessPolicy()

    async def drain(self, deadline_seconds: float | None = None) -> None:
        """Stop in order: take nothing new, let channels finish until the deadline, then stop.

        Args:
            deadline_seconds: None: `Limits.drain_seconds_max`.
        """
        if self._idle is None or self._draining:
            return
        self._draining = True
        await self._close_listeners()
        for link in list(self._links):
            link.go_away(Code.SHUTTING_DOWN, "the server is shutting down")
        for hosted in self._services.values():
            hosted.drain()
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.drain_seconds_max if deadline_seconds is None else deadline_seconds):
                await self._idle.wait()
        await self.stop()

    async def stop(self) -> None:
        """Stop now: channels are reset, connections closed. May be called at any time, and again.

        Cancelled, it has no more patience: connections are closed all the same, services may be left to the next call.
        """
        if self._closed is None:
            return
        self._draining = True
        try:
            await self._close_listeners()
            for link in list(self._links):
                link.close(Code.SHUTTING_DOWN, "the server is shutting down")
            for hosted in self._services.values():
                await hosted.stop()
            if self._links:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE_SECONDS):
                        await self._linkless.wait()
        finally:
            for link in list(self._links):
                link.abort()
            self._refusals.abort()
            if self._ticker is not None:
                self._ticker.cancel()
            self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until the server has stopped."""
        if self._closed is not None:
            await self._closed.wait()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- start -----------------------------------------------------------------------------------------------------

    def _check(self) -> list[Wiring]:
        """All that can be known before anything is started."""
        if not self._plugins:
            raise UsageError("a server needs a service: name at least one plugin, for example echo")
        if not self._listen:
            raise UsageError("a server needs an endpoint to listen on, for example tcp://127.0.0.1:7000")
        names = plugin_names(self._plugins)
        for name in names:
            if names.count(name) > 1:
                raise PluginError(f"the service '{name}' is named twice: serve it once, on several endpoints")
        made = self._unbroken(self._plugins, lambda plugin: _Hosted.make(plugin, self.limits, self._registry))
        self._services = {hosted.name: hosted for hosted in made}
        only = names[0] if len(names) == 1 else ""
        wirings = self._unbroken(self._listen, lambda endpoint: self._wire(endpoint, only))
        served = [wiring for wiring in wirings if self._is_served(wiring, names)]
        if not served:
            raise StartError("nothing is left to listen on: every listener was bound to a service that is broken")
        for wiring in served:
            check_exposure(wiring, allowed=self._allow_insecure_network)
        for name in self._policy.services - set(names):
            log.warning("the policy names the service '%s', which is not served here", name)
        return served

    def _wire(self, endpoint: str | Endpoint, service: str) -> Wiring:
        offers = {name: hosted.service.dialects for name, hosted in self._services.items()}
        limits = self.limits
        if any(hosted.service.bulk for hosted in self._services.values()):
            limits = limits.for_bulk()
        return wire(endpoint, self._registry, limits, client=False, service=service, offers=offers, keys=self.keys)

    def _unbroken(self, items: Sequence[S], make: Callable[[S], T]) -> list[T]:
        """What can be made of the items; those whose plugin is broken are left out, unless that leaves nothing."""
        made: list[T] = []
        broken: list[BrokenPlugin] = []
        for item in items:
            try:
                made.append(make(item))
            except BrokenPlugin as error:
                broken.append(error)
        if broken and (self._strict_plugins or not made):
            raise broken[0]
        for fault in broken:
            log.error("%s; it is left out", fault)
        return made

    def _is_served(self, wiring: Wiring, names: list[str]) -> bool:
        """Check a listener against its services; False: its only service has been left out."""
        bound = [wiring.service] if not wiring.channels else list(self._services)
        for name in bound:
            if name not in names:
                what = (
                    f"serves '{name}', which is not among the plugins"
                    if name
                    else "has no channels to tell services apart"
                )
                raise UsageError(
                    f"'{wiring.endpoint}' (framing={wiring.framing}) {what}: "
                    f"add service=NAME to it, one of {', '.join(names)}"
                )
            if name not in self._services:
                log.error("%s is left out with its service '%s'", wiring.endpoint, name)
                return False
            service = self._services[name].service
            dialect = service.dialects[wiring.dialect] if wiring.dialect else None
            check_needs(name, service.needs if dialect is None or dialect.needs is None else dialect.needs, wiring)
        return True

    def _check_wanted(self) -> None:
        """Somebody may have stopped the server while it was starting, and could not see what has come up since."""
        if self._draining:
            raise StartError("the server was stopped while it was starting")

    async def _close_listeners(self) -> None:
        for listener in self._listeners:
            try:
                await listener.close()
            except Exception:
                log.exception("%s failed to close", listener.endpoint.without_options())

    # --- links -----------------------------------------------------------------------------------------------------

    def _accept(self, index: int, connection: Connection) -> None:
        wiring = self._wirings[index]
        source = source_of(connection)
        refusal = self._refusal(source)
        if refusal is not None:
            self._turn_away(connection, wiring, refusal)
            return
        try:
            link = self._link(connection, wiring)
        except Exception:  # a plugin's fault: its framing has made no decoder, for example
            log.exception("the connection with %s cannot be served on %s", connection.peer, wiring.endpoint)
            self._admission.leave(source)
            connection.abort()
            return
        self.counts.accepted += 1
        self._links[link] = _Place(source, wiring.auth)
        self._linkless.clear()
        link.start()

    def _link(self, connection: Connection, wiring: Wiring) -> Link:
        peer = Peer(connection.peer, wiring.endpoint.scheme, connection.principal, wiring.dialect)
        link = Link(connection, wiring.session(connection), self, peer)
        link.message_bytes_max = wiring.capabilities.message_bytes_max
        link.reliable = wiring.capabilities.reliable and wiring.capabilities.ordered
        return link

    def _refusal(self, source: str) -> Refusal | None:
        """Take a place for a connection, or say why there is none."""
        if self._draining:
            return Refusal(Code.SHUTTING_DOWN, "the server is shutting down")
        return self._admission.admit(source, asyncio.get_running_loop().time())

    def _turn_away(self, connection: Connection, wiring: Wiring, refusal: Refusal) -> None:
        self.counts.turned_away[refusal.code] += 1
        self._refused.record(
            logging.WARNING,
            "a connection was turned away",
            peer=connection.peer,
            code=refusal.code.label,
            reason=refusal.reason,
        )
        self._refusals.turn_away(connection, wiring.farewell(refusal.code, refusal.reason))

    def link_ready(self, link: Link) -> None:
        log.debug("%s is connected", link.peer.address)

    def open_requested(self, link: Link, stream: Stream) -> None:
        denial = self._denial(link, stream.service)
        if denial is None:
            self.counts.opened[stream.service] += 1
            channel = self._services[stream.service].open(link, stream)
            if self._access_log:
                access.record(channel)
            return
        self.counts.denied[denial.code] += 1
        link.refuse(stream, denial.code, denial.reason)
        told = _told_of(link, denial.code) | {"service": stream.service}
        self._denied.record(logging.WARNING, "a service was refused", **told)

    def _denial(self, link: Link, service: str) -> Refusal | None:
        """Why a peer may not have a service; who may not have it does not learn whether it exists."""
        principal, level = link.peer.principal, self._links[link].auth
        if level != NONE and principal.mechanism != level:
            return Refusal(Code.UNAUTHENTICATED, f"this needs a peer that has proved who it is, by '{level}'")
        if not self._policy.permits(principal, service, level):
            return Refusal(Code.FORBIDDEN, f"{principal} may not open '{service}' here")
        if service not in self._services:
            names = ", ".join(name for name in self._services if self._policy.permits(principal, name, level))
            return Refusal(Code.NO_SUCH_SERVICE, f"there is no service '{service}' here, but {names}")
        return None

    def link_going_away(self, link: Link, code: Code, reason: str) -> None:
        """A client that takes no new channels changes nothing: we open none."""

    def link_ended(self, link: Link, code: Code, reason: str) -> None:
        self.counts.ended[code] += 1
        self._admission.leave(self._links.pop(link).source)
        if not self._links:
            self._linkless.set()
        log.log(
            logging.DEBUG if code is Code.OK else logging.INFO,
            "a connection ended",
            extra=_told_of(link, code) | {"reason": reason},
        )
        self._check_idle()

    def _check_idle(self) -> None:
        if self._draining and self._idle is not None and not any(link.channels for link in self._links):
            self._idle.set()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for link in list(self._links):
            link.tick(now)
        self._admission.forget_idle(now)
        self._check_idle()
        self._ticker = loop.call_later(TICK_SECONDS, self._tick)


class _Place(NamedTuple):
    """What the server keeps of a link: on whose account it goes, and the level of authentication that it must meet."""

    source: str
    auth: str


def _told_of(link: Link, code: Code) -> dict[str, str]:
    """Who it is about, and why, as fields of a log record."""
    return {"peer": link.peer.address, "principal": str(link.peer.principal), "code": code.label}


class _Hosted:
    """A service in a server, with the tasks that run for it."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name
        self._serves = type(service).serve is not Service.serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    @classmethod
    def make(cls, plugin: Plugin, limits: Limits, registry: Registry) -> _Hosted:
        if isinstance(plugin, Service):
            return cls(plugin, plugin.name)
        given: dict[str, str] = {}
        if isinstance(plugin, str):
            name, given = _parse_plugin(plugin)
            kind: type[Service] = registry.load(SERVICES, name)
        else:
            name, kind = plugin.name, plugin
        tasks: list[_Hosted] = []
        context = ServiceContext(
            name, limits, logging.getLogger(f"kernel.service.{name}"), lambda work: tasks[0].spawn(work)
        )
        hosted = cls(kind(options.parse(kind.Options, given, f"the service {name}"), context), name)
        tasks.append(hosted)
        return hosted

    async def start(self) -> None:
        self._started = True
        try:
            await self.service.start()
        except (UsageError, StartError):
            raise
        except Exception as error:
            raise StartError(f"the service '{self.name}' could not start: {type(error).__name__}: {error}") from error

    def drain(self) -> None:
        try:
            self.service.drain()
        except Exception:
            log.exception("the service '%s' failed to drain", self.name)

    async def stop(self) -> None:
        if not self._started:
            return
        self._started = False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CANCEL_SECONDS)
            if stuck:
                log.error("the service '%s' ignores that it is cancelled: %d of its tasks go on", self.name, len(stuck))
        try:
            await self.service.stop()
        except Exception:
            log.exception("the service '%s' failed to stop", self.name)

    def open(self, link: Link, stream: Stream) -> Channel:
        pieces = not self.service.whole_messages
        if not self._serves:
            return link.accept(stream, self.service.handler(), pieces=pieces)
        channel = link.accept(stream, None, pieces=pieces)
        task = self.spawn(self._serve(channel))
        self.spawn(_cancel_when_over(channel, task))
        return channel

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, channel: Channel) -> None:
        try:
            await self.service.serve(channel)
            channel.close()
        except asyncio.CancelledError:
            channel.reset(Code.CANCELLED, "the service was cancelled")
            raise
        except Exception as error:
            if channel.code is None:
                log.exception("the service '%s' failed; its channel with %s is reset", self.name, channel.peer.address)
            channel.reset(Code.INTERNAL, f"the service failed: {type(error).__name__}")


async def _cancel_when_over(channel: Channel, task: asyncio.Task[None]) -> None:
    """A service whose channel is gone has nobody to serve."""
    await channel.wait_closed()
    task.cancel()


def _parse_plugin(text: str) -> tuple[str, dict[str, str]]:
    """`echo?mode=upper` is a name and options, like an endpoint's."""
    try:
        endpoint = Endpoint.parse(f"plugin://{text}")
    except EndpointError:
        raise UsageError(f"'{text}' is not a plugin with options: write NAME or NAME?option=value&...") from None
    return endpoint.address, endpoint.options


def plugin_names(plugins: Iterable[Plugin]) -> list[str]:
    """The names of services given as `Server` takes them."""
    return [_parse_plugin(plugin)[0] if isinstance(plugin, str) else plugin.name for plugin in plugins]
