"""Sockets that a process inherits: from a parent, and from systemd by LISTEN_FDS."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

import kernel


@pytest.fixture
def listening():
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock
    sock.close()


def inherited(sock: socket.socket) -> str:
    """An endpoint for a copy of the socket, as a child would have it."""
    return f"fd://{os.dup(sock.fileno())}"


async def said(endpoint, message: bytes) -> bytes | None:
    async with kernel.connect(endpoint, "echo") as channel:
        channel.send(message)
        return await asyncio.wait_for(channel.receive(), 10)


async def test_a_listening_socket_is_served_and_tells_where(listening):
    async with kernel.Server(["echo"], [inherited(listening)]) as server:
        (endpoint,) = server.endpoints
        assert str(endpoint) == f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        assert await said(endpoint, b"hello") == b"hello"


async def test_the_framing_is_the_endpoints(listening):
    async with kernel.Server(["echo"], [inherited(listening) + "?framing=line"]) as server:
        assert server.endpoints[0].options == {"framing": "line"}
        assert await said(server.endpoints[0], b"hello") == b"hello"


async def test_a_unix_socket_keeps_its_file(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        async with kernel.Server(["echo"], [inherited(sock)]) as server:
            assert str(server.endpoints[0]) == f"unix:{path}"
            assert await said(server.endpoints[0], b"hello") == b"hello"
        assert (tmp_path / "s").is_socket()


async def test_a_connected_socket_is_dialled(listening):
    async with kernel.Server(["echo"], [inherited(listening)]):
        with socket.create_connection(listening.getsockname()) as sock:
            endpoint = inherited(sock)
        assert await said(endpoint, b"hello") == b"hello"


@pytest.mark.parametrize(
    ("kind", "words"),
    [(socket.SOCK_STREAM, "does not listen"), (socket.SOCK_DGRAM, "must be a stream socket")],
    ids=["idle", "datagram"],
)
async def test_what_cannot_be_served_is_said_in_a_line(kind, words):
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(kernel.StartError, match=words) as raised:
            await kernel.Server(["echo"], [f"fd://{sock.fileno()}"]).start()
    assert "\n" not in str(raised.value)


async def test_a_missing_descriptor_is_said():
    with pytest.raises(kernel.StartError, match="no such descriptor was inherited"):
        await kernel.Server(["echo"], ["fd://987"]).start()


async def test_a_number_is_needed():
    with pytest.raises(kernel.EndpointError, match="fd://3"):
        await kernel.Server(["echo"], ["fd://three"]).start()


async def test_an_idle_socket_cannot_be_dialled():
    with socket.socket() as sock, pytest.raises(kernel.DialError, match="not connected"):
        await kernel.connect(f"fd://{sock.fileno()}", "echo")


async def test_systemd_hands_sockets_over(listening):
    """The command serves what LISTEN_FDS says, in a process that inherits descriptor 3."""
    program = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.executable, [sys.executable, '-m', 'kernel', 'serve', '--plugin', 'echo','-q'])"
    )
    process = subprocess.Popen(  # noqa: ASYNC220  it only starts
        [sys.executable, "-c", program, str(listening.fileno())],
        pass_fds=[listening.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert await said(f"tcp://127.0.0.1:{listening.getsockname()[1]}", b"hello") == b"hello"
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0
