"""How fast a chat reaches everybody: `python -m benchmarks.chat` (2 minutes; `--full` 6; `--record` writes docs/).

One speaker and so many members in one room. The speaker sends a burst of messages and waits until every member has all
of them; then the next burst. Counted are deliveries: messages times members. The servers of one size run side by side
and take turns: ours with its own clients' framing (knl) and with lines, `ncat --chat`, and, where it is installed,
NATS: ours with NATS behind it, and NATS alone. Ours writes each message to its log before anybody sees it; ncat and
NATS alone keep nothing. Members are sockets in one process that count what comes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from benchmarks.load import raise_file_limit
from benchmarks.report import Report, Rows
from kernel import Channel, ChannelHandler, connect, run as run_in_loop
from kernel.bench import machine
from kernel.bench.timing import Spread

DOCS = Path(__file__).parents[1] / "docs"
MEMBERS = (10, 100, 1000)
TEXT_BYTES = 64
BURST = 50
START_SECONDS = 30.0
MARK = b"MARK"
TEXT = MARK.decode() + "x" * (TEXT_BYTES - len(MARK))
PATH = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")
TABLE = re.compile(r"(<!-- table chat-(?P<name>\w+) -->\n).*?(<!-- end -->)", re.S)


class Tally:
    """Counts what the members get."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None

    def add(self, count: int) -> None:
        self.count += count
        if self._reached is not None and self.count >= self._wanted and not self._reached.done():
            self._reached.set_result(None)

    async def reach(self, wanted: int) -> None:
        self._wanted = wanted
        if self.count < wanted:
            self._reached = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(START_SECONDS):
                await self._reached
            self._reached = None


class Member(asyncio.Protocol):
    """A plain socket that counts the marks in what it reads. A mark is never cut: what is left over is kept."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self._rest = data[-len(MARK) + 1 :]
        self._tally.add(data.count(MARK))

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class KnlMember(ChannelHandler):
    """A member with the kernel's own client."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        self._tally.add(sum(MARK in message for message in messages))


class Contestant(ABC):
    """A chat that is running, with its members in it."""

    name: str
    echoes = True
    """The speaker gets his own messages too."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tally = Tally()
        self.members = 0
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    async def start(self, members: int, stack: AsyncExitStack) -> None: ...

    @abstractmethod
    def say_burst(self) -> None: ...

    async def deliveries_per_second(self, seconds: float) -> float:
        """Burst after burst."""
        await asyncio.sleep(0)
        before, started = self.tally.count, time.perf_counter()
        while time.perf_counter() - started < seconds:
            wanted = self.tally.count + BURST * (self.members + self.echoes)
            self.say_burst()
            await self.tally.reach(wanted)
        return (self.tally.count - before) / (time.perf_counter() - started)

    @property
    def rss_mib(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def spawn(self, stack: AsyncExitStack, *command: str | Path) -> None:
        log = (self.place / f"{type(self).__name__}.log").open("wb")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.PIPE)
        log.close()
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)

    async def plain_members(self, port: int, count: int, stack: AsyncExitStack, hello: list[bytes]) -> list[Member]:
        made = []
        for number in range(count):
            member = await self._plain_member(port)
            stack.callback(member.transport.abort)  # type: ignore[union-attr]
            for line in hello:
                member.write(line.replace(b"NICK", b"m%d" % number))
            made.append(member)
        return made

    async def _plain_member(self, port: int) -> Member:
        """Waits for the server, and does not try it out first: ncat ends when its first peer leaves at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while True:
            try:
                return (await loop.create_connection(lambda: Member(self.tally), "127.0.0.1", port))[1]
            except ConnectionRefusedError:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.05)


class Kernel(Contestant):
    """Ours."""

    framing = "knl"
    options = ""

    async def start(self, members: int, stack: AsyncExitStack) -> None:
        ready = self.place / f"{type(self).__name__}.json"
        store = self.place / f"{type(self).__name__}.sqlite"
        rate = "messages_per_second=1000000&burst=1000000&slow_reader_seconds_max=60"
        limits = f"{rate}&people_max=5000&people_per_source_max=5000"
        plugin = f"chat?store={store}&{limits}{self.options}"
        endpoint = f"tcp://127.0.0.1:0?framing={self.framing}"
        kernel = Path(sys.executable).with_name("kernel")
        self.spawn(stack, kernel, "serve", "--plugin", plugin, "--listen", endpoint, "--ready-file", ready)
        port = int(re.findall(r":(\d+)", (await appears(str(ready))))[-1])
        self.members = members
        await self.come_in(port, members, stack)
        await self.until_all_are_in()

    async def come_in(self, port: int, members: int, stack: AsyncExitStack) -> None:
        self._speaker: Channel | Member
        channels = []
        for number in range(members + 1):
            endpoint = f"tcp://127.0.0.1:{port}"
            channel = await stack.enter_async_context(connect(endpoint, "chat", handler=KnlMember(self.tally)))
            for line in HELLO:
                channel.send(line.replace(b"NICK", b"m%d" % number).strip())
            channels.append(channel)
        self._speaker = channels[0]

    def say_burst(self) -> None:
        assert isinstance(self._speaker, Channel)
        self._speaker.send_many([SAY.strip()] * BURST)

    async def until_all_are_in(self) -> None:
        """What is said before somebody has come in does not reach him: try until a burst reaches all."""
        for _ in range(100):
            before = self.tally.count
            self.say_burst()
            await asyncio.sleep(0.2)
            if self.tally.count - before >= BURST * (self.members + self.echoes):
                break
        await asyncio.sleep(0.5)


class KernelKnl(Kernel):
    name = "kernel chat (knl)"


class KernelLine(Kernel):
    name = "kernel chat (line)"
    framing = "line"

    async def come_in(self, port: int, members: int, stack: AsyncExitStack) -> None:
        self._speaker = (await self.plain_members(port, members + 1, stack, HELLO))[0]

    def say_burst(self) -> None:
        assert isinstance(self._speaker, Member)
        self._speaker.write(SAY * BURST)


class KernelNats(KernelKnl):
    name = "kernel chat (knl) over NATS"

    async def start(self, members: int, stack: AsyncExitStack) -> None:
        port = free_port()
        nats = Nats(self.place)
        nats.spawn(stack, *nats.command(port, jetstream=True))
        await listening(port)
        self.options = f"&backplane=nats://127.0.0.1:{port}"
        await super().start(members, stack)


class Ncat(Contestant):
    name = "ncat --chat"
    echoes = False

    async def start(self, members: int, stack: AsyncExitStack) -> None:
        port = free_port()
        ncat = str(shutil.which("ncat", path=PATH))
        self.spawn(stack, ncat, "--chat", "-m", str(members + 10), "-l", "127.0.0.1", str(port))
        self.members = members
        self._speaker, *_ = await self.plain_members(port, members + 1, stack, [])
        await asyncio.sleep(1.0)

    def say_burst(self) -> None:
        self._speaker.write((TEXT.encode() + b"\n") * BURST)


class Nats(Contestant):
    name = "NATS alone"

    def command(self, port: int, *, jetstream: bool) -> list[str]:
        storage = ["-js", "-sd", str(self.place / "js")] if jetstream else []
        return [str(shutil.which("nats-server", path=PATH)), "-a", "127.0.0.1", "-p", str(port), *storage]

    async def start(self, members: int, stack: AsyncExitStack) -> None:
        port = free_port()
        self.spawn(stack, *self.command(port, jetstream=False))
        self.members = members
        hello = [b'CONNECT {"verbose":false}\r\n', b"SUB room 1\r\n"]
        self._speaker, *_ = await self.plain_members(port, members + 1, stack, hello)
        await asyncio.sleep(1.0)

    def say_burst(self) -> None:
        self._speaker.write(b"PUB room %d\r\n%s\r\n" % (TEXT_BYTES, TEXT.encode()) * BURST)


HELLO = [b'{"type":"hello","nick":"NICK"}\n', b'{"type":"join","room":"lobby","last":0}\n']
SAY = b'{"type":"say","room":"lobby","text":"%s"}\n' % TEXT.encode()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def listening(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(f"nothing listens on port {port}")


async def appears(path: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            return await asyncio.to_thread(Path(path).read_text)
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{path} did not appear")


def contestants() -> tuple[list[type[Contestant]], list[str]]:
    """Who takes part, and why somebody does not."""
    found: list[type[Contestant]] = [KernelKnl, KernelLine]
    missing = []
    if shutil.which("ncat", path=PATH):
        found.append(Ncat)
    else:
        missing.append("ncat is not installed (Debian: apt install ncat)")
    if shutil.which("nats-server", path=PATH):
        found += [KernelNats, Nats]
    else:
        missing.append("nats-server is not installed (Debian: apt install nats-server)")
    return found, missing


async def measure(members: int, rounds: int, seconds: float) -> tuple[dict[str, Spread], dict[str, float]]:
    """Deliveries a second, and the server's memory, by contestant."""
    samples: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncExitStack() as stack:
            running = []
            for kind in contestants()[0]:
                contestant = kind(Path(directory))
                await contestant.start(members, stack)
                running.append(contestant)
            for _ in range(rounds):
                for contestant in running:
                    rate = await contestant.deliveries_per_second(seconds)
                    samples.setdefault(contestant.name, []).append(rate)
            for contestant in running:
                memory[contestant.name] = contestant.rss_mib
    return {name: Spread.of(values) for name, values in samples.items()}, memory


def run(*, full: bool = False) -> Report:
    raise_file_limit()
    rounds, seconds = (7, 2.0) if full else (5, 0.7)
    names = [kind.name for kind in contestants()[0]]
    speed: Rows = [["members", *names]]
    memory: Rows = [["members", *names]]
    report = Report("chat", machine.describe(("uvloop", "nats-py")))
    watch = machine.Watch()
    watch.start()
    for members in MEMBERS:
        rates, held = run_in_loop(measure(members, rounds, seconds), "auto")
        speed.append([f"{members:,}", *(in_words(rates[name]) for name in names)])
        memory.append([f"{members:,}", *(f"{held[name]:.0f} MiB" for name in names)])
        figures = {name: {**rates[name].json(), "rss_mib": round(held[name], 1)} for name in names}
        report.data[str(members)] = figures
    report.others = watch.share_of_others()
    report.tables = {"speed": speed, "memory": memory}
    report.remarks += [f"{TEXT_BYTES} bytes of text, bursts of {BURST} messages.", *contestants()[1]]
    return report


def in_words(spread: Spread) -> str:
    """Thousands a second: the median between its quartiles."""
    return f"{spread.median / 1e3:,.0f} k ({spread.low / 1e3:,.0f} to {spread.high / 1e3:,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="more and longer rounds")
    parser.add_argument("--record", action="store_true", help="write docs/chat.md and docs/performance/chat.json")
    arguments = parser.parse_args()
    report = run(full=arguments.full)
    print(report.text())
    if arguments.record:
        record(report)


def record(report: Report) -> None:
    from benchmarks.record import notes
    from benchmarks.report import markdown

    def replaced(place: re.Match[str]) -> str:
        content = notes(report) if place["name"] == "notes" else markdown(report.tables[place["name"]])
        return f"{place[1]}\n{content}\n\n{place[3]}"

    page = DOCS / "chat.md"
    page.write_text(TABLE.sub(replaced, page.read_text()))
    report.write(DOCS / "performance")


if __name__ == "__main__":
    main()
