"""examples/talk-service: the tutorials' clients, byte for byte, against `kernel serve`; the operator's end; the kit.

The clients below put the same bytes on the wire as the tutorials' scripts do: one `send` and one `recv(1024)` a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess
from third_party.examples import EXAMPLES, install_example

from kernel import OptionError, Server, StartError, connect
from kernel.registry import Registry
from kernel.testing import ServiceSuite

GUARD_SECONDS = 30
KERNEL = Path(sys.executable).with_name("kernel")
SECRET = b"some secret of a course"


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return install_example("talk-service", tmp_path / "site", monkeypatch)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    paths = f"{tmp_path / 'site'}:{EXAMPLES / 'talk-service' / 'src'}"
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": paths, "XDG_CONFIG_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def serve(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., ServerProcess]]:
    started: list[ServerProcess] = []

    def start(plugin: str, *listen: str) -> ServerProcess:
        flags = [flag for endpoint in listen for flag in ("--listen", endpoint)]
        started.append(ServerProcess(KERNEL, ["--plugin", plugin, *flags], environ, tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.end()


class Client:
    """A tutorial's client: a blocking socket, one `send` and one `recv(1024)` a turn."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").partition("?")[0].split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=GUARD_SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def turn(self, text: str) -> str:
        self.socket.send(text.encode())
        return self.socket.recv(1024).decode()

    def check(self, secret: bytes) -> bytes:
        """Row 12: an HMAC-MD5 of what the server sends first, and its word for it."""
        challenge = self.socket.recv(1024)
        assert len(challenge) == 32
        self.socket.send(hmac.new(secret, challenge, "md5").digest())
        return self.socket.recv(1024)


# --- the tutorials' clients -------------------------------------------------------------------------------------------


def test_row_2_a_fixed_greeting_is_echos_own(serve: Callable[..., ServerProcess]):
    server = serve("echo?mode=greeting", "tcp://127.0.0.1:0?framing=raw")
    for _ in range(2):
        with Client(server.endpoints[0]) as client:
            assert client.turn("anything") == "hi"
            assert client.socket.recv(1024) == b""


def test_row_6_a_client_talks_in_turns_until_it_says_bye(serve: Callable[..., ServerProcess]):
    server = serve("talk?answer=upper", "tcp://127.0.0.1:0?dialect=bye")
    with Client(server.endpoints[0]) as one, Client(server.endpoints[0]) as other:
        assert one.turn("hello") == "HELLO"
        assert other.turn("nobody has to wait") == "NOBODY HAS TO WAIT"
        assert one.turn("q") == "Q"
        one.socket.send(b"bye")
        assert one.socket.recv(1024) == b""
        assert other.turn("still there") == "STILL THERE"


def test_row_12_who_knows_the_secret_is_legal_and_talks_until_q(serve: Callable[..., ServerProcess], secret_file: Path):
    server = serve(f"talk?answer=upper&secret_file={secret_file}", "tcp://127.0.0.1:0?dialect=hmac-md5")
    assert "protects little" in server.log_until("hmac-md5")
    with Client(server.endpoints[0]) as client:
        assert client.check(SECRET) == b"legal"
        assert client.turn("hello") == "HELLO"
        assert client.turn("q") == "q"
        assert client.socket.recv(1024) == b""


def test_row_12_who_does_not_is_told_nothing(serve: Callable[..., ServerProcess], secret_file: Path):
    server = serve(f"talk?secret_file={secret_file}", "tcp://127.0.0.1:0?dialect=hmac-md5")
    with Client(server.endpoints[0]) as client:
        assert client.check(b"another secret") == b""
    with Client(server.endpoints[0]) as client:
        client.socket.recv(1024)
        client.socket.send(b"short")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.socket.recv(1024) == b""
    assert "does not know the secret" in server.log_until("does not know the secret")


def test_row_13_many_clients_at_once_each_ends_by_q(serve: Callable[..., ServerProcess]):
    server = serve("talk?answer=upper", "tcp://127.0.0.1:0?dialect=q")
    clients = [Client(server.endpoints[0]) for _ in range(20)]
    for number, client in enumerate(clients):
        assert client.turn(f"client {number}") == f"CLIENT {number}"
    for client in clients:
        assert client.turn("q") == "q"
        assert client.socket.recv(1024) == b""
        client.socket.close()


# --- the operator -----------------------------------------------------------------------------------------------------


class Operator:
    """`kernel talk` in a process of its own."""

    def __init__(self, endpoint: str, environ: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [KERNEL, "talk", endpoint], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environ, bufsize=1
        )
        assert self.process.stderr is not None
        assert "you are the operator" in self.process.stderr.readline()

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:  # closes its pipes, and waits for it
            pass

    def reads(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def test_an_operator_answers_visitors_in_the_order_of_their_turns(
    serve: Callable[..., ServerProcess], environ: dict[str, str], tmp_path: Path
):
    server = serve("talk", "tcp://127.0.0.1:0?dialect=bye", f"unix:{tmp_path}/talk.sock")
    with Operator(server.endpoints[1], environ) as operator, Client(server.endpoints[0]) as one:
        one.socket.send(b"good morning")
        assert operator.reads().endswith("] good morning")
        with Client(server.endpoints[0]) as other:
            other.socket.send(b"\x1b[31mme too")
            assert operator.reads().endswith("] \\x1b[31mme too")
            operator.types("42 times good morning")
            assert one.socket.recv(1024) == b"42 times good morning"
            operator.types("@2 and you")
            assert other.socket.recv(1024) == b"and you"
            other.socket.send(b"bye")
            assert operator.reads().endswith("] (has said bye)")
        operator.types("too early")
        assert operator.reads() == "[0 -] (nobody waits for an answer)"
        operator.types("@1 bye")
        one.socket.send(b"anything")
        assert one.socket.recv(1024) == b"bye"
        assert one.socket.recv(1024) == b""
        assert operator.reads().endswith("] anything")
        assert operator.reads().endswith("] (is gone)")
        operator.process.stdin.close()  # type: ignore[union-attr]
        assert operator.process.wait(GUARD_SECONDS) == 0


def test_a_server_that_goes_ends_the_operators_command(
    serve: Callable[..., ServerProcess], environ: dict[str, str], tmp_path: Path
):
    server = serve("talk", f"unix:{tmp_path}/talk.sock")
    with Operator(server.endpoints[0], environ) as operator:
        server.end()
        assert operator.process.wait(GUARD_SECONDS) == 1


async def test_long_answers_come_in_pieces_of_what_a_client_reads_at_once():
    text = ("\u00e4" * 1500).encode()
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server(["talk"], ["tcp://127.0.0.1:0?dialect=bye", "tcp://127.0.0.1:0"]) as server,
        connect(server.endpoints[1], "talk") as operator,
    ):
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        said = b""
        for _ in range(3):
            writer.write(b"go on")
            number = (await operator.receive() or b"").split()[0]
            if not said:
                operator.send(number + b" " + text)
            answer = await reader.read(4096)
            assert len(answer) <= 1024
            answer.decode()
            said += answer
        assert said == text
        writer.close()


async def test_without_an_operator_a_visitor_is_told():
    async with asyncio.timeout(GUARD_SECONDS), Server(["talk"], ["tcp://127.0.0.1:0?dialect=bye"]) as server:
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        writer.write(b"hello?")
        assert await reader.read(1024) == b"nobody is here to answer"
        writer.close()


async def test_there_are_no_more_visitors_than_may_be():
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server(["talk?answer=upper&visitors_max=1"], ["tcp://127.0.0.1:0?dialect=bye"]) as server,
    ):
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        writer.write(b"one")
        assert await reader.read(1024) == b"ONE"
        other_reader, other_writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        with contextlib.suppress(ConnectionError):
            assert await other_reader.read(1024) == b""
        for each in (writer, other_writer):
            each.close()


# --- mistakes, and the kit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path.chmod(0o644), StartError, "can be read by others: chmod 600"),
        (lambda path: path.unlink(), StartError, "cannot read the secret file"),
        (lambda path: path.write_text(""), OptionError, "is empty"),
    ],
)
async def test_a_secret_that_is_none_is_refused(secret_file: Path, make: Any, error: type[Exception], message: str):
    make(secret_file)
    with pytest.raises(error, match=message):
        await Server([f"talk?secret_file={secret_file}"], ["sim://talk"]).start()


async def test_the_check_is_there_only_with_a_secret():
    with pytest.raises(OptionError, match="no dialect 'hmac-md5'"):
        await Server(["talk"], ["sim://talk?dialect=hmac-md5"]).start()


class TestTalk(ServiceSuite):
    service = "talk"
    messages = (b"0 hello", b"hello")
