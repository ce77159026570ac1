"""The built-in services, through the same kit as everybody else's."""

from __future__ import annotations

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


class TestShell(ServiceSuite):
    service = "shell?free=1&grace_seconds=0"
    messages = (b'\x01{"argv":["cat"]}', b"\x03hello")


class TestFile(ServiceSuite):
    service = "file?root={directory}"
