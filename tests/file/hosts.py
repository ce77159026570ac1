"""A server whose file service is played by hand, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from kernel import Channel, ChannelClosed, Needs, Server, Service
from kernel.plugins.file.messages import VERSION, Hello, Message, Welcome
from kernel.plugins.file.wire import Wire

Play = Callable[[Wire, Message], Awaitable[None]]


class Hostile(Service):
    """Greets as a file service does; then each request is answered by `play`."""

    name = "file"
    needs = Needs(reliable=True, ordered=True)
    whole_messages = False
    bulk = True
    play: Play

    async def serve(self, channel: Channel) -> None:
        wire = Wire(channel)
        try:
            await wire.expect(Hello)
            wire.send(Welcome(VERSION, writable=True, overwrite=True, packed=True))
            while (request := await wire.receive()) is not None:
                await type(self).play(wire, request)
                await channel.drain()
        except ChannelClosed:
            pass


Hosting = Callable[[Play], str]


@pytest.fixture
def hosting() -> Iterator[Hosting]:
    """Start a hostile server in a thread of its own; its endpoint."""
    ends: list[Callable[[], None]] = []

    def host(play: Play) -> str:
        ready = threading.Event()
        found: list[str] = []
        service = type("Played", (Hostile,), {"play": staticmethod(play)})

        async def main() -> None:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            async with Server([service], ["tcp://127.0.0.1:0"]) as server:
                found.append(str(server.endpoints[0]))
                ends.append(lambda: loop.call_soon_threadsafe(over.set))
                ready.set()
                await over.wait()

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        assert ready.wait(30)
        ends.append(thread.join)
        return found[0]

    yield host
    for end in ends:
        end()
