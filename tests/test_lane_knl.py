"""KNL's lane and the long way are one to whoever looks from outside: frames, credit, long messages, faults.

The peer is a plain socket that speaks KNL/1 by hand, so that it sees every frame. As in test_lane.py each test runs on
the C engine with lanes, and without; `lanes` tells which.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import struct
import zlib
from collections import defaultdict
from typing import ClassVar

import pytest

import kernel
from kernel.framing import engine
from kernel.limits import Limits

DATA, HELLO, AUTH, OPEN, ACCEPT, RESET, CREDIT, PING, PONG, GOAWAY, ERROR, INFO = range(12)
MORE, FIN, CHECKSUM, IGNORABLE, BEGIN = 1, 2, 4, 8, 16
GUARD_SECONDS = 30.0
SMALL = Limits(channel_credit_bytes=4096, connection_credit_bytes=8192)


def frame(kind, payload=b"", channel=0, flags=0):
    head = struct.pack(">BBHII", 1, kind, flags, channel, len(payload))
    return head + zlib.crc32(head + payload if flags & CHECKSUM else head).to_bytes(4, "big") + payload


def parts_of(message, channel, flags=0):
    """The frames of a long message."""
    rest = len(message).to_bytes(8, "big") + message
    begin = BEGIN
    while rest:
        payload, rest = rest[:65536], rest[65536:]
        yield frame(DATA, payload, channel, flags | begin | (MORE if rest else 0))
        begin = 0


def long(message, channel, flags=0):
    return b"".join(parts_of(message, channel, flags))


@pytest.fixture(params=[True, False], ids=["lane", "long"])
def lanes(request, monkeypatch):
    if request.param and engine().name != "c":
        pytest.skip("the C engine has lanes")
    if not request.param:
        monkeypatch.setattr("kernel.link.lay_lane", lambda *_: None)
    return request.param


class Pieces(kernel.Service):
    """Echoes, long messages piece by piece; remembers which way each came."""

    name = "pieces"
    whole_messages: ClassVar[bool] = False

    def __init__(self) -> None:
        self.passable: list[bool] = []
        self.seen: list[bytes] = []
        self.late = False

    def on_messages(self, channel, messages):
        self._note(channel)
        self.seen += messages
        channel.send_many(messages)

    def on_piece(self, channel, piece, message_bytes, last):
        self._note(channel)
        if self.late:
            asyncio.get_running_loop().call_soon(channel.send_piece, piece, message_bytes, last)
        else:
            channel.send_piece(piece, message_bytes, last)

    def _note(self, channel):
        self.passable.append(channel.port is not None and channel.port.is_passable)


class Later(kernel.Service):
    """Echoes from a coroutine, so that its channels have no port."""

    name = "later"

    def __init__(self) -> None:
        """No options."""

    async def serve(self, channel):
        async for message in channel:
            channel.send(message)


class Peer:
    """A KNL/1 client by hand. What it got: `messages` by channel, `credit` by channel, other frames in `others`."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.messages = defaultdict(list)
        self.credit = defaultdict(int)
        self.others = []
        self.frames = []
        self._long = {}

    async def greet(self, credit=1 << 24, **more):
        size = struct.pack(">I", credit)
        values = {1: struct.pack(">I", 65536), 2: size, 3: size, 4: struct.pack(">I", 256), 5: b"\0", 6: b"none"}
        values |= {int(name[1:]): value for name, value in more.items()}
        payload = b"".join(struct.pack(">HH", key, len(value)) + value for key, value in values.items())
        self.writer.write(bytes.fromhex("004b4e4c01000000") + frame(HELLO, payload))
        assert (await self.reader.readexactly(8))[:4] == b"\0KNL"
        assert (await self.frame())[0] == HELLO

    async def open(self, channel, service):
        self.writer.write(frame(OPEN, struct.pack(">HH", 1, len(service)) + service.encode(), channel))
        await self.until(lambda: (ACCEPT, channel, b"") in self.others)

    async def frame(self):
        _, kind, flags, channel, size, _ = struct.unpack(">BBHIII", await self.reader.readexactly(16))
        return kind, flags, channel, await self.reader.readexactly(size)

    async def until(self, condition):
        """Take frames until something is true."""
        async with asyncio.timeout(GUARD_SECONDS):
            while not condition():
                self._take(*await self.frame())

    async def settle(self):
        """Take all that the server has to say now: a PONG overtakes DATA, the next one comes behind it."""
        for n in range(2):
            name = b"%d %d" % (len(self.frames), n)
            self.writer.write(frame(PING, name))
            await self.until(lambda name=name: (PONG, 0, name) in self.others)

    def _take(self, kind, flags, channel, payload):
        self.frames.append((kind, flags, channel, len(payload)))
        if kind == CREDIT:
            self.credit[channel] += struct.unpack(">I", payload)[0]
        elif kind != DATA or flags & FIN:
            self.others.append((kind, channel, payload))
        elif flags & BEGIN:
            self._long[channel] = [int.from_bytes(payload[:8], "big"), payload[8:]]
        elif channel in self._long:
            self._long[channel].append(payload)
        else:
            assert not flags & MORE
            self.messages[channel].append(payload)
        if channel in self._long and kind == DATA and not flags & MORE:
            total, *parts = self._long.pop(channel)
            whole = b"".join(parts)
            assert len(whole) == total
            self.messages[channel].append(whole)

    async def fails(self):
        """The code of the ERROR that ends the connection."""
        await self.until(lambda: any(kind == ERROR for kind, _, _ in self.others))
        return kernel.Code(int.from_bytes(next(p for kind, _, p in self.others if kind == ERROR)[:2], "big"))


@contextlib.asynccontextmanager
async def speaking(limits=None, services=None, opens=("pieces",), **hello):
    service = Pieces()
    async with kernel.Server(services or [service, Later()], ["tcp://127.0.0.1:0"], limits=limits) as server:
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        peer = Peer(reader, writer)
        try:
            await peer.greet(**hello)
            for number, name in enumerate(opens):
                await peer.open(2 * number + 1, name)
            yield peer, service
        finally:
            writer.close()


async def test_short_messages_pass_the_lane(lanes):
    async with speaking() as (peer, service):
        messages = [bytes([n]) * n for n in range(100)]
        for message in messages:
            peer.writer.write(frame(DATA, message, 1))
        await peer.until(lambda: len(peer.messages[1]) == 100)
        assert peer.messages[1] == messages
        assert all(service.passable) is lanes


async def test_checksummed_frames_are_echoed(lanes):
    async with speaking(f5=b"\1") as (peer, service):
        peer.writer.write(frame(DATA, b"a" * 100, 1, CHECKSUM) + frame(DATA, b"b" * 30_000, 1, CHECKSUM))
        peer.writer.write(long(b"c" * 100_000, 1, flags=CHECKSUM))
        await peer.until(lambda: len(peer.messages[1]) == 3)
        assert [len(message) for message in peer.messages[1]] == [100, 30_000, 100_000]
        assert all(flags & CHECKSUM for kind, flags, _, _ in peer.frames if kind == DATA)
        assert service.passable[0] is lanes


async def test_what_was_consumed_is_granted_and_no_more(lanes):
    async with speaking(SMALL) as (peer, _):
        cost, sent = 16 + 100, 0
        for _ in range(500):
            await peer.until(lambda due=sent + cost: SMALL.channel_credit_bytes + peer.credit[1] >= due)
            peer.writer.write(frame(DATA, bytes(100), 1))
            sent += cost
        await peer.until(lambda: len(peer.messages[1]) == 500)
        await peer.settle()
        assert sent - SMALL.channel_credit_bytes // 2 - cost < peer.credit[1] <= sent
        assert sent - SMALL.connection_credit_bytes // 2 - cost < peer.credit[0] <= sent


@pytest.mark.parametrize("on_connection", [False, True])
async def test_our_credit_is_kept_to_the_byte(lanes, on_connection):
    """The peer gives credit for three echoes, and for one more, each time."""
    channel, other = struct.pack(">I", 3 * 32 + 31), struct.pack(">I", 1 << 20)
    windows = {"f2": other, "f3": channel} if on_connection else {"f2": channel, "f3": other}
    async with speaking(**windows) as (peer, _):
        peer.writer.write(b"".join(frame(DATA, b"%016d" % n, 1) for n in range(6)))
        await peer.settle()
        assert len(peer.messages[1]) == 3
        given = 0 if on_connection else 1
        for n in range(3):
            peer.writer.write(frame(CREDIT, struct.pack(">I", 32), given))
            await peer.settle()
            assert len(peer.messages[1]) == 4 + n
        peer.writer.write(frame(CREDIT, struct.pack(">I", 1 << 16), given))
        peer.writer.write(frame(DATA, b"last", 1))
        await peer.until(lambda: len(peer.messages[1]) == 7)
        assert peer.messages[1] == [b"%016d" % n for n in range(6)] + [b"last"]


async def test_more_than_the_credit_is_a_fault(lanes):
    async with speaking(SMALL) as (peer, service):
        peer.writer.write(frame(DATA, b"fine", 1) + frame(PING) + frame(DATA, bytes(4096), 1))
        assert await peer.fails() is kernel.Code.FLOW_CONTROL
        assert service.seen[:1] == [b"fine"]


def _faults():
    credit = struct.Struct(">I").pack
    yield "credit of nothing", frame(CREDIT, credit(0), 1), kernel.Code.FLOW_CONTROL
    yield "too much credit", frame(CREDIT, credit(2**31 - 1), 1), kernel.Code.FLOW_CONTROL
    yield "too much credit for all", frame(CREDIT, credit(2**31 - 1), 0), kernel.Code.FLOW_CONTROL
    yield "credit of five bytes", frame(CREDIT, bytes(5), 1), kernel.Code.PROTOCOL
    yield "a channel that never was", frame(DATA, b"x", 99), kernel.Code.PROTOCOL
    yield "a type that nobody knows", frame(77, b"x", 1), kernel.Code.PROTOCOL
    yield "begins twice", 2 * frame(DATA, bytes(7) + b"\x10" + b"x", 1, BEGIN | MORE), kernel.Code.PROTOCOL
    yield "begins without a length", frame(DATA, b"short", 1, BEGIN | MORE), kernel.Code.PROTOCOL
    yield "continues what never began", frame(DATA, b"x", 1, MORE), kernel.Code.PROTOCOL
    yield "is longer than announced", frame(DATA, bytes(7) + b"\1" + b"xx", 1, BEGIN), kernel.Code.PROTOCOL
    yield "ends early", frame(DATA, bytes(7) + b"\3" + b"xx", 1, BEGIN), kernel.Code.PROTOCOL
    yield "is too long for a frame", struct.pack(">BBHIII", 1, 0, 4, 1, 65537, 0), kernel.Code.FRAME_TOO_LARGE


@pytest.mark.parametrize(("bytes_sent", "code"), [pytest.param(b, c, id=n) for n, b, c in _faults()])
async def test_what_came_before_a_fault_is_served(lanes, bytes_sent, code):
    async with speaking() as (peer, service):
        peer.writer.write(frame(DATA, b"before", 1) + bytes_sent + frame(DATA, b"behind", 1))
        assert await peer.fails() is code
        assert service.seen == [b"before"]


async def test_an_ignorable_frame_and_late_data_disturb_nothing(lanes):
    async with speaking(opens=["pieces", "pieces"]) as (peer, service):
        peer.writer.write(frame(RESET, struct.pack(">H", 0), 3))
        peer.writer.write(frame(DATA, b"one", 1) + frame(77, b"?", 1, IGNORABLE) + frame(DATA, b"late", 3))
        peer.writer.write(frame(DATA, b"two", 1))
        await peer.until(lambda: len(peer.messages[1]) == 2)
        peer.writer.write(frame(DATA, b"three", 1))
        await peer.until(lambda: len(peer.messages[1]) == 3)
        assert peer.messages == {1: [b"one", b"two", b"three"]}
        assert service.passable[-1] is lanes


SIZES = [0, 5, 65535, 65536, 65537, 65528 + 65536, 65529 + 65536, 1 << 20]


async def test_long_messages_pass_piece_by_piece(lanes):
    async with speaking() as (peer, service):
        for n, size in enumerate(SIZES * 2):
            message = random.Random(n).randbytes(size)
            peer.writer.write(long(message, 1) if size > 65536 else frame(DATA, message, 1))
            await peer.until(lambda n=n: len(peer.messages[1]) == n + 1)
            assert peer.messages[1][-1] == message
        assert (len(service.passable) - sum(service.passable) < 4) is lanes


async def test_short_messages_in_a_run_with_the_end_of_a_long_one(lanes):
    async with speaking() as (peer, _):
        peer.writer.write(long(b"x" * 70_000, 1) + frame(DATA, b"a", 1) + frame(DATA, b"b", 1) + long(b"y" * 9, 1))
        await peer.until(lambda: len(peer.messages[1]) == 4)
        assert peer.messages[1] == [b"x" * 70_000, b"a", b"b", b"y" * 9]


async def test_pieces_that_are_sent_late_come_in_order(lanes):
    message = random.Random(1).randbytes(1 << 20)
    async with speaking() as (peer, service):
        for service.late in (False, True, False):
            peer.writer.write(long(message, 1))
            peer.writer.write(frame(DATA, b"short", 1))
        frames = iter(lambda: len(peer.messages[1]), None)
        await peer.until(lambda: next(frames) >= 6)
        assert peer.messages[1] == [message, b"short"] * 3


async def test_changing_one_s_mind_in_the_middle_of_a_long_message(lanes):
    """From some piece on they go the long way, and the message is whole all the same."""
    message = random.Random(2).randbytes(400_000)
    async with speaking() as (peer, service):
        for start in range(7):
            parts = list(parts_of(message, 1))
            peer.writer.write(b"".join(parts[:start]))
            peer.writer.write(frame(PING, b"%d" % start))
            await peer.until(lambda n=start: (PONG, 0, b"%d" % n) in peer.others)
            service.late = not service.late
            peer.writer.write(b"".join(parts[start:]))
            await peer.until(lambda n=start: len(peer.messages[1]) == n + 1)
            assert peer.messages[1][start] == message


async def test_unfinished_messages_together_stay_within_what_the_peer_puts_together(lanes):
    limit = struct.pack(">Q", 150_000)
    async with speaking(opens=["pieces", "pieces", "pieces"], f8=limit, f9=limit) as (peer, _):
        message = b"z" * 100_000
        streams = [list(parts_of(message, channel)) for channel in (1, 3, 5)]
        peer.writer.write(b"".join(itertools.chain.from_iterable(zip(*streams, strict=True))))
        await peer.until(lambda: sum(map(len, peer.messages.values())) == 3)
        begun = 0
        for kind, flags, _, _ in peer.frames:
            if kind == DATA:
                begun += bool(flags & BEGIN) - (not flags & MORE)
                assert begun <= 1


async def test_pieces_may_be_longer_than_what_is_put_together(lanes):
    """`message_bytes_max` is for messages that somebody holds whole: with pieces nobody does."""
    whole, limits = Later(), Limits(message_bytes_max=100_000)
    async with speaking(limits, [Pieces(), whole], opens=["pieces", "later"]) as (peer, _):
        peer.writer.write(long(b"p" * 100_001, 1))
        await peer.until(lambda: peer.messages[1])
        assert peer.messages[1] == [b"p" * 100_001]
        peer.writer.write(long(b"w" * 100_000, 3) + long(b"w" * 100_001, 3))
        await peer.until(lambda: any(kind == RESET for kind, _, _ in peer.others))
        assert [len(message) for message in peer.messages[3]] in ([100_000], [])  # the answer, unless it came too late
        assert _reset_code(peer) is kernel.Code.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
async def test_nobody_sends_so_many_bytes(lanes, size):
    async with speaking() as (peer, service):
        peer.writer.write(frame(DATA, b"x", 1) + frame(DATA, size.to_bytes(8, "big") + b"x", 1, BEGIN | MORE))
        await peer.until(lambda: any(kind == RESET for kind, _, _ in peer.others))
        assert _reset_code(peer) is kernel.Code.MESSAGE_TOO_LARGE
        assert service.seen == [b"x"]


def _reset_code(peer):
    return kernel.Code(int.from_bytes(next(payload for kind, _, payload in peer.others if kind == RESET)[:2], "big"))


class OutOfMemory(kernel.Service):
    """Each answer finds no memory, a little later each time; then it is left out."""

    name = "pieces"

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.piece = False

    def on_messages(self, channel, messages):
        (message,) = messages
        testcapi = pytest.importorskip("_testcapi")
        answer, late = bytes(40_000), int(message)
        send, arguments = channel.port.take, (answer,)
        if self.piece:
            send, arguments = channel.port.take_piece, (answer, 40_001, False)
        try:
            testcapi.set_nomemory(late, late + 1)
            try:
                send(*arguments)
            finally:
                testcapi.remove_mem_hooks()
        except MemoryError:
            self.failed.append(late)
            channel.send(message)
            return
        if self.piece:
            channel.port.take_piece(b"x", 40_001, True)


@pytest.mark.parametrize("piece", [False, True])
async def test_no_memory_between_a_header_and_its_body(piece):
    """Out of memory between a header and its body: the header is taken back, and so is what was paid for it."""
    if engine().name != "c":
        pytest.skip("the C engine has lanes")
    credit = 20 * (16 + 8 + 40_001 + 16)
    service = OutOfMemory()
    service.piece = piece
    async with speaking(services=[service], f2=struct.pack(">I", credit)) as (peer, _):
        for n in range(20):
            peer.writer.write(frame(DATA, b"%d" % n, 1))
            await peer.until(lambda n=n: len(peer.messages[1]) == n + 1)
        assert 2 <= len(service.failed) < 20
        assert [int(m) for m in peer.messages[1] if len(m) < 3] == service.failed


async def test_an_interrupt_is_not_the_channels_affair(lanes):
    """It reaches the event loop, which ends at once of a KeyboardInterrupt, and tells of another."""

    class Interrupt(BaseException):
        pass

    class Interrupted(kernel.Service):
        name = "pieces"

        def __init__(self):
            """No options."""

        def on_messages(self, channel, messages):
            raise Interrupt

    loop = asyncio.get_running_loop()
    told = loop.create_future()
    loop.set_exception_handler(lambda _, context: told.set_result(context["exception"]))
    async with speaking(services=[Interrupted()]) as (peer, _):
        peer.writer.write(frame(DATA, b"stop", 1))
        async with asyncio.timeout(GUARD_SECONDS):
            assert type(await told) is Interrupt
        await peer.settle()
        assert not peer.messages
        assert RESET not in [kind for kind, _, _ in peer.others]


async def test_channels_with_and_without_a_port_side_by_side(lanes):
    async with speaking(opens=["pieces", "later", "pieces"]) as (peer, service):
        for n in range(50):
            peer.writer.write(b"".join(frame(DATA, b"%d of %d" % (n, channel), channel) for channel in (1, 3, 5)))
            if n % 10 == 0:
                peer.writer.write(frame(PING, b"%d" % n))
                await peer.until(lambda n=n: (PONG, 0, b"%d" % n) in peer.others)
        await peer.until(lambda: sum(map(len, peer.messages.values())) == 150)
        for channel in (1, 3, 5):
            assert peer.messages[channel] == [b"%d of %d" % (n, channel) for n in range(50)]
        assert any(service.passable) is lanes


async def test_a_finished_channel_leaves_the_others_alone(lanes):
    async with speaking(opens=["pieces", "pieces"]) as (peer, service):
        peer.writer.write(frame(DATA, b"last", 1) + frame(DATA, b"", 1, FIN) + frame(DATA, b"on", 3))
        await peer.until(lambda: peer.messages == {1: [b"last"], 3: [b"on"]})
        peer.writer.write(frame(DATA, b"and on", 3))
        await peer.until(lambda: len(peer.messages[3]) == 2)
        assert service.passable[-1] is lanes


async def test_many_channels_at_random(lanes):
    """Short and long messages on several channels, cut anywhere; a small receive window, pings between."""
    rng = random.Random(4)
    channels = {1: [], 3: [], 5: [], 7: []}
    async with speaking(opens=["pieces", "pieces", "later", "pieces"]) as (peer, _):
        queues = {channel: [] for channel in channels}
        for channel, sent in channels.items():
            for _ in range(30):
                message = rng.randbytes(rng.choice([0, 3, 200, 5000, 66_000, 150_000]))
                sent.append(message)
                queues[channel] += (
                    parts_of(message, channel) if len(message) > 65536 else [frame(DATA, message, channel)]
                )
        wire = bytearray()
        spent = defaultdict(int)

        def sendable():
            """Frames whose credit has come, of a channel at random."""
            choices = [c for c, queue in queues.items() if queue and _affordable(peer, spent, c, queue[0])]
            return rng.choice(choices) if choices else 0

        while any(queues.values()) or wire:
            if any(queues.values()):
                await peer.until(sendable)
                channel = sendable()
                head = queues[channel].pop(0)
                for account in (0, channel):
                    spent[account] += len(head)
                wire += head
            cut = rng.randrange(len(wire) + 1) if any(queues.values()) else len(wire)
            peer.writer.write(bytes(wire[:cut]))
            del wire[:cut]
        await peer.until(lambda: sum(map(len, peer.messages.values())) == 120)
        assert peer.messages == channels


def _affordable(peer, spent, channel, data):
    windows = {0: Limits().connection_credit_bytes, channel: Limits().channel_credit_bytes}
    return all(window + peer.credit[c] - spent[c] >= len(data) for c, window in windows.items())
