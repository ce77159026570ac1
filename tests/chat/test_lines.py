"""Lines over datagrams: when something is sent."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kernel import Channel
from kernel.plugins.chat.lines import DatagramLine
from kernel.testing import VirtualLoop


class Wire:
    """What a line needs of a channel; knows when something was sent."""

    code = None
    reliable = False

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []

    def send_many(self, datagrams: list[bytes]) -> None:
        now = asyncio.get_running_loop().time()
        self.sent += [(round(now, 3), datagram) for datagram in datagrams]


def line_for(seconds: float, asks_seconds: float | None, at: dict[float, str]) -> list[tuple[float, bytes]]:
    """What a line sends in so many seconds, in which something is said at some moments."""

    async def story() -> list[tuple[float, bytes]]:
        wire = Wire()
        line = DatagramLine(cast(Channel, cast(Any, wire)), 3600.0, asks_seconds)
        loop = asyncio.get_running_loop()
        for moment, text in at.items():
            loop.call_at(moment, line.send, [text.encode()])
            loop.call_at(moment + 0.1, line.received, [b"1 %d\n" % (1 + list(at).index(moment) + 1)])
        await asyncio.sleep(seconds)
        line.closed()
        return wire.sent

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())


def test_who_only_listens_asks_now_and_then() -> None:
    assert line_for(18.0, 5.0, {0.0: "hello", 7.0: "x"}) == [
        (0.0, b"1 1\nhello"),
        (5.1, b"2 1\n"),
        (7.0, b"2 1\nx"),
        (12.1, b"3 1\n"),
        (17.1, b"3 1\n"),
    ]


@pytest.mark.parametrize("seconds", [60.0, 3600.0])
def test_a_server_asks_nobody(seconds: float) -> None:
    assert line_for(seconds, None, {0.0: "hello"}) == [(0.0, b"1 1\nhello")]
