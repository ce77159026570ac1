"""TLS, beside others: `python -m benchmarks.tls --short` (about a minute) or `--full`.

Two tables of servers with one client, a blocking socket of the standard library on a core of its own: length-framed
echo, and bytes one way, from the client (`in`) and to it (`out`). Then whole programs, both ends of each: a file
through `openssl s_server` and `s_client`, through ssh and through `kernel shell`.

All contestants take turns in every round; what is told is the median of the rounds with its quartiles, ratios are taken
within each round. Beside the rate stands the server's processor time, which others on the machine disturb less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Report, Rows, ratio
from benchmarks.servers import Running, Server
from benchmarks.shell import in_turn, kernel_server, ssh_server
from kernel import MIB
from kernel.bench import machine
from kernel.bench.plot import quantity
from kernel.bench.timing import Spread, ratios
from kernel.transports.self_signed import ensure  # type: ignore[import-untyped]  # mypy knows it as transports

CELLS = {"16 B x 1": ("echo", 16, 1), "1 KiB x 128": ("echo", 1024, 128), "1 MiB x 1": ("echo", MIB, 1)}
"""The task, the size of a message, and how many are in flight."""
WAYS = {"in": ("sink", 0, 0), "out": ("source", 0, 0)}
PARTS = ("echo", "bulk", "programs")
OURS = ("kernel", "kernel (asyncio)")
PEERS = ("asyncio streams", "asyncio Protocol", "uvloop Protocol")
_PIECE = bytes(256 * 1024)
_KERNEL_TASKS = {"echo": "echo", "sink": "echo?mode=sink", "source": "echo?mode=generate&size_bytes=65536"}


@dataclass(frozen=True)
class Sample:
    """What one server did in one cell.

    Attributes:
        per_second: messages, or MiB.
        server_us: its processor time for each of them.
    """

    per_second: float
    server_us: float


Series = dict[tuple[str, str], list[Sample]]
"""Samples, round by round, by (server, cell)."""


def contestants(certificate: Path, task: str) -> Iterator[Server]:
    """Who has this task."""
    framing = "length" if task == "echo" else "raw"

    def kernel(loop: str) -> Callable[[str, Path], list[str]]:
        program = str(Path(sys.executable).with_name("kernel"))
        listen = f"tls+tcp://127.0.0.1:0?cert={certificate}&framing={framing}"
        serve = [program, "serve", "--quiet", "--plugin", _KERNEL_TASKS[task], "--loop", loop, "--listen", listen]
        return lambda _transport, directory: [*serve, "--ready-file", f"{directory}/ready"]

    def peer(style: str, loop: str) -> Callable[[str, Path], list[str]]:
        module = [sys.executable, "-m", "benchmarks.peers.tls_server"]
        return lambda _transport, _directory: [*module, style, task, str(certificate), "--loop", loop]

    def always(_transport: str) -> str:
        return framing

    yield Server("kernel", ("tcp",), kernel("auto"), always, ("kernel.plugins.echo",), True)
    yield Server("kernel (asyncio)", ("tcp",), kernel("asyncio"), always, ("kernel.plugins.echo",), True)
    yield Server("asyncio streams", ("tcp",), peer("streams", "asyncio"), always)
    yield Server("asyncio Protocol", ("tcp",), peer("protocol", "asyncio"), always)
    yield Server("uvloop Protocol", ("tcp",), peer("protocol", "uvloop"), always, ("uvloop",))


# --- the client ------------------------------------------------------------------------------------------------------


@contextmanager
def connected(running: Running) -> Iterator[ssl.SSLSocket]:
    """A connection that trusts anybody: nobody else listens there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = running.target.endpoint.partition("//")[2].rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=30)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with closing(context.wrap_socket(plain)) as sock:
        yield sock


def measured(running: Running, seconds: float, warmup_seconds: float, step: Callable[[], int], unit: int) -> Sample:
    """Call `step`, which says how many bytes it moved, for a while."""
    until = time.perf_counter() + warmup_seconds
    while time.perf_counter() < until:
        step()
    pid, moved = running.process.pid, 0
    used, began = machine.process_seconds(pid), time.perf_counter()
    until = began + seconds
    while (now := time.perf_counter()) < until:
        moved += step()
    used = machine.process_seconds(pid) - used
    return Sample(moved / unit / (now - began), used * 1e6 * unit / moved)


def echo(sock: ssl.SSLSocket, size: int, in_flight: int) -> Callable[[], int]:
    """As many messages as have come back are sent anew. The first ones are compared with what was sent."""
    framed = size + 4
    message = size.to_bytes(4, "big") + os.urandom(size)
    flight = memoryview(message * in_flight)
    room = memoryview(bytearray(len(flight)))
    sock.sendall(flight)
    at = 0
    while at < len(flight):
        at += sock.recv_into(room[at:])
    if room != flight:
        raise SystemExit("the server answered something else than was sent")
    sock.sendall(flight)
    torn = 0

    def step() -> int:
        nonlocal torn
        nbytes = sock.recv_into(room)
        if not nbytes:
            raise SystemExit("the server hung up")
        whole, torn = divmod(torn + nbytes, framed)
        if whole:
            sock.sendall(flight[: whole * framed])
        return nbytes

    return step


def one_way(sock: ssl.SSLSocket, task: str) -> Callable[[], int]:
    """Send as fast as the server takes, or take as fast as it sends."""
    if task == "sink":

        def push() -> int:
            sock.sendall(_PIECE)
            return len(_PIECE)

        return push
    room = bytearray(len(_PIECE))

    def pull() -> int:
        nbytes = sock.recv_into(room)
        if not nbytes:
            raise SystemExit("the server hung up")
        return nbytes

    return pull


# --- the run ---------------------------------------------------------------------------------------------------------


def measure_servers(
    certificate: Path, cells: Mapping[str, tuple[str, int, int]], rounds: int, seconds: float
) -> Series:
    """Every server in every cell, in turn."""
    series: Series = {}
    server_cpu, load_cpu = machine.cores()
    with ExitStack() as stack:
        running = {
            task: [
                stack.enter_context(Running(server, "tcp", server_cpu))
                for server in contestants(certificate, task)
                if not server.missing()
            ]
            for task, _, _ in cells.values()
        }
        stack.enter_context(machine.pinned(load_cpu))
        for _ in range(rounds):
            for cell, (task, size, in_flight) in cells.items():
                for one in running[task]:
                    with connected(one) as sock:
                        step = echo(sock, size, in_flight) if task == "echo" else one_way(sock, task)
                        unit = size + 4 if task == "echo" else MIB
                        sample = measured(one, seconds, seconds / 3, step, unit)
                    series.setdefault((one.server.name, cell), []).append(sample)
    return series


def measure_programs(place: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """MiB/s of a file through each pair of programs, with the start of the client."""
    with (place / "big").open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    with kernel_server(place) as ours, ssh_server(place) as ssh, openssl_server(place) as openssl:
        shells = {"kernel shell, tls": ours["kernel tls"], "kernel shell, tcp": ours["kernel tcp"]}
        if ssh:
            shells["ssh"] = ssh["ssh"]
            shells["ssh, aes256-gcm"] = [ssh["ssh"][0], "-c", "aes256-gcm@openssh.com", *ssh["ssh"][1:]]
        remote = {name: [*command, "cat", str(place / "big")] for name, command in shells.items()}
        times = in_turn(remote | openssl, [], rounds)
    return {name: [size / MIB / seconds for seconds in samples] for name, samples in times.items()}


async def self_signed(place: Path) -> Path:
    """The certificate of all servers, with its key."""
    await ensure(path := place / "own.pem")
    return path


@contextmanager
def openssl_server(place: Path) -> Iterator[dict[str, list[str]]]:
    """OpenSSL's own pair of programs: the file over HTTP."""
    port = _free_port()
    serve = ["openssl", "s_server", "-quiet", "-WWW", "-cert", str(place / "own.pem"), "-key", str(place / "own.pem")]
    server = subprocess.Popen(
        [*serve, "-accept", f"127.0.0.1:{port}"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    fetch = f"openssl s_client -quiet -ign_eof -connect 127.0.0.1:{port} 2>/dev/null"
    ask = f"printf 'GET /big HTTP/1.0\\r\\n\\r\\n' | {fetch}"
    try:
        yield {"openssl s_server": ["sh", "-c", ask + " || true"]}
    finally:
        server.terminate()
        server.wait(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def run(*, full: bool, parts: Sequence[str] = PARTS) -> Report:
    """Measure everything, or some of it."""
    rounds, seconds = (9, 1.0) if full else (5, 0.3)
    report = Report("tls", machine.describe(("uvloop",)))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        place = Path(directory)
        watch = machine.Watch()
        watch.start()
        own = asyncio.run(self_signed(place))
        size = (1024 if full else 256) * MIB
        programs = measure_programs(place, size, rounds if full else 3) if "programs" in parts else {}
        echoes = measure_servers(own, CELLS, rounds, seconds) if "echo" in parts else {}
        bulk = measure_servers(own, WAYS, rounds, seconds) if "bulk" in parts else {}
        report.others = watch.share_of_others()
    report.tables["echo"] = _rates("echo, messages per second", echoes, CELLS)
    report.tables["bulk"] = _rates("one way, MiB per second", bulk, WAYS)
    report.tables["targets"] = _targets(echoes | bulk)
    report.tables["programs"] = _programs(programs)
    report.remarks = [f"{machine.cores_in_words()} Programs run where they like.", f"OpenSSL: {ssl.OPENSSL_VERSION}"]
    report.data = {
        "echo": _plain(echoes),
        "bulk": _plain(bulk),
        "programs_mib_per_second": programs,
    }
    return report


def _plain(series: Series) -> list[dict[str, object]]:
    return [
        {
            "server": server,
            "cell": cell,
            "per_second": [s.per_second for s in samples],
            "us": [s.server_us for s in samples],
        }
        for (server, cell), samples in series.items()
    ]


def _rates(title: str, series: Series, cells: Iterable[str]) -> Rows:
    rows: Rows = [[title, *cells, *(f"{cell}: server us" for cell in cells)]]
    for server in dict.fromkeys(server for server, _ in series):
        rates = [Spread.of([s.per_second for s in series[server, cell]]) for cell in cells]
        costs = [Spread.of([s.server_us for s in series[server, cell]]).median for cell in cells]
        shown = [f"{quantity(r.median)} ±{(r.high - r.low) / 2 / r.median:.0%}" for r in rates]
        rows.append([server, *shown, *(f"{cost:,.0f}" for cost in costs)])
    return rows


def _targets(series: Series) -> Rows:
    rows: Rows = [["target", "cell", "wanted", "by rate (quartiles)", "by cost", ""]]
    for ours in OURS:
        for peer in PEERS:
            for cell in (*CELLS, *WAYS):
                mine, theirs = series.get((ours, cell)), series.get((peer, cell))
                if mine and theirs:
                    rate = ratios([s.per_second for s in mine], [s.per_second for s in theirs])
                    cost = ratios([s.server_us for s in theirs], [s.server_us for s in mine])
                    missed = "" if rate.median >= 1 else "missed"
                    rows.append([f"{ours} / {peer}", cell, "1.0", ratio(rate), f"{cost.median:.2f}", missed])
    return rows


def _programs(programs: dict[str, list[float]]) -> Rows:
    rows: Rows = [["a file through both programs, MiB/s", "median", "quartiles", "beside ssh"]]
    for name, rates in programs.items():
        spread = Spread.of(rates)
        beside = f"{ratios(rates, programs['ssh']).median:.2f}" if "ssh" in programs else ""
        rows.append([name, f"{spread.median:.0f}", f"{spread.low:.0f} to {spread.high:.0f}", beside])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1 GiB, and more and longer rounds")
    parser.add_argument("--short", action="store_true", help="the default")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; repeats")
    parser.add_argument("--record", type=Path, metavar="DIRECTORY", help="write tls.json there, too")
    arguments = parser.parse_args()
    report = run(full=arguments.full, parts=arguments.only or PARTS)
    print(report.text())
    if arguments.record is not None:
        report.write(arguments.record)


if __name__ == "__main__":
    main()
