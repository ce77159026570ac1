"""Thousands of strangers at a server in a process of its own: what they cost it, and what others notice of them.

Each test runs with a small crowd, and as one of the long set with the crowd of THREATS; the figures of that are in
docs/limits.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from security import crowd, hostile
from security.crowd import Crowd, address_of, resident_bytes
from security.figures import MIB, hold, quantile
from security.services import Recorder
from server_process import ServerProcess

import kernel

KERNEL = Path(sys.executable).with_name("kernel")
TCP = "tcp://127.0.0.1:0"
PATIENT = ("handshake_seconds_max=1h", "first_byte_seconds_max=1h", "idle_seconds_max=1h", "ping_interval_seconds=1h")
ENGINE = os.environ.get("KERNEL_FRAMING", "auto")
Serve = Callable[..., ServerProcess]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def sizes(short: int, long: int) -> pytest.MarkDecorator:
    """A test for two sizes of crowd."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.long)])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with limits changed; it is ended with the test."""
    started: list[ServerProcess] = []

    def start(*arguments: str, limits: tuple[str, ...] = (), engine: str = "") -> ServerProcess:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
        environ = kept | {
            "XDG_CONFIG_HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path),
            "KERNEL_FRAMING": engine or ENGINE,
        }
        changed = [word for limit in limits for word in ("--limit", limit)]
        command = ["--plugin", "echo", "--log-level", "error", *arguments, *changed]
        started.append(ServerProcess(KERNEL, command, environ, tmp_path, guard_seconds=900))
        return started[-1]

    yield start
    for server in started:
        server.end()


def echoes(endpoint: str) -> float:
    """Come, have something echoed and go; the seconds that it took."""

    async def visit() -> float:
        began = time.perf_counter()
        async with kernel.connect(endpoint, "echo", timeout_seconds=30) as channel:
            channel.send(b"hello")
            assert await channel.receive() == b"hello"
            return time.perf_counter() - began

    return asyncio.run(visit())


# --- memory --------------------------------------------------------------------------------------------------------


@sizes(500, 10_000)
def test_idle_connections(serve: Serve, count: int):
    server = serve("--listen", TCP, limits=("connections_max=12000", *PATIENT))
    address, pid = address_of(server.endpoints[0]), server.process.pid
    echoes(server.endpoints[0])
    with Crowd(address) as strangers:
        before, greeting = resident_bytes(pid), crowd.greeting_bytes(address)
        strangers.come(count, hostile.PREFACE + hostile.hello())
        strangers.hear(greeting)
        echoes(server.endpoints[0])
        grown = resident_bytes(pid) - before
        hold(f"{count:,} idle connections", resident_bytes(pid) / MIB, 80, "MiB")
        hold(f"one of {count:,} idle connections", grown / count / 1024, 8, "KiB")
        strangers.say(hostile.opening())
        strangers.hear(hostile.HEADER_BYTES)
        echoes(server.endpoints[0])
        hold(f"one of {count:,} with an open channel", (resident_bytes(pid) - before) / count / 1024, 16, "KiB")


@sizes(200, 1_000)
@pytest.mark.parametrize("engine", ["python", "c"])
def test_declared_lengths(serve: Serve, count: int, engine: str):
    """The largest frame, the longest message, and the largest length of a plain framing; and nothing behind them."""
    server = serve("--listen", TCP, "--listen", TCP + "?framing=length", limits=PATIENT, engine=engine)
    knl, length = (address_of(endpoint) for endpoint in server.endpoints)
    pid, greeting = server.process.pid, crowd.greeting_bytes(knl)
    declared = {
        "a frame": hostile.frame(hostile.DATA, channel=1, length=64 * 1024),
        "a message": hostile.frame(hostile.DATA, (16 * MIB).to_bytes(8, "big"), channel=1, flags=17),
    }
    for what, said in declared.items():
        with Crowd(knl) as strangers:
            strangers.come(count, hostile.PREFACE + hostile.hello() + hostile.opening())
            strangers.hear(greeting + hostile.HEADER_BYTES)
            before = resident_bytes(pid)
            strangers.say(said + hostile.frame(hostile.PING) if what == "a message" else said)
            if what == "a message":
                strangers.hear(hostile.HEADER_BYTES)
            echoes(server.endpoints[0])
            hold(f"{count:,} times {what} declared, {engine}", (resident_bytes(pid) - before) / MIB, 16, "MiB")
    with Crowd(length) as strangers:
        strangers.come(count, b"\0\0\0\x01x")
        strangers.hear(5)
        before = resident_bytes(pid)
        strangers.say((16 * MIB).to_bytes(4, "big"))
        echoes(server.endpoints[0])
        hold(f"{count:,} times a length declared, {engine}", (resident_bytes(pid) - before) / MIB, 16, "MiB")


@sizes(100, 2_000)
@pytest.mark.parametrize("how", ["answered", "endless", "torn"])
def test_held_tls_handshakes(serve: Serve, tmp_path: Path, count: int, how: str):
    """Who lets the server speak and says no more; who says nearly all that may be said; who stops within a record."""
    listen = f"tls+{TCP}?self_signed={tmp_path}/own.pem"
    seconds = 10 if count == 2_000 else 1
    server = serve("--listen", listen, limits=(f"handshake_seconds_max={seconds}s", "connections_max=12000"))
    address, pid = address_of(server.endpoints[0]), server.process.pid
    echoes(server.endpoints[0])
    hello = b"\x01" + (31_000).to_bytes(3, "big") + bytes(31_000)
    records = [b"\x16\x03\x01\x0f\xa0" + hello[at : at + 4000] for at in range(0, 28_000, 4000)]
    said = {"answered": crowd.client_hello(), "endless": b"".join(records), "torn": records[0][:-1]}[how]
    with Crowd(address) as strangers:
        strangers.come(count, said)
        if how == "answered":
            strangers.hear_something()
        crowd.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) > count)
        came = time.monotonic()
        highest = max(resident_bytes(pid) for _ in range(5) if not time.sleep(0.05))
        hold(f"{count:,} held TLS handshakes, {how}", highest / MIB, 150, "MiB")
        crowd.until(lambda: strangers.gone == count)
        late = time.monotonic() - came - seconds
    echoes(server.endpoints[0])
    assert len(os.listdir(f"/proc/{pid}/fd")) < 50
    if count == 2_000:
        hold(f"{count:,} held TLS handshakes are gone, {how}, after their {seconds} s", late, 6, "s")


@sizes(100, 1_000)
def test_idle_tls_connections(serve: Serve, tmp_path: Path, count: int):
    server = serve("--listen", f"tls+{TCP}?self_signed={tmp_path}/own.pem", limits=PATIENT)
    echoes(server.endpoints[0])
    before = resident_bytes(server.process.pid)

    async def come() -> None:
        clients = [await kernel.dial(server.endpoints[0], timeout_seconds=30) for _ in range(count)]
        grown = resident_bytes(server.process.pid) - before
        for client in clients:
            client.abort()
        hold(f"one of {count:,} idle TLS connections", grown / count / 1024, 64, "KiB")

    asyncio.run(come())


@sizes(20_000, 1_000_000)
@pytest.mark.parametrize(
    ("fragment_bytes", "cut"), [(1, (2, 2)), (1176, (2, 2352)), (1176, (892, 1_048_576))], ids=["tiny", "short", "long"]
)
def test_incomplete_messages(serve: Serve, count: int, fragment_bytes: int, cut: tuple[int, int]):
    """Of each message one fragment comes, from as many peers as there may be."""
    server = serve("--listen", "udp://127.0.0.1:0")
    pid, peers, in_a_row = server.process.pid, min(1_000, count // 50), 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address_of(server.endpoints[0]))
        for connection in range(1, peers + 1):
            crowd.enter(sock, connection)
        before = resident_bytes(pid)
        fragment, (pieces, length) = bytes(fragment_bytes), cut
        for at in range(0, count, in_a_row):
            connection = 1 + at // in_a_row % peers
            for sequence in range(at // peers, at // peers + in_a_row):
                sock.send(crowd.packet(crowd.DATA, connection, fragment, sequence, count=pieces, length=length))
            if at % 200 == 0:  # so that the system loses none
                crowd.ask(sock, crowd.packet(crowd.PING, connection, b"there?"), crowd.PONG)
        crowd.ask(sock, crowd.packet(crowd.PING, 1, b"still?"), crowd.PONG)
        what = f"{count:,} incomplete datagram messages of {length:,} bytes"
        hold(what, (resident_bytes(pid) - before) / MIB, 64, "MiB")


# --- what others notice ----------------------------------------------------------------------------------------------


@sizes(200, 5_000)
def test_a_new_client_beside_slow_headers(serve: Serve, count: int):
    server = serve("--listen", TCP, limits=("connections_max=12000",))
    visits = 50 if count < 1_000 else 1_000
    with attack("slow", server.endpoints[0], count) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == f"{count} are there\n"
        took = [echoes(server.endpoints[0]) for _ in range(visits)]
        assert attacker.poll() is None
        attacker.kill()
    if count == 5_000:
        hold(f"a new client beside {count:,} slow headers, p99 of {visits:,}", quantile(took, 0.99) * 1000, 100, "ms")


def attack(name: str, endpoint: str, count: int) -> subprocess.Popen[str]:
    host, port = address_of(endpoint)
    command = [sys.executable, crowd.__file__, name, host, str(port), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@sizes(20_000, 1_000_000)
@pytest.mark.parametrize("framing", ["knl", "raw"])
async def test_empty_datagrams(framing: str, count: int):
    """How late the loop is while they come."""
    loop, late = asyncio.get_running_loop(), []
    async with hostile.serving(Recorder(), f"udp://127.0.0.1:0?framing={framing}") as server:
        with attack("empty", str(server.endpoints[0]), count) as attacker:
            assert attacker.stdout is not None
            while attacker.poll() is None:
                due = loop.time() + 0.005
                await asyncio.sleep(0.005)
                late.append(loop.time() - due)
            assert attacker.stdout.read() == "begins\nall sent\n"
    if count == 1_000_000:
        hold(f"lag of the loop under {count:,} empty datagrams, {framing}, p99", quantile(late, 0.99) * 1000, 50, "ms")
