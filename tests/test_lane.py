"""The lane and the long way are one to whoever looks from outside: same messages, same order, same ends.

Each test runs on the C engine, where length framing and KNL get a lane, and on a mirror of it without one; `lanes`
tells which. The services do on purpose what closes a lane. What only KNL has is in test_lane_knl.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

import pytest

import kernel
from kernel.framing import Length, engine
from kernel.limits import Limits

KIB = 1024


class Script(kernel.Service):
    """Does what each message says, and remembers what happened."""

    name = "script"

    def __init__(self) -> None:
        self.channel = None
        self.seen: list[bytes] = []
        self.lane_open: list[bool] = []
        self.resumed = asyncio.Event()
        self.closed: asyncio.Future = asyncio.get_running_loop().create_future()

    def opened(self, channel):
        self.channel = channel

    def on_message(self, channel, message):
        self.seen.append(message)
        self.lane_open.append(channel.port is not None and channel.port.is_passable)
        verb, _, rest = message.partition(b":")
        act = getattr(self, "do_" + verb.decode("latin-1"), None)
        if act is None:
            channel.send(message)
        else:
            act(channel, rest)

    def do_many(self, channel, rest):
        channel.send_many([b"%d" % n for n in range(int(rest))])

    def do_big(self, channel, rest):
        channel.send(bytes(int(rest)))

    def do_mutable(self, channel, rest):
        channel.send(b"first")
        channel.send(bytearray(rest))
        channel.send(b"last")

    def do_later(self, channel, rest):
        channel.send(b"now")
        asyncio.get_running_loop().call_soon(channel.send, rest)

    def do_pause(self, channel, rest):
        channel.send(b"paused")
        channel.pause_reading()
        asyncio.get_running_loop().call_later(0.01, self.resume)

    def resume(self):
        self.channel.resume_reading()
        self.resumed.set()

    def do_finish(self, channel, rest):
        channel.send(rest)
        channel.finish()

    def do_close(self, channel, rest):
        channel.send(rest)
        channel.close()

    def do_raise(self, channel, rest):
        channel.send(b"never sent")
        raise ValueError("planted")

    def do_reset(self, channel, rest):
        channel.reset(kernel.Code.CANCELLED, "planted")

    def on_closed(self, channel, code, reason):
        self.closed.set_result(code)


@pytest.fixture(params=[True, False], ids=["lane", "long"])
def lanes(request, monkeypatch):
    if request.param and engine().name != "c":
        pytest.skip("the C engine has lanes")
    if not request.param:
        monkeypatch.setattr("kernel.link.lay_lane", lambda *_: None)
    return request.param


@pytest.fixture(params=["length", "knl"])
def framing(request):
    return request.param


@contextlib.asynccontextmanager
async def serving(scheme="tcp", query="", limits=None, tmp_path=None, framing="length"):
    service = Script()
    address = "//127.0.0.1:0" if scheme == "tcp" else str(tmp_path / "s.sock")
    endpoint = f"{scheme}:{address}?framing={framing}{query}"
    async with kernel.Server([service], [endpoint], limits=limits) as server:
        yield service, server.endpoints[0]


async def ask(channel, message, answers=1):
    channel.send(message)
    return [await asyncio.wait_for(channel.receive(), 10) for _ in range(answers)]


async def test_echo_takes_the_lane(lanes, framing):
    async with serving(framing=framing) as (service, endpoint), kernel.connect(endpoint, "script") as channel:
        for size in (0, 1, 100, 20 * KIB, 3 * 1024 * KIB):
            assert await ask(channel, bytes(size)) == [bytes(size)]
        assert await ask(channel, b"again") == [b"again"]
    if framing == "knl":  # a message longer than a frame is put together by the session
        assert service.lane_open.pop(4) is False
    assert all(service.lane_open) is lanes


async def test_many_answers_in_order_whatever_the_backlog(lanes, framing):
    async with serving(framing=framing) as (_, endpoint), kernel.connect(endpoint, "script") as channel:
        for count in (0, 1, 100, 30_000):
            answers = await ask(channel, b"many:%d" % count, count)
            assert answers == [b"%d" % n for n in range(count)]
        assert await ask(channel, b"after") == [b"after"]


async def test_what_the_socket_does_not_take_follows(lanes):
    """A reader that is slow: the partial write closes the lane, and nothing is lost or overtaken."""
    async with serving(query="&send_buffer_bytes=4096") as (service, endpoint):
        reader, writer = await asyncio.open_connection(*endpoint.host_port(), limit=4 * KIB)
        sizes = [1000, 300 * KIB, 5, 900 * KIB, 20_000, 0, 7]
        writer.write(b"".join(frame(b"big:%d" % size) for size in sizes))
        for size in sizes:
            assert await read_frame(reader) == bytes(size)
        writer.write(frame(b"after"))
        assert await read_frame(reader) == b"after"
        writer.close()
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.OK
    assert service.lane_open[-1] is lanes


async def test_mutable_and_late_messages_keep_their_order(lanes, framing):
    async with serving(framing=framing) as (service, endpoint), kernel.connect(endpoint, "script") as channel:
        assert await ask(channel, b"mutable:middle", 3) == [b"first", b"middle", b"last"]
        assert await ask(channel, b"later:then", 2) == [b"now", b"then"]
        assert await ask(channel, b"after") == [b"after"]
    assert service.lane_open[-1] is lanes


async def test_pausing_holds_the_peer_and_resuming_opens_the_lane_again(lanes, framing):
    async with serving(framing=framing) as (service, endpoint), kernel.connect(endpoint, "script") as channel:
        assert await ask(channel, b"pause:") == [b"paused"]
        for n in range(3):
            assert await ask(channel, b"%d" % n) == [b"%d" % n]
        await asyncio.wait_for(service.resumed.wait(), 10)
        for n in range(2):
            assert await ask(channel, b"%d" % n) == [b"%d" % n]
    assert service.lane_open[-1] is lanes


@pytest.mark.parametrize("verb", [b"finish", b"close"])
async def test_ends_come_after_what_was_sent(lanes, framing, verb):
    async with serving(framing=framing) as (service, endpoint), kernel.connect(endpoint, "script") as channel:
        assert await ask(channel, verb + b":bye", 2) == [b"bye", None]
        channel.close()
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.OK


@pytest.mark.parametrize("verb", [b"raise:", b"reset:"])
async def test_a_handler_that_fails_loses_its_connection_only(lanes, verb, caplog):
    async with serving() as (service, endpoint):
        async with kernel.connect(endpoint) as channel:
            assert await ask(channel, b"x") == [b"x"]
            channel.send(verb)
            with pytest.raises(kernel.ChannelClosed):
                await asyncio.wait_for(channel.receive(), 10)
        code = await asyncio.wait_for(service.closed, 10)
        assert code is (kernel.Code.INTERNAL if verb == b"raise:" else kernel.Code.CANCELLED)
        service.closed = asyncio.get_running_loop().create_future()
        async with kernel.connect(endpoint) as channel:
            assert await ask(channel, b"y") == [b"y"]


async def test_good_messages_before_corrupt_bytes_are_served(lanes):
    async with serving(query="&frame_bytes_max=1000") as (service, endpoint):
        _, writer = await asyncio.open_connection(*endpoint.host_port())
        writer.write(frame(b"one") + frame(b"two") + struct.pack(">I", 1001))
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.FRAME_TOO_LARGE
        assert service.seen == [b"one", b"two"]
        writer.close()


async def test_an_answer_that_cannot_be_framed_is_the_services_fault(lanes, caplog):
    async with serving(query="&width=1&frame_bytes_max=255") as (service, endpoint):
        async with kernel.connect(endpoint) as channel:
            channel.send(b"big:256")
            with pytest.raises(kernel.ChannelClosed):
                await asyncio.wait_for(channel.receive(), 10)
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.INTERNAL


@pytest.mark.parametrize("cut", [0, 2, 4, 6])
async def test_end_of_the_stream_anywhere(lanes, cut):
    async with serving() as (service, endpoint):
        _, writer = await asyncio.open_connection(*endpoint.host_port())
        writer.write(frame(b"whole") + frame(b"part")[:cut])
        writer.write_eof()
        code = await asyncio.wait_for(service.closed, 10)
        assert code is (kernel.Code.PROTOCOL if cut else kernel.Code.OK)
        assert service.seen == [b"whole"]
        writer.close()


async def test_a_reset_is_told(lanes):
    async with serving() as (service, endpoint):
        with socket.create_connection(endpoint.host_port()) as sock:
            sock.sendall(frame(b"hello"))
            await asyncio.get_running_loop().run_in_executor(None, sock.recv, 9)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.LOST


async def test_unix_sockets_have_lanes_too(lanes, framing, tmp_path):
    server = serving("unix", tmp_path=tmp_path, framing=framing)
    async with server as (service, endpoint), kernel.connect(endpoint, "script") as channel:
        assert await ask(channel, b"x" * 60_000) == [b"x" * 60_000]
    assert service.lane_open == [lanes]


async def test_traffic_on_the_lane_is_no_silence(lanes):
    limits = Limits(first_byte_seconds_max=0.5, silence_seconds_max=1.5)
    async with serving(limits=limits) as (service, endpoint), kernel.connect(endpoint) as channel:
        service.channel._link.tick(1000.0)
        for at in (1001.0, 1002.0, 1003.0):
            assert await ask(channel, b"x") == [b"x"]
            service.channel._link.tick(at)
        assert service.channel.code is None
        service.channel._link.tick(1006.0)
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.IDLE


@pytest.mark.parametrize("seed", range(5))
async def test_random_mixtures_answer_alike(lanes, seed):
    """Pipelined requests of all kinds, cut anywhere: the answers are what each asks for, in order."""
    rng = random.Random(seed)
    requests: list[bytes] = []
    answers: list[bytes] = []
    for _ in range(60):
        kind = rng.choice(["echo", "echo", "echo", "many", "big", "mutable", "pause"])
        if kind == "echo":
            message = b"=" + rng.randbytes(rng.choice([0, 3, 60, 5000, 70_000]))
            requests.append(message)
            answers.append(message)
        elif kind == "many":
            count = rng.randrange(300)
            requests.append(b"many:%d" % count)
            answers += [b"%d" % n for n in range(count)]
        elif kind == "big":
            size = rng.randrange(400_000)
            requests.append(b"big:%d" % size)
            answers.append(bytes(size))
        elif kind == "mutable":
            requests.append(b"mutable:m")
            answers += [b"first", b"m", b"last"]
        else:
            requests.append(b"pause:")
            answers.append(b"paused")
    async with serving(query="&send_buffer_bytes=20000") as (service, endpoint):
        reader, writer = await asyncio.open_connection(*endpoint.host_port())
        stream = b"".join(map(frame, requests))

        async def write():
            at = 0
            while at < len(stream):
                step = rng.choice([1, 5, 1000, 100_000])
                writer.write(stream[at : at + step])
                at += step
                await writer.drain()
            writer.write_eof()

        writing = asyncio.create_task(write())
        for expected in answers:
            assert await asyncio.wait_for(read_frame(reader), 10) == expected
        await writing
        assert await reader.read() == b""
        assert await asyncio.wait_for(service.closed, 10) is kernel.Code.OK
        writer.close()


async def test_a_lane_leaves_no_cycle_alive(lanes, framing):
    import gc
    import weakref

    async with serving(framing=framing) as (service, endpoint):
        async with kernel.connect(endpoint, "script") as channel:
            await ask(channel, b"x")
        await asyncio.wait_for(service.closed, 10)
        gone = weakref.ref(service.channel)
        service.channel = None
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None


def test_lane_takes_a_c_decoder_only():
    native = pytest.importorskip("kernel.framing.native", exc_type=ImportError)
    with pytest.raises(TypeError, match="decoder"):
        native.make_length_lane(0, bytearray(1), object(), None, None)
    decoder = native.ENGINE.decoder(Length())
    with pytest.raises(TypeError, match="memoryview"):
        native.make_length_lane(0, bytearray(1 << 16), decoder, None, Length())
    with pytest.raises(ValueError, match="too small"):
        native.make_length_lane(0, memoryview(bytearray(1)), decoder, None, Length())
    with pytest.raises(TypeError, match="5 arguments"):
        native.make_length_lane()


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">I", await reader.readexactly(4))
    return await reader.readexactly(size)
