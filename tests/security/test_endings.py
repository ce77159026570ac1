"""Servers that are told to stop, run out of descriptors, or lose a peer: in processes of their own, under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from security import crowd, hostile
from security.crowd import Crowd, address_of, processor_seconds
from security.figures import hold
from security.hostile import serving
from security.services import Recorder
from server_process import ServerProcess

import kernel
from kernel import ChannelClosed, Code, DialError

KERNEL = Path(sys.executable).with_name("kernel")
TCP = "tcp://127.0.0.1:0"
DRAIN_SECONDS = 10  # the default of drain_seconds_max
ENGINE = os.environ.get("KERNEL_FRAMING", "auto")
Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[ServerProcess] = []

    def start(*arguments: str, command: Path = KERNEL, plugin: str = "echo") -> ServerProcess:
        environ = {"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path), "KERNEL_FRAMING": ENGINE}
        started.append(ServerProcess(command, ["--plugin", plugin, *arguments], environ, tmp_path, guard_seconds=120))
        return started[-1]

    yield start
    for server in started:
        server.end()


# --- signals ---------------------------------------------------------------------------------------------------------


async def converse(endpoint: str, words: int, dice: random.Random) -> int:
    """One conversation after the other until the server takes no more; how many there were. Each is whole."""
    conversations = 0
    while True:
        try:
            channel = await kernel.connect(endpoint, "echo")
        except (DialError, ChannelClosed):
            return conversations
        for number in range(words):
            word = number.to_bytes(4, "big") * dice.randrange(1, 2_000)
            channel.send(word)
            assert await channel.receive() == word, f"word {number} of {words} was not answered"
        channel.finish()
        assert await channel.receive() is None
        conversations += 1


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.long)])
async def test_a_signal_under_load_loses_nothing(serve: Serve, count: int):
    """A conversation that has begun comes to its end, however the signal falls, and then the server is gone."""
    dice = random.Random(count)
    slowest = 0.0
    for _ in range(count):
        server = await asyncio.to_thread(serve, "--listen", TCP, "--log-level", "warning")
        clients = [asyncio.ensure_future(converse(server.endpoints[0], 50, dice)) for _ in range(8)]
        await asyncio.sleep(dice.random() * 0.3)
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        code, log = await asyncio.to_thread(server.finish)
        slowest = max(slowest, time.monotonic() - began)
        assert (code, log) == (0, "")
        await asyncio.gather(*clients)
    if count == 200:
        hold(f"from SIGTERM to the end, under load, the slowest of {count}", slowest, DRAIN_SECONDS, "s")


# --- descriptors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def poor_kernel(tmp_path: Path) -> Path:
    """The command with 128 descriptors."""
    script = tmp_path / "poor"
    script.write_text(f'#!/bin/sh\nulimit -n 128\nexec {KERNEL} "$@"\n')
    script.chmod(0o755)
    return script


def test_a_server_keeps_below_its_descriptors_by_itself(serve: Serve, poor_kernel: Path):
    server = serve("--listen", TCP, command=poor_kernel)
    with Crowd(address_of(server.endpoints[0])) as strangers:
        strangers.come(200)
        assert "the server is full, 80 connections" in server.log_until("turned away")
        assert server.process.poll() is None
    crowd.until(lambda: echoes(server.endpoints[0]))
    server.signal(signal.SIGTERM)
    assert "ulimit" not in server.finish()[1]


@pytest.mark.parametrize("seconds", [1.0, pytest.param(10.0, marks=pytest.mark.long)])
def test_a_server_without_descriptors_rests(serve: Serve, poor_kernel: Path, seconds: float):
    server = serve("--listen", TCP, "--limit", "connections_max=1000", command=poor_kernel)
    with Crowd(address_of(server.endpoints[0])) as strangers:
        strangers.come(200)
        server.log_until("ulimit -n")
        before = processor_seconds(server.process.pid)
        time.sleep(seconds)
        used = processor_seconds(server.process.pid) - before
    recovered = crowd.until(lambda: echoes(server.endpoints[0]))
    server.signal(signal.SIGTERM)
    lines = server.finish()[1].count("ulimit -n")
    assert lines <= seconds + recovered + 2
    if seconds == 10.0:
        hold("recovery after the descriptors had run out", recovered, 2, "s")
        hold("processor time in 10 s without descriptors", used, 0.5, "s")


def echoes(endpoint: str) -> bool:
    """Whether somebody new is served."""

    async def visit() -> bool:
        with contextlib.suppress(DialError, ChannelClosed):
            async with kernel.connect(endpoint, "echo", timeout_seconds=5) as channel:
                channel.send(b"hello")
                return await channel.receive() == b"hello"
        return False

    return asyncio.run(visit())


# --- peers that vanish -----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_vanished_peer_is_noticed(transport: str):
    """It has an open channel, and is not heard of any more."""
    loop = asyncio.get_running_loop()
    async with serving(recorder := Recorder(), f"{transport}://127.0.0.1:0") as server:
        if transport == "tcp":
            stranger = await hostile.Stranger.connect(server.endpoints[0])
            await stranger.greet()
            await stranger.open()
        else:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(server.endpoints[0].host_port())
            await asyncio.to_thread(crowd.enter, sock, 7)
        began = loop.time()
        await asyncio.wait_for(recorder.ended.wait(), 120)
        hold(f"until a vanished peer is noticed, {transport}", loop.time() - began, 45, "s")
        if transport == "udp":
            sock.close()
    assert recorder.endings[0][0] is Code.IDLE


async def test_without_pings_the_system_looks_after_peers():
    """On a plain framing; the numbers that the system really uses."""
    async with serving(Recorder(), f"{TCP}?framing=raw") as server:
        with socket.create_connection(server.endpoints[0].host_port()):
            await hostile.until(lambda: bool(server._links))
            [link] = server._links
            sock = link._connection._sock  # type: ignore[attr-defined]
            idle, interval, probes, user_milliseconds = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert idle + interval * probes <= 45
            assert user_milliseconds <= 45_000


# --- peers that leave in the middle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tcp", "tls+tcp"])
def test_a_service_that_always_has_more_does_not_outlive_its_peer(serve: Serve, tmp_path: Path, scheme: str):
    """It sends as fast as the connection takes it, and a connection that is lost takes everything."""
    own = f"&self_signed={tmp_path}/own.pem" if scheme == "tls+tcp" else ""
    listen = f"{scheme}://127.0.0.1:0?framing=raw{own}"
    server = serve("--listen", listen, "--log-level", "error", plugin="echo?mode=generate&size_bytes=65536")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for _ in range(4):
        sock = socket.create_connection(address_of(server.endpoints[0]), timeout=20)
        with context.wrap_socket(sock) if scheme == "tls+tcp" else sock as stream:
            wanted = 8 * 1024 * 1024
            while wanted > 0:
                wanted -= len(stream.recv(65536))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.signal(signal.SIGTERM)
    assert server.finish()[0] == 0


@pytest.mark.parametrize("framing", ["raw", "knl"])
async def test_a_service_that_always_has_more_ends_with_a_peer_that_has_finished(serve: Serve, framing: str):
    """Its last word has left and the channel is over, before it knows: what it sends now goes nowhere."""
    plugin = "echo?mode=generate&size_bytes=65536"
    server = await asyncio.to_thread(serve, "--listen", f"{TCP}?framing={framing}", plugin=plugin)
    async with asyncio.timeout(30):
        for _ in range(10):
            async with kernel.connect(server.endpoints[0], "echo") as channel:
                assert await channel.receive()
                channel.finish()
                while await channel.receive() is not None:
                    pass
    server.signal(signal.SIGTERM)
    assert (await asyncio.to_thread(server.finish))[0] == 0
