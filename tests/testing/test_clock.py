"""The virtual clock: waiting costs nothing, order is kept, and waiting for ever is an error."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from kernel.testing import Deadlock, VirtualLoop


def run(work: object) -> object:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)  # type: ignore[arg-type]


def test_a_month_takes_no_time():
    async def sleep() -> float:
        await asyncio.sleep(30 * 86400)
        return asyncio.get_running_loop().time()

    began_at = time.monotonic()
    assert run(sleep()) == pytest.approx(30 * 86400)
    assert time.monotonic() - began_at < 60


def test_time_stands_still_while_something_runs():
    async def spin() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(spin()) == 0


def test_what_is_due_first_comes_first():
    async def sleepers() -> list[float]:
        woken: list[float] = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(asyncio.get_running_loop().time())

        await asyncio.gather(*(sleeper(seconds) for seconds in (3.0, 0.5, 2.0, 0.1)))
        return woken

    assert run(sleepers()) == pytest.approx([0.1, 0.5, 2.0, 3.0])


def test_a_timeout_is_due_on_the_same_clock():
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run(wait()) == pytest.approx(10)


def test_waiting_for_ever_is_an_error():
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="everybody waits"):
        run(wait())


def test_real_sockets_are_served_before_time_passes():
    async def talk() -> float:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"here already")
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(ours, 100) == b"here already"
            return loop.time()

    assert run(talk()) == 0
