"""examples/websocket-transport: no worse than ours, and what a browser needs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from third_party.examples import install_example
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect as ws_connect

from kernel import DialError, Server, connect
from kernel.registry import Registry
from kernel.testing import TransportSuite

GUARD_SECONDS = 30


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return install_example("websocket-transport", tmp_path / "site", monkeypatch)


class TestMessages(TransportSuite):
    endpoint = "ws://127.0.0.1:0?framing=raw"


class TestStream(TransportSuite):
    endpoint = "ws://127.0.0.1:0?framing=knl"


class TestLayerOverTls(TransportSuite):
    endpoint = "ws+tls+tcp://127.0.0.1:0?self_signed={directory}/certificate.pem&framing=raw"


class TestLayerOverUnix(TransportSuite):
    endpoint = "ws+unix:{directory}/socket?framing=knl"


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    async with asyncio.timeout(GUARD_SECONDS):
        return await asyncio.to_thread(work, *arguments)


@contextmanager
def dialled(server: Server, **options: Any) -> Iterator[ClientConnection]:
    """A client of the library's own, which knows nothing of the kernel."""
    host = server.endpoints[0].address
    with ws_connect(f"ws://{host}/", open_timeout=GUARD_SECONDS, close_timeout=GUARD_SECONDS, **options) as client:
        yield client


async def test_a_websocket_client_talks_to_echo_in_text_and_in_binary():
    def talk(server: Server) -> list[str | bytes]:
        with dialled(server) as client:
            answers = []
            for message in ("stra\u00dfe", b"\xff\x00", "", b"", "x" * 70_000):
                client.send(message)
                answers.append(client.recv(GUARD_SECONDS))
            client.send(["in ", "three ", "parts"])
            return [*answers, client.recv(GUARD_SECONDS)]

    async with Server(["echo"], ["ws://127.0.0.1:0?framing=raw"]) as server:
        answers = await in_thread(talk, server)
    assert answers == ["stra\u00dfe", b"\xff\x00", "", b"", "x" * 70_000, "in three parts"]


async def test_our_clients_speak_our_protocol_over_it():
    message = bytes(range(256)) * 20_000
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server(["echo"], ["ws://127.0.0.1:0"]) as server,
        connect(server.endpoints[0], "echo") as channel,
    ):
        channel.send(message)
        channel.finish()
        assert [answer async for answer in channel] == [message]


async def test_a_browser_gets_a_page_that_can_talk():
    from urllib.error import HTTPError
    from urllib.request import urlopen

    def get(server: Server, path: str) -> tuple[int, str, str]:
        try:
            with urlopen(f"http://{server.endpoints[0].address}{path}", timeout=GUARD_SECONDS) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, "", ""

    async with Server(["echo"], ["ws://127.0.0.1:0?framing=raw"]) as server:
        status, kind, page = await in_thread(get, server, "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "new WebSocket(" in page
        assert (await in_thread(get, server, "/other"))[0] == 426
    async with Server(["echo"], ["ws://127.0.0.1:0?framing=raw&page=false"]) as server:
        assert (await in_thread(get, server, "/"))[0] == 426


@pytest.mark.parametrize(
    ("option", "origin", "comes"),
    [
        ("", "http://HOST", True),
        ("", "https://evil.example", False),
        ("", "null", False),
        ("&origins=https://good.example,https://b.example", "https://good.example", True),
        ("&origins=https://good.example", "https://evil.example", False),
        ("&origins=*", "https://evil.example", True),
    ],
)
async def test_only_pages_that_may_can_connect(option: str, origin: str, comes: bool):
    def attempt(server: Server) -> bool | int:
        said = origin.replace("HOST", server.endpoints[0].address)
        try:
            with dialled(server, origin=said) as client:
                client.send("hello")
                return client.recv(GUARD_SECONDS) == "hello"
        except InvalidStatus as error:
            return error.response.status_code

    async with Server(["echo"], [f"ws://127.0.0.1:0?framing=raw{option}"]) as server:
        assert await in_thread(attempt, server) == (True if comes else 403)


@pytest.mark.parametrize(
    ("host", "option", "answer"),
    [
        ("evil.example:80", "", b"403"),  # its name leads to us meanwhile, and its page believes to be ours
        ("evil.example", "", b"403"),
        ("evil.example:80", "&origins=http://evil.example:80", b"101"),
        ("localhost:80", "", b"101"),
        ("[::1]:80", "", b"101"),
        ("127.0.0.1", "", b"101"),
    ],
)
async def test_a_name_that_leads_to_us_makes_no_page_ours(host: str, option: str, answer: bytes):
    headers = f"Host: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    headers += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server(["echo"], [f"ws://127.0.0.1:0?framing=raw{option}"]) as server,
    ):
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        writer.write(f"GET / HTTP/1.1\r\n{headers}\r\n".encode())
        assert (await reader.readline()).split()[1] == answer
        writer.close()


async def test_a_message_over_the_limit_ends_the_connection():
    def attempt(server: Server) -> int:
        with dialled(server) as client:
            client.send(b"x" * 2000)
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(GUARD_SECONDS)
            assert caught.value.rcvd is not None
            return caught.value.rcvd.code

    async with Server(["echo"], ["ws://127.0.0.1:0?framing=raw&message_bytes_max=1000"]) as server:
        assert await in_thread(attempt, server) == 1009


async def test_what_is_no_websocket_server_is_told():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(DialError, match=r"no WebSocket: .*404"):
            async with asyncio.timeout(GUARD_SECONDS):
                await connect(f"ws://127.0.0.1:{port}", "echo")
