"""A stream listener whose acceptor fails, or whose start is cut off between its steps."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from kernel import Connection, Endpoint, Limits, StartError
from kernel.sockets import SocketListener
from kernel.transports import tcp, udp, unix
from kernel.transports.tcp import Tcp, TcpOptions
from kernel.transports.udp import Udp, UdpOptions
from kernel.transports.unix import Unix, UnixOptions


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("not today")


async def test_an_acceptor_that_fails_leaves_nothing_behind():
    loop, faults = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    listener = await Tcp(Endpoint.parse("tcp://127.0.0.1:0"), TcpOptions(), Limits()).listen(fail)
    with socket.create_connection(listener.endpoint.host_port()) as sock:
        sock.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(sock, 1)
    await listener.close()
    assert faults == ["not today"]


@pytest.mark.parametrize("module", [tcp, udp, unix], ids=["tcp", "udp", "unix"])
async def test_what_fails_behind_the_bind_closes_the_socket(
    module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "UdpListener" if module is udp else "SocketListener", fail)
    transport = {
        tcp: lambda: Tcp(Endpoint.parse("tcp://127.0.0.1:0"), TcpOptions(), Limits()),
        udp: lambda: Udp(Endpoint.parse("udp://127.0.0.1:0"), UdpOptions(), Limits()),
        unix: lambda: Unix(Endpoint.parse(f"unix:{tmp_path}/socket"), UnixOptions(), Limits()),
    }[module]()
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(RuntimeError, match="not today"):
        await transport.listen(lambda connection: None)
    assert len(os.listdir("/dev/fd")) == before


async def test_a_socket_file_that_is_gone_at_once_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def gone(path: str) -> None:
        os.unlink(path)
        os.stat(path)

    monkeypatch.setattr(unix, "_remover", gone)
    with pytest.raises(StartError, match="cannot listen on unix:"):
        await Unix(Endpoint.parse(f"unix:{tmp_path}/socket"), UnixOptions(), Limits()).listen(lambda connection: None)


async def test_a_listener_can_be_closed_twice_and_never_resumes_then():
    accepted: list[Connection] = []
    listener = await Tcp(Endpoint.parse("tcp://127.0.0.1:0"), TcpOptions(), Limits()).listen(accepted.append)
    assert isinstance(listener, SocketListener)
    await listener.close()
    await listener.close()
    listener.resume()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.endpoint.host_port())
