"""The load generator counts right, and finds every kind of wrong answer; the C peers echo. Nothing is timed."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import native, servers
from benchmarks.load import sample
from benchmarks.servers import Running
from kernel.bench.load import Load

if shutil.which("cc") is None:
    pytest.skip("no C compiler here", allow_module_level=True)

Change = Callable[[bytes], bytes]


def load(endpoint: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(native.load_generator()), "--connect", endpoint, "--seconds", "0.05", "--warmup", "0.02", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def report(endpoint: str, *options: str) -> dict[str, Any]:
    outcome = load(endpoint, *options)
    assert outcome.returncode == 0, outcome.stderr
    parsed: dict[str, Any] = json.loads(outcome.stdout)
    return parsed


@contextmanager
def serving(change: Change) -> Iterator[str]:
    """A server that sends back what `change` makes of each chunk; of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(ConnectionError):
                while chunk := peer.recv(65536):
                    peer.sendall(change(chunk))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(timeout=10)


@contextmanager
def peer(name: str, *arguments: str) -> Iterator[str]:
    with subprocess.Popen([str(native.peer(name)), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def test_counts_what_came_back() -> None:
    total = 0

    def count(chunk: bytes) -> bytes:
        nonlocal total
        total += len(chunk)
        return chunk

    with serving(count) as endpoint:
        got = report(endpoint, "--size", "100", "--in-flight", "7")
    assert got["messages"] <= got["all_messages"]
    assert got["all_messages"] * 104 == total, "the load generator waits for what is under way"
    latency = got["latency_us"]
    assert 0 <= latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]


def flip_last(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def swap_first_two(chunk: bytes) -> bytes:
    return chunk[20:40] + chunk[:20] + chunk[40:]


@pytest.mark.parametrize(
    "change", [flip_last, swap_first_two, lambda chunk: chunk[20:], lambda chunk: chunk + chunk[-20:]]
)
def test_finds_messages_that_are_changed_swapped_lost_or_doubled(change: Change) -> None:
    with serving(change) as endpoint:
        outcome = load(endpoint, "--size", "16", "--in-flight", "4")
    assert outcome.returncode == 1
    assert "what came back is not what was sent" in outcome.stderr or "more than it got" in outcome.stderr


@pytest.mark.parametrize("place", [0, 700_000, -1])
def test_verifies_large_messages_whole_during_the_warm_up(place: int) -> None:
    received = 0

    def damage(chunk: bytes) -> bytes:
        nonlocal received
        start, received = received, received + len(chunk)
        target = (place % 1_000_004) - start
        if not 0 <= target < len(chunk):
            return chunk
        return chunk[:target] + bytes([chunk[target] ^ 1]) + chunk[target + 1 :]

    with serving(damage) as endpoint:
        outcome = load(endpoint, "--size", "1000000")
    assert outcome.returncode == 1
    assert "what came back is not what was sent" in outcome.stderr


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("options", [(16, 128, 1), (65536, 16, 1), (1_000_000, 1, 1), (1024, 2, 20)])
def test_epoll_peer_echoes(transport: str, options: tuple[int, int, int], tmp_path: Path) -> None:
    size, in_flight, connections = map(str, options)
    with peer("epoll_echo", "tcp" if transport == "tcp" else f"unix:{tmp_path}/s") as endpoint:
        got = report(endpoint, "--size", size, "--in-flight", in_flight, "--connections", connections)
    assert got["all_messages"] > 0


def test_datagram_peer_echoes() -> None:
    with peer("mmsg_echo") as endpoint:
        got = report(endpoint, "--size", "1024", "--in-flight", "64", "--connections", "2")
    assert got["all_messages"] > 0


def test_counts_datagrams_that_do_not_return() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        got = report(
            f"udp://127.0.0.1:{silent.getsockname()[1]}", "--size", "64", "--in-flight", "5", "--seconds", "0.2"
        )
    assert got["all_messages"] == 0
    assert got["lost"] >= 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--framing", "morse"], "unknown framing 'morse'"),
        (["--size", "0"], "--size takes a number"),
        (["--channels", "2"], "framing 'length' has no channels"),
    ],
)
def test_says_what_is_wrong_with_an_option(options: list[str], said: str) -> None:
    outcome = load("tcp://127.0.0.1:1", *options)
    assert outcome.returncode == 1
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_refused_connection_is_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = load(f"tcp://127.0.0.1:{unused.getsockname()[1]}")
    assert (outcome.returncode, len(outcome.stderr.splitlines())) == (1, 1)
    assert "Connection refused" in outcome.stderr


@pytest.mark.parametrize("name", [servers.OURS, servers.OURS_KNL])
@pytest.mark.parametrize("options", [(16, 128, 1), (70_000, 4, 2), (1 << 20, 1, 1)])
def test_speaks_with_our_server(name: str, options: tuple[int, int, int]) -> None:
    (server,) = (server for server in servers.SERVERS if server.name == name)
    with Running(server, "tcp", None) as running:
        size, in_flight, connections = options
        load_of_size = Load(size, in_flight, connections, channels=3 if name == servers.OURS_KNL else 1)
        got = sample(running, load_of_size, seconds=0.05, warmup_seconds=0.02, cpu=None)
    assert got.error == ""
    assert got.server_us > 0
