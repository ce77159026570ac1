"""The life of a server: whatever interrupts its start or its end, no socket stays open."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from udp_peers import Plain, eventually

import kernel
from kernel import Code, Server, Service, StartError
from kernel.datagram import packets
from kernel.datagram.packets import Hello, Kind
from kernel.framing import knl
from kernel.framing.entry import RawFraming
from kernel.testing import LocalRegistry

GUARD_SECONDS = 30
STEPS_MAX = 60
HELLO = Hello("slow", 1 << 20, 1200, 1 << 17).pack()


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


class Slow(Service):
    """Takes some turns to start, and as long as it is told to stop."""

    name = "slow"

    def __init__(self) -> None:
        self.going: asyncio.Event | None = None
        self.stopping = asyncio.Event()

    async def start(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        if self.going is not None:
            await self.going.wait()

    async def serve(self, channel: kernel.Channel) -> None:
        async for _ in channel:
            pass

    async def stop(self) -> None:
        await self.stopping.wait()


def endpoints(directory: Path) -> list[str]:
    """One of each transport, some of whose places take turns to find."""
    certificate = f"self_signed={directory}/certificate.pem"
    return [
        f"unix:{directory}/socket",
        "tcp://localhost:0",
        f"tls+tcp://127.0.0.1:0?{certificate}",
        "udp://localhost:0",
        "udp://127.0.0.1:0?framing=raw&service=slow",
        "chaos+udp://127.0.0.1:0",
    ]


def patient() -> Slow:
    service = Slow()
    service.stopping.set()
    return service


async def test_a_start_that_is_cancelled_anywhere_leaves_nothing_open(tmp_path: Path):
    async with asyncio.timeout(GUARD_SECONDS):
        async with Server([patient()], endpoints(tmp_path)):  # makes the certificate
            pass
        before = descriptors()
        for steps in range(STEPS_MAX):
            starting = asyncio.create_task((server := Server([patient()], endpoints(tmp_path))).start())
            for _ in range(steps):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            await server.stop()
            await eventually(lambda: descriptors() <= before)  # a resolver's thread may still read its files
        assert "socket" not in os.listdir(tmp_path)


async def test_a_server_that_is_stopped_while_it_starts_does_not_go_on(tmp_path: Path):
    before = descriptors()
    async with asyncio.timeout(GUARD_SECONDS):
        service = patient()
        service.going = asyncio.Event()
        server = Server([service], endpoints(tmp_path))
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        await server.stop()
        service.going.set()
        with pytest.raises(StartError, match="the server was stopped while it was starting"):
            await starting
        await eventually(lambda: descriptors() <= before)


async def enter(plain: Plain, connection: int) -> None:
    """Go through the handshake of the datagram protocol, as far as CONNECT."""
    cookie = (await plain.ask(packets.init(connection)))[knl.PACKET_HEADER_BYTES :]
    accepted = await plain.ask(packets.control(Kind.CONNECT, connection, cookie + HELLO))
    assert accepted[3] == Kind.ACCEPT | knl.FROM_SERVER


async def meet(server: Server) -> list[Any]:
    """Peers on all endpoints that say no more than they must, and never leave."""
    peers: list[Any] = [await kernel.connect(server.endpoints[index], "slow") for index in (0, 1, 2, 5)]
    peers += [Plain(server.endpoints[3]), Plain(server.endpoints[3]), Plain(server.endpoints[4])]
    await enter(peers[4], 7)
    await peers[5].ask(packets.init(8))  # has a cookie, and goes no further
    peers[6].socket.send(b"hello")
    await eventually(lambda: len(server._links) == 6)
    return peers


def leave(peers: list[Any]) -> None:
    for peer in peers:
        if isinstance(peer, Plain):
            peer.socket.close()
        else:
            peer.reset(Code.CANCELLED, "")


@pytest.mark.parametrize("how", ["stop", "stop twice", "drain", "drain in vain"])
async def test_peers_that_never_leave_hold_no_socket(tmp_path: Path, how: str):
    before = descriptors()
    async with asyncio.timeout(GUARD_SECONDS):
        server = Server([patient()], endpoints(tmp_path))
        await server.start()
        peers = await meet(server)
        if how == "stop twice":
            await asyncio.gather(server.stop(), server.stop())
        elif how == "drain":
            draining = asyncio.create_task(server.drain(0.2))
            await asyncio.sleep(0)
            leave(peers)
            await draining
        else:
            await (server.stop() if how == "stop" else server.drain(0.01))
        leave(peers)
        await eventually(lambda: descriptors() <= before)


async def test_a_stop_that_is_cancelled_closes_all_connections(tmp_path: Path):
    before = descriptors()
    async with asyncio.timeout(GUARD_SECONDS):
        service = Slow()
        server = Server([service], endpoints(tmp_path))
        await server.start()
        peers = await meet(server)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])
        leave(peers)
        await eventually(lambda: descriptors() <= before)
        service.stopping.set()
        await server.stop()


async def test_a_listener_that_fails_to_close_keeps_no_other_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def fail() -> None:
        raise RuntimeError("not today")

    before = descriptors()
    async with Server([patient()], endpoints(tmp_path)) as server:
        first = server._listeners[0]
        monkeypatch.setattr(first, "close", fail)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"unix:{tmp_path}/socket failed to close"
    monkeypatch.undo()
    await first.close()
    await eventually(lambda: descriptors() <= before)


class Unmade(RawFraming):
    """Makes no decoder."""

    name = "unmade"

    def decoder(self) -> Any:
        raise RuntimeError("no decoder today")


async def test_a_connection_that_cannot_be_served_is_closed_and_gives_its_place_back(caplog: pytest.LogCaptureFixture):
    registry = LocalRegistry(Unmade)
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server([patient()], ["tcp://127.0.0.1:0?framing=unmade"], registry=registry) as server,
    ):
        with socket.create_connection(server.endpoints[0].host_port()) as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(sock, 1)
        assert server._admission.connections == 0
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "cannot be served on tcp://127.0.0.1:0" in record.getMessage()
