"""Services that are broken on purpose, each in one way: the kit finds the fault, by the name of its check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from kernel import Channel, ChannelClosed, Code, Dialect, Service
from kernel.testing import ServiceSuite, run_checks

pytestmark = pytest.mark.any_engine

FAULTS: list[tuple[str, type[Service]]] = []


class Shout(Service):
    """The sound one, from which the others derive."""

    name = "shout"
    dialects: ClassVar[Any] = {"typed": Dialect({"framing": "line"})}

    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send(message.upper())
            await channel.drain()


class ShoutSuite(ServiceSuite):
    patience_seconds = 0.5
    held_seconds_max = 0.3
    stuck_seconds_max = 1.0

    async def talk(self, channel: Channel) -> None:
        channel.send(b"hello")
        channel.send(b"x" * 1000)
        channel.finish()
        answers = [message async for message in channel]
        assert answers == [b"HELLO", b"X" * 1000], f"the answers are {answers}"


def found_by(check: str) -> Callable[[type[Service]], type[Service]]:
    """The class below is broken, and this check says so."""

    def remember(fault: type[Service]) -> type[Service]:
        FAULTS.append((check, fault))
        return fault

    return remember


@found_by("it is declared")
class NeedsWhatNobodyKnows(Shout):
    needs: Any = "reliable"


@found_by("it is declared")
class HasAnExampleForNowhere(Shout):
    example = "kernel shout hello"


@found_by("it is declared")
class NamesAFramingForADialect(Shout):
    dialects: ClassVar[Any] = {"typed": "line"}


@found_by("making it does nothing")
class OpensAFileInItsConstructor(Shout):
    def __init__(self, options: object, context: Any) -> None:
        super().__init__(options, context)
        self.file = os.open("/dev/null", os.O_RDONLY)


@found_by("making it does nothing")
class SpawnsInItsConstructor(Shout):
    def __init__(self, options: object, context: Any) -> None:
        super().__init__(options, context)
        context.spawn(asyncio.sleep(0))


@found_by("it starts and stops")
class LeavesAFileOpen(Shout):
    async def start(self) -> None:
        self.file = os.open("/dev/null", os.O_RDONLY)


@found_by("it starts and stops")
class LeavesATaskBehind(Shout):
    async def start(self) -> None:
        self.task = asyncio.ensure_future(asyncio.sleep(3600))


@found_by("it starts and stops")
class FailsToStop(Shout):
    async def stop(self) -> None:
        raise RuntimeError("the disk is gone")


@found_by("it starts and stops")
class TakesItsTimeToStop(Shout):
    async def stop(self) -> None:
        await asyncio.sleep(5)


@found_by("a conversation works")
class Whispers(Shout):
    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send(message.lower())


@found_by("a conversation works")
class AnswersOnePeer(Shout):
    served = False

    async def serve(self, channel: Channel) -> None:
        if self.served:
            channel.reset(Code.OVERLOADED, "one is enough")
        self.served = True
        await super().serve(channel)


@found_by("many at once")
class MixesItsPeersUp(Shout):
    async def serve(self, channel: Channel) -> None:
        async for self.message in channel:
            await asyncio.sleep(0.01)
            channel.send(self.message.upper())


@found_by("many at once")
class HoldsALockForAll(Shout):
    def __init__(self, options: object, context: Any) -> None:
        super().__init__(options, context)
        self.lock = asyncio.Lock()

    async def serve(self, channel: Channel) -> None:
        async with self.lock:
            await asyncio.sleep(0.1)
            await super().serve(channel)


@found_by("silent peers hold nobody up")
class ServesOneAfterTheOther(Shout):
    def __init__(self, options: object, context: Any) -> None:
        super().__init__(options, context)
        self.lock = asyncio.Lock()

    async def serve(self, channel: Channel) -> None:
        async with self.lock:
            await super().serve(channel)


@found_by("silent peers hold nobody up")
class FailsOverSilence(Shout):
    async def serve(self, channel: Channel) -> None:
        first = await channel.receive()
        channel.send(first.upper())  # type: ignore[union-attr]
        await super().serve(channel)


@found_by("cut links leave nothing")
class LeavesATaskForEachPeer(Shout):
    async def serve(self, channel: Channel) -> None:
        ticking = asyncio.ensure_future(asyncio.sleep(3600))
        await super().serve(channel)
        ticking.cancel()


@found_by("cut links leave nothing")
class LeavesAFileForEachPeer(Shout):
    async def serve(self, channel: Channel) -> None:
        file = os.open("/dev/null", os.O_RDONLY)
        await super().serve(channel)
        os.close(file)


@found_by("cancelled channels leave nothing")
class SwallowsCancellation(Shout):
    async def serve(self, channel: Channel) -> None:
        try:
            await super().serve(channel)
        except (asyncio.CancelledError, ChannelClosed):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


@found_by("slow readers are held back")
class SendsRegardless(Shout):
    """Nothing holds it back: a thousand answers to each message."""

    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send_many([message] * 1000)


@found_by("nonsense is answered or refused")
class FailsOverBadText(Shout):
    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send(message.decode().upper().encode())


@found_by("nonsense is answered or refused")
class FailsInACallback(Service):
    name = "shout"

    def on_message(self, channel: Channel, message: bytes) -> None:
        channel.send(message[:1] + message[1:] if message[0] else b"")


@found_by("draining ends")
class HoldsUpTheDrain(Shout):
    async def serve(self, channel: Channel) -> None:
        try:
            await super().serve(channel)
        except asyncio.CancelledError:
            await asyncio.sleep(2)
            raise


@found_by("stopping at any moment leaves nothing")
class WorksOnAfterTheEnd(Shout):
    async def serve(self, channel: Channel) -> None:
        try:
            await super().serve(channel)
        finally:
            self.task = asyncio.ensure_future(asyncio.sleep(3600))


@found_by("its dialects live through anything")
class DoesNotExpectAnEarlyEnd(Shout):
    async def serve(self, channel: Channel) -> None:
        if channel.dialect:
            await channel.receive()
            raise ValueError("no greeting")
        await super().serve(channel)


@found_by("its dialects live through anything")
class SpeaksAFramingThatIsNot(Shout):
    dialects: ClassVar[Any] = {"typed": Dialect({"framing": "morse"})}


# --- faults after which nothing would ever end ----------------------------------------------------------------------


@found_by("cut links leave nothing")
class IgnoresItsCancellationForEver(Shout):
    async def serve(self, channel: Channel) -> None:
        with contextlib.suppress(asyncio.CancelledError, ChannelClosed):
            await super().serve(channel)
        while channel.code is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


@found_by("a conversation works")
class DoesNotSeeTheEnd(Shout):
    """None, at once and again and again."""

    async def serve(self, channel: Channel) -> None:
        while True:
            message = await channel.receive()
            if message is not None:
                channel.send(message.upper())


@found_by("a conversation works")
class Sleeps(Shout):
    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            time.sleep(0.001)  # noqa: ASYNC251 - it is the fault
            channel.send(message.upper())


@found_by("a conversation works")
class ThinksForLong(Shout):
    async def serve(self, channel: Channel) -> None:
        message = await channel.receive()
        until = time.thread_time() + 1.0
        while time.thread_time() < until:
            pass
        channel.send((message or b"").upper())
        await super().serve(channel)


@found_by("a conversation works")
class WaitsForALock(Shout):
    async def serve(self, channel: Channel) -> None:
        lock = threading.Lock()
        with lock, lock:
            await super().serve(channel)


@found_by("a conversation works")
class EndsTheProcess(Shout):
    async def serve(self, channel: Channel) -> None:
        sys.exit(0)


@found_by("cancelled channels leave nothing")
class AnswersLater(Shout):
    """In a task for each message, which outlives the channel and sends all the same."""

    def __init__(self, options: object, context: Any) -> None:
        super().__init__(options, context)
        self.answering: set[asyncio.Task[None]] = set()

    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            task = asyncio.ensure_future(self.answer(channel, message))
            self.answering.add(task)
            task.add_done_callback(self.answering.discard)
        await asyncio.wait(self.answering)

    async def answer(self, channel: Channel, message: bytes) -> None:
        await asyncio.sleep(0.01)
        channel.send(message.upper())


WORDS = {
    IgnoresItsCancellationForEver: "IgnoresItsCancellationForEver.serve, test_broken_services.py line ",
    DoesNotSeeTheEnd: "it holds the event loop, and nobody else is served: DoesNotSeeTheEnd.serve",
    Sleeps: "it calls time.sleep() in the event loop, and nobody else is served: Sleeps.serve, test_broken_services.py",
    ThinksForLong: "it holds the event loop, and nobody else is served: ThinksForLong.serve",
    WaitsForALock: "it holds the event loop, and nobody else is served: WaitsForALock.serve",
    EndsTheProcess: "it ends the process: SystemExit(0)",
}


def suite_of(kind: type[Service]) -> type[ServiceSuite]:
    return type("SuiteOfOne", (ShoutSuite,), {"service": kind})


@pytest.mark.parametrize(("check", "fault"), [pytest.param(c, f, id=f.__name__) for c, f in FAULTS])
def test_each_fault_is_found(check: str, fault: type[Service]):
    [outcome] = run_checks(suite_of(fault), ["test_" + check.replace(" ", "_")])
    assert outcome.status == "failed", outcome
    assert outcome.detail.isprintable()
    assert WORDS.get(fault, "") in outcome.detail


class TestSound(ShoutSuite):
    """What the faults start from has none."""

    service = Shout
    patience_seconds = 20.0
    held_seconds_max = 1.0
    stuck_seconds_max = 10.0


def test_every_check_has_a_fault():
    checks = {name.removeprefix("test_").replace("_", " ") for name in ServiceSuite.check_names()}
    assert {check for check, _ in FAULTS} == checks
