"""A closed connection is freed at once, by reference counts: none of its objects waits for the garbage collector."""

from __future__ import annotations

import asyncio
import collections
import gc

import pytest

import kernel
from kernel.channel import Channel
from kernel.lane import LaneKeeper
from kernel.link import Link
from kernel.session.base import Session, Stream

OF_A_CONNECTION = (Channel, kernel.Connection, LaneKeeper, Link, Session, Stream)
GUARD_SECONDS = 30.0


class AtOnce(kernel.Service):
    name = "at-once"

    def __init__(self) -> None:
        """No options."""

    def on_messages(self, channel, messages):
        if messages == [b"fail"]:
            raise RuntimeError("on purpose")
        channel.send_many(messages)


class Later(kernel.Service):
    name = "later"

    def __init__(self) -> None:
        """No options."""

    async def serve(self, channel):
        async for message in channel:
            channel.send(message)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive():
    """What there is of connections, by type."""
    return collections.Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, OF_A_CONNECTION))


async def is_freed(before):
    async with asyncio.timeout(GUARD_SECONDS):
        while alive() - before:  # noqa: ASYNC110  nobody tells that something was freed
            await asyncio.sleep(0.01)


@pytest.fixture(params=["tcp-length", "tcp-knl", "unix-knl", "udp", "tls"])
def endpoint(request, tmp_path):
    return {
        "tcp-length": "tcp://127.0.0.1:0?framing=length",
        "tcp-knl": "tcp://127.0.0.1:0",
        "unix-knl": f"unix:{tmp_path}/s",
        "udp": "udp://127.0.0.1:0",
        "tls": f"tls+tcp://127.0.0.1:0?self_signed={tmp_path}/own.pem",
    }[request.param]


@pytest.mark.parametrize("service", [AtOnce, Later])
async def test_a_closed_connection_is_freed(endpoint, service, no_collector):
    async with kernel.Server([service()], [endpoint]) as server:
        before = alive()
        for n in range(3):
            async with kernel.connect(server.endpoints[0], service.name) as channel:
                channel.send(b"%d" % n)
                assert await channel.receive() == b"%d" % n
                assert alive() - before
            del channel
        await is_freed(before)


async def test_a_connection_that_was_reset_is_freed(no_collector):
    async with kernel.Server([AtOnce()], ["tcp://127.0.0.1:0"]) as server:
        before = alive()
        client = await kernel.dial(server.endpoints[0])
        channel = await client.open("at-once")
        channel.send(b"x")
        assert await channel.receive() == b"x"
        client.abort()
        del client, channel
        await is_freed(before)


async def test_a_connection_whose_service_failed_is_freed(no_collector, caplog):
    caplog.set_level("CRITICAL", "kernel.link")  # a record would hold the exception, and that the frames
    async with kernel.Server([AtOnce()], ["tcp://127.0.0.1:0?framing=length"]) as server:
        before = alive()
        async with kernel.connect(server.endpoints[0], "at-once") as channel:
            channel.send(b"fail")
            await channel.wait_closed()
        del channel
        await is_freed(before)


def test_what_hung_up_is_forgotten_by_the_loops_set(no_collector):
    """Under uvloop a connection is in a set of ours, which must not keep it."""
    uvloop = pytest.importorskip("uvloop")

    async def serve():
        async with kernel.Server([AtOnce()], ["tcp://127.0.0.1:0"]) as server:
            before = alive()
            async with kernel.connect(server.endpoints[0], "at-once") as channel:
                channel.send(b"x")
                assert await channel.receive() == b"x"
            del channel
            await is_freed(before)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
