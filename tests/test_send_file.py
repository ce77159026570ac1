"""`Channel.send_file`: a file's bytes among messages, whichever way they leave, in order and whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernel
from kernel import KIB, MIB, Channel, ChannelClosed, Code, Limits, Needs, Server, Service
from kernel.slices import FileSlice

GUARD_SECONDS = 60


class Sink(Service):
    """Keeps what it gets, and says how much of it went which way."""

    name = "sink"
    needs = Needs(reliable=True)

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.over = asyncio.Event()

    def on_message(self, channel: Channel, message: bytes) -> None:
        self.got.append(message)

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self.over.set()


class Bulk(Sink):
    bulk = True


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    data = os.urandom(5 * MIB + 17)
    path = tmp_path / "data"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    yield fd, data
    os.close(fd)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def back_to(number: int) -> None:
    """Wait until no more descriptors are open than that."""
    while descriptors() > number:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.fixture(params=["tcp", "unix", "tls", "line", "chaos"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path}/s.sock",
        "tls": f"tls+tcp://127.0.0.1:0?self_signed={tmp_path}/own.pem",
        "line": "tcp://127.0.0.1:0?framing=length&width=4",
        "chaos": "chaos+tcp://127.0.0.1:0",
    }[str(request.param)]


SIZES = [0, 1, 100, 8192, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, MIB + 1, 5 * MIB]


@pytest.mark.parametrize("bulk", [False, True])
async def test_slices_of_a_file_arrive_whole_and_in_order(endpoint: str, bulk: bool, file: tuple[int, bytes]):
    fd, data = file
    sink = (Bulk if bulk else Sink)()
    sent = []
    async with asyncio.timeout(GUARD_SECONDS), Server([sink], [endpoint]) as server:
        async with kernel.connect(server.endpoints[0], "sink", limits=Limits().for_bulk()) as channel:
            for at, size in enumerate(SIZES):
                channel.send(b"before %d" % at)
                await channel.send_file(fd, at, size)
                sent += [b"before %d" % at, data[at : at + size]]
        await sink.over.wait()
    assert [len(message) for message in sink.got] == [len(message) for message in sent]
    assert sink.got == sent


async def test_the_descriptor_may_be_closed_and_none_is_left_open(file: tuple[int, bytes]):
    fd, data = file
    sink = Bulk()
    async with asyncio.timeout(GUARD_SECONDS), Server([sink], ["tcp://127.0.0.1:0"]) as server:
        before = descriptors()
        async with kernel.connect(server.endpoints[0], "sink") as channel:
            for _ in range(4):
                own = os.dup(fd)
                await channel.send_file(own, 0, len(data))
                os.close(own)
        await sink.over.wait()
        await back_to(before)
    assert sink.got == [data] * 4


async def test_a_reset_drops_what_waits_with_its_descriptors(file: tuple[int, bytes]):
    fd, data = file

    class Deaf(Bulk):
        def opened(self, channel: Channel) -> None:
            channel.pause_reading()

    async with asyncio.timeout(GUARD_SECONDS), Server([Deaf()], ["tcp://127.0.0.1:0"]) as server:
        before = descriptors()
        client = await kernel.dial(server.endpoints[0])
        channel = await client.open("sink")
        stuck = [asyncio.create_task(channel.send_file(fd, 0, len(data))) for _ in range(3)]
        await asyncio.wait(stuck, timeout=0.05)
        channel.reset(Code.CANCELLED, "enough")
        done, _ = await asyncio.wait(stuck)
        assert all(isinstance(task.exception(), ChannelClosed) for task in done)
        await client.close()
        await back_to(before)


@pytest.mark.parametrize("endpoint", ["tcp", "tls"], indirect=True)
async def test_a_file_that_became_shorter_ends_the_channel(endpoint: str, tmp_path: Path):
    path = tmp_path / "short"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDONLY)
    async with asyncio.timeout(GUARD_SECONDS), Server([Sink()], [endpoint]) as server:
        client = await kernel.dial(server.endpoints[0])
        channel = await client.open("sink")
        with contextlib.suppress(OSError):  # where it is read, we are told at once
            await channel.send_file(fd, 0, 200)
        await channel.wait_closed()
        assert channel.code in (Code.LOST, Code.CANCELLED)
        await client.close()
    os.close(fd)


def test_slices_are_cut_like_views(file: tuple[int, bytes]):
    fd, _ = file
    before = descriptors()
    part = FileSlice.of(fd, 100, 50)
    tail = part[20:]
    assert (len(part[:20]), part[:20].offset, len(tail), tail.offset) == (20, 100, 30, 120)
    del part
    assert descriptors() == before + 1
    del tail
    assert descriptors() == before


async def test_where_the_system_has_no_sendfile_for_it_bytes_are_copied(
    file: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
):
    fd, data = file

    def refuses(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such thing here")

    monkeypatch.setattr(os, "sendfile", refuses)
    sink = Bulk()
    async with asyncio.timeout(GUARD_SECONDS), Server([sink], ["tcp://127.0.0.1:0"]) as server:
        async with kernel.connect(server.endpoints[0], "sink") as channel:
            await channel.send_file(fd, 0, len(data))
        await sink.over.wait()
    assert sink.got == [data]


async def test_bulk_services_get_large_frames_and_windows():
    for sink, most in ((Sink(), 64 * KIB), (Bulk(), MIB)):
        async with asyncio.timeout(GUARD_SECONDS), Server([sink], ["tcp://127.0.0.1:0"]) as server:
            client = await kernel.dial(server.endpoints[0], limits=Limits().for_bulk())
            assert client._link is not None
            assert client._link.session._outbox._frame_bytes_max == most  # type: ignore[attr-defined]
            await client.close()
