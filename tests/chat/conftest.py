"""A chat in this process, on three transports, and people who talk in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kernel import Server
from kernel.plugins.chat import Chat, stored
from kernel.plugins.chat.client import ChatClient, ClientEvent
from kernel.plugins.chat.store import Store
from kernel.plugins.chat.threads import StoreThreads
from kernel.testing import VirtualLoop

T = TypeVar("T")

DEADLINE_SECONDS = 30

TRANSPORTS = ("tcp", "unix", "udp")


class Person:
    """Somebody in the chat, and all that he has seen so far."""

    def __init__(self, client: ChatClient) -> None:
        self.client = client
        self.seen: list[ClientEvent] = []
        self._more = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self.client:
            self.seen.append(event)
            self._more.set()

    def texts(self, room: str = "lobby") -> list[str]:
        """What he has seen being said in a room."""
        return [event.text for event in self.seen if getattr(event, "room", "") == room and hasattr(event, "text")]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def until(self, condition: Callable[[Person], object], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until he has seen what makes it true."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                self._more.clear()
                await self._more.wait()

    async def leave(self) -> None:
        await self.client.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Place:
    """A served chat."""

    def __init__(self, server: Server, stack: AsyncExitStack) -> None:
        self.server = server
        self._stack = stack
        self.endpoints = dict(zip(TRANSPORTS, map(str, server.endpoints), strict=True))

    @property
    def chat(self) -> Chat:
        [hosted] = self.server._services.values()
        assert isinstance(hosted.service, Chat)
        return hosted.service

    async def person(self, nick: str, transport: str = "tcp", *rooms: str, **options: Any) -> Person:
        client = ChatClient(self.endpoints[transport], nick=nick, **options)
        await client.start()
        person = Person(client)
        self._stack.push_async_callback(person.leave)
        for room in rooms or ("lobby",):
            await client.join(room)
        return person


class InlineThreads(StoreThreads):
    """A store without threads: on a virtual clock nobody waits for them."""

    async def write(self, work: Callable[[], T]) -> T:
        return work()

    async def read(self, work: Callable[[Store], T]) -> T:
        return work(self._store)


RunVirtually = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run_virtually(monkeypatch: pytest.MonkeyPatch) -> RunVirtually:
    """Run something with a chat in a simulated network (`sim://`), on a virtual clock."""
    monkeypatch.setattr(stored, "StoreThreads", InlineThreads)

    def run(story: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(story)

    return run


MakePlace = Callable[..., Awaitable[Place]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[MakePlace]:
    """Serve a chat with some options."""
    numbers = itertools.count()
    async with AsyncExitStack() as stack:

        async def make(
            plugin: str = "chat?store=memory&messages_per_second=100000&burst=1000", **options: Any
        ) -> Place:
            listen = ["tcp://127.0.0.1:0", f"unix:{tmp_path}/{next(numbers)}.sock", "udp://127.0.0.1:0"]
            server = await stack.enter_async_context(Server([plugin], listen, **options))
            return Place(server, stack)

        yield make
