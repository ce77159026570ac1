"""A shell service in this process, a client that collects, and what /proc says of the commands' processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kernel import Client, Server, dial
from kernel.plugins.shell.client import Remote
from kernel.plugins.shell.protocol import Exit, Kind, Request, Started

PATIENCE_SECONDS = 30
MARK = "KERNEL_TEST_MARK"


@asynccontextmanager
async def serving(plugin: str, place: Path) -> AsyncIterator[tuple[Server, Client]]:
    """A server and a connection to it."""
    async with Server([plugin], [f"unix:{place}/shell.sock"]) as server, dial(server.endpoints[0]) as client:
        yield server, client


class Collected:
    """A remote command, and what it has written so far."""

    def __init__(self, argv: Sequence[str], *, stdin: bytes = b"", mark: str = "", **request: object) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.running = asyncio.Event()
        self.wrote = asyncio.Event()
        self._stdin = stdin
        env = {MARK: mark} if mark else {}
        self.remote = Remote(self, Request(list(argv), env, **request))  # type: ignore[arg-type]

    async def open(self, client: Client) -> Collected:
        self.channel = await client.open("shell", handler=self.remote)
        return self

    async def ended(self) -> Exit:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.remote.ended

    def started(self, started: Started) -> None:
        self.running.set()
        if self._stdin:
            self.remote.send_input(self._stdin)
        self.remote.finish_input()

    def output(self, stream: Kind, data: memoryview) -> None:
        (self.out if stream == Kind.STDOUT else self.err).extend(data)
        self.remote.consumed(stream, len(data))
        self.wrote.set()

    def input_taken(self, nbytes: int) -> None:
        """All of the input fits one window."""


async def run(client: Client, *argv: str, **request: object) -> tuple[Exit, bytes, bytes]:
    """Run a command to its end."""
    command = await Collected(argv, **request).open(client)  # type: ignore[arg-type]
    how = await command.ended()
    return how, bytes(command.out), bytes(command.err)


def marked(mark: str) -> list[int]:
    """The processes whose environment carries the mark: whatever a command has started, wherever it has gone."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if wanted in environ.split(b"\0"):
                found.append(int(name))
    return found


def stat(pid: int) -> tuple[str, int]:
    """The state and the parent of a process; `X` when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


def children(pid: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and stat(int(name))[1] == pid]


def keeper_of(pid: int) -> int:
    """The keeper among a server's children."""
    [keeper] = [child for child in children(pid) if b"warden" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return keeper


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def until(condition: object) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.02)
