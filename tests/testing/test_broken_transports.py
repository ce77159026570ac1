"""Transports that are broken on purpose, each in one way: the kit finds the fault, by the name of its check."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from testing.relay import Relay, RelayLayer, made as relays

from kernel import Acceptor, Buffer, Capabilities, Connection, DialError, Endpoint, Listener, Receiver, StartError
from kernel.registry import Registry
from kernel.testing import LocalRegistry, Outcome, TransportSuite, run_checks

pytestmark = pytest.mark.any_engine

Fault = type[Relay] | type[RelayLayer]
FAULTS: list[tuple[str, Fault]] = []


def found_by(check: str) -> Callable[[Fault], Fault]:
    """The class below is broken, and this check says so."""

    def remember(fault: Fault) -> Fault:
        FAULTS.append((check, fault))
        return fault

    return remember


# --- what arrives ------------------------------------------------------------------------------------------------


@found_by("tiny writes arrive")
class ForgetsEmptyAndTiny(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        super().write([buffer for buffer in buffers if len(buffer) > 1])


@found_by("large writes arrive")
class SendsAtMostOneMegabyte(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        super().write([bytes(buffer)[: 1 << 20] for buffer in buffers])


@found_by("many buffers in one write arrive")
class SendsAtMostThousandBuffers(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        super().write(buffers[:1024])


@found_by("many buffers in one write arrive")
class TakesNothingForTheEnd(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        if buffers:
            super().write(buffers)
        else:
            self.inner.finish_writing()


@found_by("many buffers in one write arrive")
class EmptiesTheList(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        mine: Any = buffers
        waiting = []
        while mine:
            waiting.append(mine.pop(0))
        super().write(waiting)


@found_by("every kind of buffer can be written")
class WantsBytes(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        super().write([buffer.replace(b"", b"") for buffer in buffers])  # a memoryview has no such method


@found_by("bytes go where the receiver wants them")
class FillsTheViewTwice(Relay):
    def filled(self, nbytes: int) -> None:
        super().filled(nbytes)
        super().filled(0)


@found_by("bytes go where the receiver wants them")
class IgnoresWhereTheViewEnds(Relay):
    def filled(self, nbytes: int) -> None:
        super().filled(nbytes + 1)


@found_by("order and reliability are as declared")
class SwapsWrites(Relay):
    held: Buffer | None = None
    count = 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        self.count += 1
        if self.count == 2000:
            self.held = buffers[0]
            return
        held, self.held = self.held, None
        super().write([*buffers, held] if held is not None else buffers)


@found_by("messages keep their boundaries")
class CallsAStreamMessages(RelayLayer):
    class Wrap(Relay):
        def data_received(self, data: Buffer) -> None:
            self.receiver.messages_received([bytes(data)])

        def wanted(self) -> None:
            return None

    wrap = Wrap

    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities(), preserves_messages=True)


@found_by("tiny writes arrive")
class DeliversMessagesOfAStream(Relay):
    def data_received(self, data: Buffer) -> None:
        self.receiver.messages_received([bytes(data)])


# --- back-pressure -----------------------------------------------------------------------------------------------


@found_by("pause reading holds the peer")
class IgnoresPause(Relay):
    def pause_reading(self) -> None:
        pass


@found_by("pause reading holds the peer")
class HoardsWhilePaused(Relay):
    """Reads on and keeps what came: the peer never feels it."""

    paused = False

    def __init__(self, inner: Connection) -> None:
        super().__init__(inner)
        self.hoard = bytearray()

    def wanted(self) -> None:
        return None

    def data_received(self, data: Buffer) -> None:
        if self.paused:
            self.hoard += data
        else:
            super().data_received(data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        hoard, self.hoard = self.hoard, bytearray()
        if hoard:
            asyncio.get_running_loop().call_soon(self.receiver.data_received, hoard)


@found_by("pausing inside a delivery holds at once")
class DeliversOnceMore(Relay):
    def wanted(self) -> None:
        return None

    def data_received(self, data: Buffer) -> None:
        middle = len(data) // 2
        super().data_received(data[:middle])
        super().data_received(data[middle:])


@found_by("pending bytes are told honestly")
class HidesPending(Relay):
    @property
    def write_pending_bytes(self) -> int:
        return min(1, super().write_pending_bytes)


@found_by("write drained is called")
class NeverDrained(Relay):
    def write_drained(self) -> None:
        pass


@found_by("write drained is called")
class DrainedTwice(Relay):
    def write_drained(self) -> None:
        super().write_drained()
        super().write_drained()


@found_by("write drained is called")
class DrainedTooEarly(Relay):
    def write(self, buffers: Sequence[Buffer]) -> None:
        super().write(buffers)
        asyncio.get_running_loop().call_soon(self.receiver.write_drained)


# --- ends --------------------------------------------------------------------------------------------------------


@found_by("half close ends one direction")
class ClosesBothWhenFinishing(Relay):
    def finish_writing(self) -> None:
        self.inner.close()


@found_by("pause reading holds the peer")
class NeverResumes(Relay):
    def resume_reading(self) -> None:
        pass


@found_by("half close ends one direction")
class SwallowsEof(Relay):
    def eof_received(self) -> None:
        pass


@found_by("half close ends one direction")
class ClosesAtEof(Relay):
    def eof_received(self) -> None:
        super().eof_received()
        self.inner.close()


@found_by("half close ends one direction")
class CallsAnOrderlyEndAnError(Relay):
    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error or ConnectionResetError())


@found_by("finishing without half close does no harm")
class ClosesWhenFinishing(RelayLayer):
    class Wrap(Relay):
        def finish_writing(self) -> None:
            self.inner.close()

    wrap = Wrap

    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities(), half_close=False)


@found_by("close sends what is pending")
class DropsPendingOnClose(Relay):
    def close(self) -> None:
        self.inner.abort()


@found_by("abort ends at once")
class TakesItsTimeToAbort(Relay):
    def abort(self) -> None:
        self.inner.close()


@found_by("connection lost comes once")
class LostTwice(Relay):
    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        asyncio.get_running_loop().call_soon(self.receiver.connection_lost, None)


@found_by("connection lost comes once")
class LostInsideTheCall(Relay):
    gone = False

    def abort(self) -> None:
        self.inner.abort()
        self.connection_lost(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.gone:
            self.gone = True
            super().connection_lost(error)


@found_by("connection lost comes once")
class NeverLost(Relay):
    def connection_lost(self, error: Exception | None) -> None:
        pass


@found_by("calls after the end are ignored")
class RaisesAfterTheEnd(Relay):
    gone = False

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self.gone:
            raise ConnectionResetError("the connection is gone")
        super().write(buffers)

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        super().connection_lost(error)


@found_by("calls after the end are ignored")
class SendsAfterClose(Relay):
    def close(self) -> None:
        asyncio.get_running_loop().call_later(0.05, self.inner.close)


@found_by("writing after finish writing is ignored")
class SendsAfterFinishing(Relay):
    def finish_writing(self) -> None:
        asyncio.get_running_loop().call_soon(self.inner.finish_writing)


@found_by("ending inside a delivery")
class DeliversAfterAbort(Relay):
    def wanted(self) -> None:
        return None

    def data_received(self, data: Buffer) -> None:
        super().data_received(data)
        super().data_received(b"one more")


@found_by("ending inside other calls")
class TouchesTheConnectionAfterEof(Relay):
    def eof_received(self) -> None:
        super().eof_received()
        super().eof_received()


@found_by("a connection can be turned away")
class CannotBeTurnedAwayUnstarted(Relay):
    started = False

    def start(self, receiver: Receiver) -> None:
        self.started = True
        super().start(receiver)

    def abort(self) -> None:
        if self.started:
            self.inner.abort()


# --- places ------------------------------------------------------------------------------------------------------


class Wrapped(Listener):
    """A listener around a listener."""

    def __init__(self, inner: Listener) -> None:
        self.inner = inner

    @property
    def endpoint(self) -> Endpoint:
        return self.inner.endpoint

    def pause(self) -> None:
        self.inner.pause()

    def resume(self) -> None:
        self.inner.resume()

    async def close(self) -> None:
        await self.inner.close()


class WrapsListeners(RelayLayer):
    listener: type[Wrapped]

    async def listen(self, accept: Acceptor) -> Listener:
        return self.listener(await super().listen(accept))


@found_by("what was bound can be dialled")
class PrintsPortZero(WrapsListeners):
    class listener(Wrapped):  # noqa: N801
        @property
        def endpoint(self) -> Endpoint:
            return self.inner.endpoint.with_address("127.0.0.1:0")


@found_by("what was bound can be dialled")
class ForgetsItsOptions(WrapsListeners):
    class listener(Wrapped):  # noqa: N801
        @property
        def endpoint(self) -> Endpoint:
            return self.inner.endpoint.without_options()


@found_by("a closed listener is gone")
class NeverCloses(WrapsListeners):
    class listener(Wrapped):  # noqa: N801
        async def close(self) -> None:
            LEAKED.append(self.inner._sock)


@found_by("a closed listener is gone")
class ClosesItsConnectionsToo(RelayLayer):
    async def listen(self, accept: Acceptor) -> Listener:
        class Closing(Wrapped):
            async def close(self) -> None:
                await super().close()
                for connection in accepted:
                    connection.abort()

        accepted: list[Connection] = []

        def remember(connection: Connection) -> None:
            accepted.append(connection)
            accept(connection)

        return Closing(await self.inner.listen(lambda connection: remember(self.wrap(connection))))


@found_by("close sends what is pending")
class SaysGoodbyeUnasked(Relay):
    def close(self) -> None:
        super().write([b"goodbye"])
        super().close()


@found_by("a paused listener accepts later")
class AcceptsWhilePaused(WrapsListeners):
    class listener(Wrapped):  # noqa: N801
        def pause(self) -> None:
            pass


@found_by("a place that is taken is refused")
class ChattyErrors(RelayLayer):
    async def listen(self, accept: Acceptor) -> Listener:
        try:
            return await super().listen(accept)
        except StartError as error:
            raise StartError(f"Traceback:\n{error}") from error


@found_by("a place that is taken is refused")
class BareErrors(RelayLayer):
    async def listen(self, accept: Acceptor) -> Listener:
        try:
            return await super().listen(accept)
        except StartError as error:
            raise OSError(98, "Address already in use") from error


@found_by("a place that is taken is refused")
class NamelessErrors(RelayLayer):
    async def listen(self, accept: Acceptor) -> Listener:
        try:
            return await super().listen(accept)
        except StartError as error:
            raise StartError("it is busy") from error


@found_by("nonsense is refused in one line")
class TrustsItsAddress(RelayLayer):
    def capabilities(self) -> Capabilities:
        int(self.endpoint.address.rpartition(":")[2])
        return super().capabilities()


@found_by("cancelling dial leaves nothing open")
class LeaksWhenCancelled(RelayLayer):
    async def dial(self) -> Connection:
        sock = socket.socket()
        LEAKED.append(sock)
        await asyncio.sleep(0)
        connection = await super().dial()
        sock.close()
        return connection


@found_by("cancelling dial leaves nothing open")
class SwallowsCancellation(RelayLayer):
    async def dial(self) -> Connection:
        return await asyncio.shield(asyncio.ensure_future(super().dial()))


@found_by("cancelling dial leaves nothing open")
class TriesAgainWhenCancelled(RelayLayer):
    async def dial(self) -> Connection:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
                return await super().dial()


@found_by("cancelling dial leaves nothing open")
class NeverEndsWhenCancelled(RelayLayer):
    async def dial(self) -> Connection:
        try:
            return await super().dial()
        except asyncio.CancelledError:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)


@found_by("a refused dial leaves nothing open")
class LeaksWhenRefused(RelayLayer):
    async def dial(self) -> Connection:
        sock = socket.socket()
        try:
            connection = await super().dial()
        except asyncio.CancelledError:
            sock.close()
            raise
        except DialError:
            LEAKED.append(sock)
            raise
        sock.close()
        return connection


@found_by("nothing is left behind")
class KeepsADescriptor(Relay):
    def connection_lost(self, error: Exception | None) -> None:
        LEAKED.append(socket.socket())
        super().connection_lost(error)


@found_by("addresses are for people")
class ShowsTheSocket(Relay):
    @property
    def peer(self) -> str:
        return "127.0.0.1\n"


@found_by("addresses are for people")
class TellsItsOwnAddressAsThePeers(Relay):
    @property
    def peer(self) -> str:
        return self.inner.local


@found_by("addresses are for people")
class SwapsItsAddresses(Relay):
    @property
    def local(self) -> str:
        return self.inner.peer

    @property
    def peer(self) -> str:
        return self.inner.local


@found_by("capabilities are declared before anything starts")
class LearnsItsCapabilitiesLater(RelayLayer):
    bound = False

    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities(), encrypted=self.endpoint.address.endswith(":0"))


@found_by("peer credentials are as declared")
class PromisesCredentials(RelayLayer):
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities(), identity="unix")


@found_by("many clients at once")
class MixesConnections(Relay):
    last: Any = None

    def data_received(self, data: Buffer) -> None:
        (MixesConnections.last or self).receiver.data_received(data)
        MixesConnections.last = self


@found_by("listeners do not disturb each other")
class OneListenerForAll(RelayLayer):
    accept: Any = None

    async def listen(self, accept: Acceptor) -> Listener:
        OneListenerForAll.accept = accept
        return await self.inner.listen(lambda connection: OneListenerForAll.accept(self.wrap(connection)))


LEAKED: list[socket.socket] = []


def layer_of(fault: Fault) -> type[RelayLayer]:
    return fault if issubclass(fault, RelayLayer) else type("Broken", (RelayLayer,), {"wrap": fault})


def suite_of(layer: type[RelayLayer], patience: float, seconds_max: float) -> type[TransportSuite]:
    class Suite(TransportSuite):
        endpoint = "relay+tcp://127.0.0.1:0"
        patience_seconds = patience
        quiet_seconds = 0.1
        check_seconds_max = seconds_max

        def registry(self) -> Registry:
            return LocalRegistry(layer)

    return Suite


def run(layer: type[RelayLayer], check: str | None = None) -> list[Outcome]:
    """What comes of all checks, or of one that will find a fault, and need not wait long for what never comes."""
    if check is None:
        return list(run_checks(suite_of(layer, patience=30.0, seconds_max=60.0)))
    return list(run_checks(suite_of(layer, patience=0.4, seconds_max=5.0), ["test_" + check.replace(" ", "_")]))


@pytest.fixture(autouse=True)
def clean() -> Any:
    yield
    for sock in [*LEAKED, *(relay.inner._sock for relay in relays)]:
        sock.close()
    LEAKED.clear()
    relays.clear()


def test_what_the_faults_start_from_has_none():
    assert [outcome for outcome in run(RelayLayer) if outcome.status == "failed"] == []


@pytest.mark.parametrize(("check", "fault"), FAULTS, ids=[fault.__name__ for _, fault in FAULTS])
def test_each_fault_is_found(check: str, fault: Fault):
    (outcome,) = run(layer_of(fault), check)

    assert (outcome.check, outcome.status) == (check, "failed")
    assert outcome.detail
    assert "\n" not in outcome.detail


def test_every_check_finds_a_fault():
    known = {check for check, _ in FAULTS}
    names = {name.removeprefix("test_").replace("_", " ") for name in TransportSuite.check_names()}
    assert names - known == {"a write of many messages is many messages"}
