"""Simple clients that know nothing of ours: a command a turn, over a plain socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel import MIB, NeedsCapability, Server
from kernel.plugins.shell import dialects
from kernel.plugins.shell.protocol import Kind

from .conftest import Serve
from .local import MARK, PATIENCE_SECONDS, marked, until

ALLOW = "allow = ['echo {words:text...}', 'printf %s {x:text}', 'pwd', 'ls {x:path}', 'seq {n:int}', 'sleep {n:int}']"


@pytest.fixture(scope="module")
def endpoints(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("dialects")
    (place / "inside").mkdir()
    listen = ["tcp://127.0.0.1:0?dialect=cmd-ready", "tcp://127.0.0.1:0?dialect=cmd-sized"]
    config = f"listen = {listen}\n[plugin.shell]\n{ALLOW}\ncwd = '{place}'\ndialects_for_anyone = true\nfree = true"
    return serve(config).endpoints


Ask = Callable[[socket.socket, str], bytes]


@contextmanager
def connected(endpoint: str) -> Iterator[socket.socket]:
    host, port = endpoint.partition("?")[0].removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        yield sock


def received(sock: socket.socket, size: int) -> bytes:
    """As the tutorials' clients read: 1024 bytes at a time until there are enough."""
    data = b""
    while len(data) < size:
        part = sock.recv(1024)
        assert part, "the server has closed the connection"
        data += part
    return data


def ask_ready(sock: socket.socket, command: str) -> bytes:
    sock.send(command.encode())
    size = int(sock.recv(1024).decode())
    sock.send(b"recv_ready")
    return received(sock, size)


def ask_sized(sock: socket.socket, command: str) -> bytes:
    sock.send(command.encode())
    size = int.from_bytes(sock.recv(4), "little", signed=True)
    return received(sock, size)


@pytest.mark.parametrize(("number", "ask"), [(0, ask_ready), (1, ask_sized)], ids=["ready", "sized"])
def test_a_conversation(endpoints: list[str], number: int, ask: Ask):
    with connected(endpoints[number]) as sock:
        assert ask(sock, "echo hello world") == b"hello world\n"
        assert ask(sock, "printf %s 'two words'") == b"two words"
        assert ask(sock, "printf %s ''") == b""
        numbers = b"".join(b"%d\n" % n for n in range(1, 100_001))
        assert ask(sock, "seq 100000") == numbers
        assert ask(sock, "cd inside") == b""
        assert ask(sock, "pwd").endswith(b"/inside\n")
        assert ask(sock, "cd ..") == b""
        assert not ask(sock, "pwd").endswith(b"/inside\n")
        assert b"permission denied" in ask(sock, "cd /etc")
        assert b"No such file" in ask(sock, "ls nowhere")


@pytest.mark.parametrize(("number", "ask"), [(0, ask_ready), (1, ask_sized)], ids=["ready", "sized"])
@pytest.mark.parametrize("command", ["rm -rf x", "echo a; rm x", "echo $(id) |cat", "sh -c id", "'"])
def test_anybody_gets_the_allow_list_and_no_shell_whatever_others_may(
    endpoints: list[str], number: int, ask: Ask, command: str
):
    with connected(endpoints[number]) as sock:
        answer = ask(sock, command)
        assert b"uid=" not in answer
        assert b"not allowed" in answer or answer in (b"a; rm x\n", b"$(id) |cat\n", b"No closing quotation\n")


async def test_who_does_not_ask_for_anyone_gets_nobody_unknown():
    with pytest.raises(NeedsCapability, match="for peers that prove who they are"):
        await Server(["shell?allow=uptime"], ["tcp://127.0.0.1:0?dialect=cmd-sized"]).start()


async def test_a_peer_that_is_known_may_use_a_dialect_and_a_shell_where_it_is_free(tmp_path: Path):
    async with Server(["shell?free=1"], [f"unix:{tmp_path}/s?dialect=cmd-sized"]):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"echo one | tr o 0; echo two >&2")
        size = int.from_bytes(await reader.readexactly(4), "little")
        assert await reader.readexactly(size) == b"two\n"
        writer.write(b"echo one | tr o 0")
        size = int.from_bytes(await reader.readexactly(4), "little")
        assert await reader.readexactly(size) == b"0ne\n"
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_leaves_ends_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dialects, "_LAST_ANSWERS_SECONDS", 0.1)
    async with Server(["shell?free=1"], [f"unix:{tmp_path}/s?dialect=cmd-ready"]) as server:
        _, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(f"export {MARK}={tmp_path}; sh -c 'touch {tmp_path}/there; sleep 1000; true'".encode())
        await until((tmp_path / "there").exists)
        assert marked(str(tmp_path))
        writer.close()
        await writer.wait_closed()
        await until(lambda: not marked(str(tmp_path)) and not server.channels)


@pytest.mark.parametrize("asked", [b"echo one; sleep 0.1; echo two", b"", b"true"])
async def test_a_client_that_only_finishes_still_gets_its_answer(tmp_path: Path, asked: bytes):
    async with Server(["shell?free=1"], [f"unix:{tmp_path}/s?dialect=cmd-sized"]) as server:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(asked)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
        assert answer == {b"": b"", b"true": bytes(4)}.get(asked, b"\x08\0\0\0one\ntwo\n")
        await until(lambda: not server.channels)
        writer.close()
        await writer.wait_closed()


def test_an_answer_that_is_too_long_is_kept_no_further():
    answer = dialects.Answer(dialects.Dialogue(None), directory=False)  # type: ignore[arg-type]
    for kind in (Kind.STDOUT, Kind.STDERR) * 8:
        answer.send(bytes([kind]) + bytes(MIB))
    assert len(answer.out) + len(answer.err) == 4 * MIB
