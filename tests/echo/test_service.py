"""The service as its peers see it: over KNL/1 by our own client, over raw streams by a plain socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kernel import Channel, ChannelHandler, Code, Endpoint, NeedsCapability, OptionError, Server, Service, connect
from kernel.plugins.echo.delay import Delayed
from kernel.plugins.echo.payload import generated
from kernel.plugins.echo.service import Greeting

GUARD_SECONDS = 20


@pytest.fixture(params=["tcp", "unix"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/echo.sock"


@asynccontextmanager
async def serving(plugin: str | type[Service], listen: str = "tcp://127.0.0.1:0") -> AsyncIterator[Endpoint]:
    async with asyncio.timeout(GUARD_SECONDS), Server([plugin], [listen]) as server:
        yield server.endpoints[0]


async def replies(endpoint: Endpoint, *messages: bytes) -> list[bytes]:
    """What comes until the server has finished too."""
    async with connect(endpoint, "echo") as channel:
        channel.send_many(list(messages))
        channel.finish()
        return [message async for message in channel]


@asynccontextmanager
async def raw_socket(
    plugin: str, framing: str = "raw"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Server]]:
    """What `nc` is: bytes, and nothing of ours."""
    async with asyncio.timeout(GUARD_SECONDS), Server([plugin], [f"tcp://127.0.0.1:0?framing={framing}"]) as server:
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        try:
            yield reader, writer, server
        finally:
            writer.close()


async def test_verbatim_returns_every_message_as_it_was(anywhere: str) -> None:
    messages = [b"", b"hello", bytes(range(256)), b"\r\n\0", "grüße".encode()]
    async with serving("echo", anywhere) as endpoint:
        assert await replies(endpoint, *messages) == messages


async def test_sends_that_stick_together_keep_their_boundaries(anywhere: str) -> None:
    async with serving("echo", anywhere) as endpoint:
        assert await replies(endpoint, b"hello", b"feng") == [b"hello", b"feng"]


async def test_upper() -> None:
    async with serving("echo?mode=upper") as endpoint:
        assert await replies(endpoint, b"hello", b"\xe4 1a") == [b"HELLO", b"\xe4 1A"]


async def test_greeting_answers_once_and_closes() -> None:
    async with serving("echo?mode=greeting&text=moin") as endpoint, connect(endpoint, "echo") as channel:
        channel.send_many([b"anything", b"more"])
        assert [message async for message in channel] == [b"moin"]


async def test_greeting_waits_for_the_first_message() -> None:
    async with raw_socket("echo?mode=greeting") as (reader, writer, _):
        writer.write(b"hello?")
        assert await reader.read() == b"hi"


async def test_sink_swallows_everything() -> None:
    async with serving("echo?mode=sink") as endpoint:
        assert await replies(endpoint, b"a", generated(1, 300_000).whole()) == []


async def test_generate_sends_what_was_ordered_and_finishes() -> None:
    async with serving("echo?mode=generate&size_bytes=100&count=5000") as endpoint:
        messages = await replies(endpoint)
    assert len(messages) == 5000
    assert {len(message) for message in messages} == {100}


async def test_generate_without_end_waits_for_a_peer_that_does_not_read() -> None:
    async with raw_socket("echo?mode=generate&size_bytes=64KiB") as (reader, _, server):
        await reader.readexactly(10_000_000)
        (channel,) = server.channels
        assert channel.buffered_bytes <= 512 * 1024


async def test_a_raw_stream_is_echoed_and_its_end_too() -> None:
    async with raw_socket("echo") as (reader, writer, _):
        data = generated(1, 1_000_000).whole()
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data


async def test_lines_are_echoed_as_lines() -> None:
    async with raw_socket("echo?mode=upper", "line") as (reader, writer, _):
        writer.write(b"one\ntwo\nthr")
        assert await reader.readexactly(8) == b"ONE\nTWO\n"
        writer.write(b"ee\n")
        assert await reader.readexactly(6) == b"THREE\n"


@pytest.mark.parametrize("mode", ["verbatim", "upper"])
async def test_a_long_message_comes_back_whole(mode: str, anywhere: str) -> None:
    message = generated(1, 3_000_000).whole()
    async with serving(f"echo?mode={mode}", anywhere) as endpoint:
        assert await replies(endpoint, b"before", message, b"after") == [
            answer.upper() if mode == "upper" else answer for answer in (b"before", message, b"after")
        ]


async def test_many_clients_at_once() -> None:
    async with serving("echo") as endpoint:
        answers = await asyncio.gather(*(replies(endpoint, b"%d" % number, b"q") for number in range(50)))
    assert answers == [[b"%d" % number, b"q"] for number in range(50)]


async def test_a_reset_ends_one_conversation_only() -> None:
    async with raw_socket("echo") as (reader, writer, server):
        writer.write(b"x" * 1_000_000)
        await reader.read(1)
        writer.transport.abort()
        async with connect(server.endpoints[0]) as channel:
            channel.send(b"still there?")
            assert await channel.receive() == b"still there?"


class TestDelay:
    async def test_answers_keep_their_order_and_come_before_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        messages = [b"%d" % number for number in range(100)]
        async with serving("echo?delay_seconds=50ms") as endpoint:
            started = loop.time()
            assert await replies(endpoint, *messages, generated(1, 200_000).whole(), b"end") == [
                *messages,
                generated(1, 200_000).whole(),
                b"end",
            ]
            assert loop.time() - started >= 0.05

    async def test_what_comes_after_a_late_greeting_is_nobodys_fault(self) -> None:
        class OneByOne(Delayed):
            def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
                for message in messages:
                    super().on_messages(channel, [message])

        class LateGreeter(Service):
            name = "late-greeter"

            def handler(self) -> ChannelHandler:
                return OneByOne(Greeting(b"hi"), 0.02)

        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with serving(LateGreeter) as endpoint, connect(endpoint, "late-greeter") as channel:
            channel.send_many([b"a", b"b"])
            assert [message async for message in channel] == [b"hi"]
        assert faults == []

    async def test_what_waits_is_bounded(self) -> None:
        async with serving("echo?delay_seconds=1h") as endpoint, connect(endpoint, "echo") as channel:
            channel.send_many([bytes(60_000)] * 200)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await channel.drain()
            channel.reset(Code.CANCELLED)

    async def test_what_was_held_back_comes_in_the_end(self) -> None:
        messages = [generated(number, 60_000).whole() for number in range(100)]
        async with serving("echo?delay_seconds=10ms") as endpoint:
            assert await replies(endpoint, *messages) == messages


class TestOptions:
    @pytest.mark.parametrize(
        ("plugin", "what"),
        [
            ("echo?mode=uper", "mode"),
            ("echo?delay_seconds=-1", "delay_seconds"),
            ("echo?delay_seconds=soon", "delay_seconds"),
            ("echo?size_bytes=0", "size_bytes"),
            ("echo?txt=x", "did you mean 'text'?"),
            ("echo?mode=generate&delay_seconds=1", "mode=generate gives none"),
        ],
    )
    async def test_what_cannot_be_is_refused_in_one_line(self, plugin: str, what: str) -> None:
        with pytest.raises(OptionError, match=what) as caught:
            await Server([plugin], ["tcp://127.0.0.1:0"]).start()
        assert "\n" not in str(caught.value)

    async def test_nobody_is_flooded_over_datagrams(self) -> None:
        with pytest.raises(NeedsCapability, match="delivery of every message"):
            await Server(["echo?mode=generate"], ["udp://127.0.0.1:0"]).start()


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?framing=raw", "udp://127.0.0.1:0?framing=raw"]
)
async def test_a_clients_handler_knows_its_channel_before_the_client_does(endpoint: str) -> None:
    class Handler(ChannelHandler):
        channel: Channel | None = None

        def opened(self, channel: Channel) -> None:
            self.channel = channel

    handler = Handler()
    async with serving("echo", endpoint) as bound, connect(bound, "echo", handler=handler) as channel:
        assert handler.channel is channel


async def test_a_service_may_give_each_channel_a_handler_of_its_own() -> None:
    class Counter(ChannelHandler):
        count = 0

        def on_message(self, channel: Channel, message: bytes) -> None:
            self.count += 1
            channel.send(b"%d" % self.count)

    class Counting(Service):
        name = "counting"

        def handler(self) -> ChannelHandler:
            return Counter()

    async with serving(Counting) as endpoint:
        for _ in range(2):
            async with connect(endpoint, "counting") as channel:
                channel.send_many([b"a", b"b"])
                assert [await channel.receive(), await channel.receive()] == [b"1", b"2"]
