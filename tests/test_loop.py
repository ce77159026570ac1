"""The loop that calls readers from its selector does what asyncio's own does, for readers, writers, timers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import select
import socket

import pytest

import kernel
from kernel.loop import DirectLoop, watch

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")

GUARD_SECONDS = 30.0
LOOPS = [DirectLoop, asyncio.SelectorEventLoop]


@pytest.fixture(params=LOOPS)
def runner(request):
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def until(condition):
    async with asyncio.timeout(GUARD_SECONDS):
        while not condition():  # noqa: ASYNC110  each turn lets the loop look at its sockets
            await asyncio.sleep(0)


def test_a_reader_is_called_for_what_comes_and_for_the_end(runner, pair):
    ours, theirs = pair
    got = []

    async def main():
        watch(asyncio.get_running_loop(), ours.fileno(), lambda: got.append(ours.recv(100)))
        theirs.send(b"one")
        await until(lambda: got == [b"one"])
        theirs.send(b"two")
        await until(lambda: got == [b"one", b"two"])
        theirs.close()
        await until(lambda: got[2:] and got[-1] == b"")

    runner.run(main())


def test_writers_beside_a_reader(runner, pair):
    ours, theirs = pair
    got, writable = [], []

    async def main():
        loop = asyncio.get_running_loop()
        watch(loop, ours.fileno(), lambda: got.append(ours.recv(100)))
        loop.add_writer(ours.fileno(), writable.append, 1)
        await until(lambda: writable)
        theirs.send(b"a")
        await until(lambda: got)
        assert loop.remove_writer(ours.fileno())
        writable.clear()
        theirs.send(b"b")
        await until(lambda: got == [b"a", b"b"])
        loop.add_writer(ours.fileno(), writable.append, 2)
        loop.remove_reader(ours.fileno())
        theirs.send(b"c")
        await until(lambda: writable)
        assert got == [b"a", b"b"]
        watch(loop, ours.fileno(), lambda: got.append(ours.recv(100)))
        await until(lambda: got == [b"a", b"b", b"c"])
        assert loop.remove_writer(ours.fileno())

    runner.run(main())


def test_the_one_replaces_the_other(runner, pair):
    ours, theirs = pair
    calls = []

    def reader(name):
        calls.append((name, ours.recv(100)))

    async def main():
        loop = asyncio.get_running_loop()
        fd = ours.fileno()
        for n, add in enumerate((watch, asyncio.AbstractEventLoop.add_reader) * 2):
            if add is watch:
                watch(loop, fd, lambda n=n: reader(n))
            else:
                loop.add_reader(fd, reader, n)
            theirs.send(b"x")
            await until(lambda n=n: len(calls) > n)
        assert calls == [(n, b"x") for n in range(4)]
        loop.remove_reader(fd)
        theirs.send(b"x")
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(calls) == 4

    runner.run(main())


def test_a_reader_may_remove_and_close_itself_and_others(runner):
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(4)]
        called = []

        def close_all(n):
            called.append(n)
            for ours, _ in pairs:
                loop.remove_reader(ours.fileno())
                ours.close()

        for n, (ours, theirs) in enumerate(pairs):
            watch(loop, ours.fileno(), lambda n=n: close_all(n))
            theirs.send(b"x")
        await until(lambda: called)
        await asyncio.sleep(0)
        assert len(called) == 1
        for _, theirs in pairs:
            theirs.close()

    if runner.get_loop().__class__ is DirectLoop:  # asyncio's own hands over what is ready before it calls anybody
        runner.run(main())


def test_what_a_reader_raises_is_told(runner, pair):
    ours, theirs = pair
    told = []

    def fail():
        ours.recv(100)
        raise RuntimeError("on purpose")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        watch(loop, ours.fileno(), fail)
        theirs.send(b"x")
        await until(lambda: told)
        theirs.send(b"x")
        await until(lambda: len(told) == 2)

    runner.run(main())
    assert [str(error) for error in told] == ["on purpose"] * 2


def test_an_interrupt_ends_the_loop(runner, pair):
    ours, theirs = pair

    def interrupt():
        raise KeyboardInterrupt

    async def main():
        watch(asyncio.get_running_loop(), ours.fileno(), interrupt)
        theirs.send(b"x")
        async with asyncio.timeout(GUARD_SECONDS):
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        runner.run(main())


def test_a_reader_keeps_its_context(runner, pair):
    ours, theirs = pair
    variable = contextvars.ContextVar("variable")
    seen = []

    def reader():
        ours.recv(100)
        seen.append(variable.get())
        variable.set("of the reader")

    async def main():
        variable.set("of who watched")
        watch(asyncio.get_running_loop(), ours.fileno(), reader)
        variable.set("of who goes on")
        for n in range(2):
            theirs.send(b"x")
            await until(lambda n=n: len(seen) > n)
        assert variable.get() == "of who goes on"

    runner.run(main())
    assert seen == ["of who watched", "of the reader"]


def test_timers_and_calls_go_on_while_a_reader_is_never_done(runner, pair):
    ours, theirs = pair
    calls = []

    async def main():
        loop = asyncio.get_running_loop()
        watch(loop, ours.fileno(), lambda: calls.append(1))  # it reads nothing: it is called in every turn
        theirs.send(b"x")
        await asyncio.sleep(0.01)
        await until(lambda: len(calls) > 3)
        await asyncio.to_thread(len, calls)
        loop.remove_reader(ours.fileno())

    runner.run(asyncio.wait_for(main(), GUARD_SECONDS))


class Echo(kernel.Service):
    name = "echo"

    def __init__(self) -> None:
        """No options."""

    def on_messages(self, channel, messages):
        channel.send_many(messages)


def test_a_writer_that_a_reader_of_another_socket_adds_again_is_called(runner, pair):
    ours, theirs = pair
    called = []

    async def main():
        loop = asyncio.get_running_loop()

        def again():
            ours.recv(100)
            loop.remove_writer(theirs)
            loop.add_writer(theirs, called.append, "again")

        loop.add_writer(theirs, called.append, "first")  # writable at once, and so found before the other
        theirs.send(b"x")
        watch(loop, ours.fileno(), again)
        await until(lambda: "again" in called)
        assert loop.remove_writer(theirs)
        loop.remove_reader(ours.fileno())

    runner.run(main())


def test_a_number_that_a_reader_gives_to_another_socket_has_none_of_the_events_before(runner, pair):
    ours, theirs = pair
    full, unread = socket.socketpair()
    called = []

    async def main():
        loop = asyncio.get_running_loop()
        fd = ours.fileno()

        def replace():
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            os.dup2(full.fileno(), fd)
            loop.add_writer(fd, called.append, "the new one is writable")

        watch(loop, fd, replace)
        loop.add_writer(fd, lambda: None)
        theirs.send(b"x")
        for _ in range(5):
            await asyncio.sleep(0)
        assert called == []
        with contextlib.suppress(BlockingIOError):
            while unread.recv(1 << 20):
                pass
        await until(lambda: called)
        loop.remove_writer(fd)

    with full, unread:
        full.setblocking(False)
        unread.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                full.send(bytes(1 << 16))
        runner.run(main())


@pytest.mark.parametrize("framing", ["length", "knl"])
def test_a_server_on_it(runner, framing):
    async def talk(endpoint, n):
        async with kernel.connect(endpoint, "echo") as channel:
            for size in (0, 16, 300_000 if framing == "knl" else 60_000):
                message = bytes([n]) * size
                channel.send(message)
                assert await channel.receive() == message

    async def main():
        async with kernel.Server([Echo()], [f"tcp://127.0.0.1:0?framing={framing}"]) as server:
            await asyncio.gather(*(talk(server.endpoints[0], n) for n in range(20)))

    runner.run(asyncio.wait_for(main(), 2 * GUARD_SECONDS))


def test_who_debugs_gets_asyncios_own_way(pair):
    async def main():
        loop = asyncio.get_running_loop()
        watch(loop, pair[0].fileno(), lambda: None)
        assert loop.remove_reader(pair[0].fileno())  # asyncio knows nothing of the others

    with asyncio.Runner(loop_factory=DirectLoop, debug=True) as runner:
        runner.run(main())
