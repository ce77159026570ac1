"""The built-in services, through the same kit as everybody else's."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import msgspec.msgpack
import pytest
import xxhash

from kernel import Channel
from kernel.testing import ServiceSuite


class TestEcho(ServiceSuite):
    service = "echo"

    async def talk(self, channel: Channel) -> None:
        channel.send_many([b"one", b"", b"two"])
        channel.finish()
        assert [message async for message in channel] == [b"one", b"", b"two"]


class TestEchoOverTcp(TestEcho):
    endpoint = "tcp://127.0.0.1:0"


class TestUpperEcho(ServiceSuite):
    service = "echo?mode=upper"


class TestGreeting(ServiceSuite):
    service = "echo?mode=greeting"


class TestSink(ServiceSuite):
    service = "echo?mode=sink"


class TestGenerate(ServiceSuite):
    service = "echo?mode=generate&count=5000"


class TestDelayedEcho(ServiceSuite):
    service = "echo?delay_seconds=1ms"


class TestChat(ServiceSuite):
    service = "chat?store={directory}/chat.db"
    messages = (b'{"type":"hello","nick":"ada"}', b'{"type":"rooms"}')


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the shell service needs Linux")
class TestShell(ServiceSuite):
    service = "shell?free=1&grace_seconds=0"
    messages = (b'\x01{"argv":["cat"]}', b"\x03hello")


def packed(*message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


class TestFile(ServiceSuite):
    """A client made from docs/protocol-file.md alone: it stores a file, fetches it and removes it."""

    service = "file?root={directory}&writable=true&overwrite=true"
    messages = (packed(0, 1, True, False), packed(10, b"", True))
    numbers = itertools.count()

    async def talk(self, channel: Channel) -> None:
        path, data = b"file-%d" % next(self.numbers), bytes(range(256)) * 300
        block_sum = xxhash.xxh3_128_digest(data)
        digest = xxhash.xxh3_128_digest(block_sum + len(data).to_bytes(8, "big"))

        async def answer() -> list[Any]:
            message = await channel.receive()
            assert message is not None
            return msgspec.msgpack.decode(message)

        channel.send(packed(0, 1, True, False))
        assert (await answer())[:4] == [1, 1, True, True]
        channel.send(packed(20, path, len(data), 0, 0o644, "refuse", False, False))
        assert (await answer())[:2] == [21, 0]
        channel.send_many([packed(22, 0), packed(40, 0, len(data), block_sum, 0), data, packed(42, len(data), digest)])
        assert await answer() == [24, path, digest]
        channel.send(packed(30, path, 0, b"", None))
        assert (await answer())[:2] == [31, len(data)]
        assert await answer() == [40, 0, len(data), block_sum, 0]
        assert await channel.receive() == data
        assert await answer() == [42, len(data), digest]
        channel.send_many([packed(13, path, False), packed(12, path)])
        assert await answer() == [3]
        assert (await answer())[:2] == [2, "missing"]
        channel.finish()
        assert await channel.receive() is None


class TestFileOverUnix(TestFile):
    endpoint = "unix:{directory}/socket"
