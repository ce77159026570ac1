"""What people see while bytes move: on a real terminal of any width, and off one. And how fast they move at most."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file.conftest import KERNEL, Serving
from file.hosts import Hosting, hosting as hosting
from server_process import ServerProcess

from kernel.plugins.file import sending
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.messages import Block, Entries, Entry, Failed, Message, Put, Ready, SmallFile, Stat
from kernel.plugins.file.progress import Progress
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum
from kernel.plugins.file.wire import Wire

MIB = BLOCK_BYTES


class Terminal:
    """A terminal, with a command that writes its errors and progress to it."""

    def __init__(self, columns: int) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(columns)
        self._rest = b""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def lines(self) -> Iterator[str]:
        """What was drawn, each time from the line's beginning; up to the command's end."""
        while True:
            try:
                data = os.read(self._ours, 4096)
            except OSError:  # nobody holds the other end any more
                break
            *whole, self._rest = (self._rest + data).split(b"\r")
            yield from (line.decode() for line in whole)
        yield self._rest.decode()

    def close(self) -> None:
        os.close(self._ours)


@pytest.fixture
def putting(
    serve_process: Callable[..., ServerProcess], root: Path, tmp_path: Path, environ: dict[str, str]
) -> Iterator[Callable[[int], tuple[Terminal, subprocess.Popen[bytes]]]]:
    """Begin an upload that takes long, on a terminal of so many columns."""
    endpoint = serve_process(root).endpoints[0]
    begun: list[tuple[Terminal, subprocess.Popen[bytes]]] = []
    local = tmp_path / "a file with a rather long name.img"
    local.write_bytes(os.urandom(64 * MIB))

    def begin(columns: int) -> tuple[Terminal, subprocess.Popen[bytes]]:
        terminal = Terminal(columns)
        command = [KERNEL, "file", "put", endpoint, local, "x", "--limit-rate", "4MiB"]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=terminal.theirs)
        os.close(terminal.theirs)
        begun.append((terminal, process))
        return begun[-1]

    yield begin
    for terminal, process in begun:
        process.kill()
        process.communicate()
        terminal.close()


def shown(line: str) -> str:
    return line.removesuffix("\x1b[K")


@pytest.mark.parametrize("columns", [120, 40, 20, 5])
def test_the_bar_fits_the_terminal_and_is_gone_in_the_end(putting: Callable, columns: int):
    """Its width is that of the terminal, which standard output is not. After Ctrl-C nothing of it is left."""
    terminal, process = putting(columns)
    drawn: list[str] = []
    said = ""
    for line in terminal.lines():
        if line.endswith("\x1b[K") and shown(line):
            drawn.append(shown(line))
            if len(drawn) == 3:
                process.send_signal(signal.SIGINT)
        said += line
    assert all(line.isprintable() for line in drawn)
    assert max(map(len, drawn)) < columns
    assert "%" in drawn[0]
    if columns >= 40:
        assert "MiB/s" in drawn[-1]
    if columns == 120:
        assert "[#" in drawn[-1]
        assert "left" in drawn[-1]
        assert "rather long name.img" in drawn[-1]
    assert process.wait(30) == 130
    assert "interrupted: the same command continues" in said
    assert "Traceback" not in said


def test_the_bar_follows_the_terminal(putting: Callable):
    terminal, process = putting(100)
    wide = narrow = 0
    for line in terminal.lines():
        if not line.endswith("\x1b[K"):
            continue
        if len(shown(line)) >= 60:
            wide += 1
            terminal.resize(30)
        elif shown(line):
            narrow += 1
            if narrow == 1:  # a second Ctrl-C would not be waited for
                process.send_signal(signal.SIGINT)
    assert wide
    assert narrow
    assert process.wait(30) == 130


def test_off_a_terminal_there_are_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kernel.plugins.file.progress._LINE_SECONDS", 0.01)

    async def show() -> None:
        with (tmp_path / "log").open("w") as stream:
            progress = Progress(stream=stream)
            progress.total_bytes = 10 * MIB
            async with progress:
                progress.moved(3 * MIB)
                while not (tmp_path / "log").read_text():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(show(), 30))
    text = (tmp_path / "log").read_text()
    assert text.endswith("\n")
    assert text.splitlines()[0].startswith(" 30%  3.0 MiB  ")
    assert text.replace("\n", "").isprintable()


async def test_a_limited_rate_is_kept_by_all_who_share_it(monkeypatch: pytest.MonkeyPatch):
    """By a clock of our own: so many bytes take so many seconds, however many connections move them."""
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    waiting: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        waiting.append((now + seconds, future))
        await future

    turn = asyncio.sleep
    monkeypatch.setattr(sending, "time", Clock)
    monkeypatch.setattr(sending.asyncio, "sleep", sleep)
    limiter = sending.Limiter(2 * MIB)
    spent: list[float] = []

    async def move(blocks: int) -> None:
        for _ in range(blocks):
            await limiter.spend(MIB)
            spent.append(now)

    tasks = [asyncio.ensure_future(move(10)) for _ in range(4)]
    while not all(task.done() for task in tasks):
        await turn(0)
        if waiting and not any(future.done() for _, future in waiting):
            now, future = min(waiting, key=lambda item: item[0])
            waiting.remove((now, future))
            future.set_result(None)
    assert len(spent) == 40
    for at, moment in enumerate(sorted(spent)):  # one block ahead of the rate at most
        assert moment == pytest.approx(at * 0.5)
    await sending.Limiter(0).spend(1 << 40)  # no limit: nobody would wake it


class Spent(sending.Limiter):
    """Never waits, and remembers what was asked for."""

    def __init__(self, bytes_per_second: int) -> None:
        super().__init__(bytes_per_second)
        self.spent: list[int] = []

    async def spend(self, nbytes: int) -> None:
        self.spent.append(nbytes)


@pytest.mark.parametrize("way", ["plain", "packed", "stream"])
async def test_a_low_rate_sends_little_at_a_time(way: str, serving: Serving, root: Path, tmp_path: Path):
    """At 1 KiB/s a whole block would take longer than a server waits for a client that is silent."""
    limiter, local = Spent(100_000), tmp_path / "local"
    local.write_bytes(os.urandom(2 * MIB) + b"x" * 1000)
    async with serving() as endpoint, FileClient(endpoint, limiter=limiter, packed=way == "packed") as files:
        if way == "stream":
            with local.open("rb") as file:
                await files.put_stream(file.fileno(), b"x")
        else:
            await files.put(local, b"x")
    assert (root / "x").read_bytes() == local.read_bytes()
    assert max(limiter.spent) == 100_000
    assert sum(limiter.spent) <= 2 * MIB + 1000


async def test_small_files_count_for_the_rate(serving: Serving, root: Path):
    limiter = Spent(100_000)
    files_ = [SmallFile(b"%d" % at, 0, 0o644, block_sum([b"x" * 1000]), b"x" * 1000) for at in range(5)]
    async with serving() as endpoint, FileClient(endpoint, limiter=limiter) as files:
        await files.put_small(files_, "refuse")
        assert sum(limiter.spent) == 5000
        assert len([file async for file in files.get_small([file.path for file in files_])]) == 5
    assert sum(limiter.spent) == 10_000


async def test_who_is_refused_inside_a_block_goes_on(hosting: Hosting, tmp_path: Path):
    """Half a block has left, and at that rate the rest would take an hour."""

    class Stuck(sending.Limiter):
        async def spend(self, nbytes: int) -> None:
            within.set()
            await asyncio.Event().wait()

    async def play(wire: Wire, request: Message) -> None:
        if isinstance(request, Put):
            wire.send(Ready(0, b""))
        elif isinstance(request, Block):
            wire.send(Failed("full", "the disk is full"))
        elif isinstance(request, Stat):
            wire.send(Entries([Entry(b"x", "file", 1, 0, 0o644)], last=True))

    within = asyncio.Event()
    local = tmp_path / "local"
    local.write_bytes(bytes(1000))
    async with asyncio.timeout(60), FileClient(hosting(play), limiter=Stuck(1)) as files:
        with pytest.raises(FileError, match="the disk is full"):
            await files.put(local, b"x")
        assert within.is_set()
        assert (await files.stat(b"x")).size == 1
