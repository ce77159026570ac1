"""Whoever is turned away, or meets something else than he expected, reads one line that says why; a program gets a code
for it, and so does the server's log. From the real command line, and from strangers that speak other protocols.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from security import crowd, hostile
from security.crowd import address_of
from server_process import TIMEOUT_SECONDS, ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
TCP = "tcp://127.0.0.1:0"


class Place(NamedTuple):
    """A server with a listener of each sort, and where its keys are."""

    server: ServerProcess
    directory: Path
    environ: dict[str, str]

    def endpoint(self, name: str) -> str:
        """Of one of its listeners, without what its client would have to say."""
        return self.server.endpoints[list(LISTENERS).index(name)].partition("?")[0]

    def echo(self, endpoint: str, *more: str) -> tuple[int, dict[str, Any], str]:
        """`kernel echo --json`: its exit code, its object and what it says."""
        keys = [word.replace("KEYS", str(self.directory)) for word in more]
        done = subprocess.run(
            [KERNEL, "echo", endpoint, *keys, "--json", "hello"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=self.environ,
        )
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def logged(self, words: str) -> dict[str, Any]:
        """The next record that holds these words; all before it are passed over."""
        record: dict[str, Any] = json.loads(self.server.log_until(words).splitlines()[-1])
        return record


LISTENERS = {
    "hmac": TCP,
    "plain": f"{TCP}?auth=none",
    "tls": f"tls+{TCP}?self_signed=DIRECTORY/own.pem&auth=none",
    "length": f"{TCP}?framing=length&auth=none&frame_bytes_max=1MiB",
    "line": f"{TCP}?framing=line&auth=none",
    "udp": "udp://127.0.0.1:0?auth=none",
    "udp hmac": "udp://127.0.0.1:0",
    "unix": "unix:DIRECTORY/socket",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("place")
    kept = {
        name: value for name, value in os.environ.items() if name == "KERNEL_FRAMING" or not name.startswith("KERNEL_")
    }
    environ = kept | {"XDG_CONFIG_HOME": str(directory), "XDG_STATE_HOME": str(directory)}
    for name, key_id in (("good", "alice"), ("wrong", "alice"), ("unknown", "bob")):
        subprocess.run([KERNEL, "keys", "new", directory / name, "--id", key_id, "-q"], check=True, env=environ)
    listen = [word for one in LISTENERS.values() for word in ("--listen", one.replace("DIRECTORY", str(directory)))]
    command = ["--plugin", "echo", "--log-format", "json", "-v", "--secret-file", f"{directory}/good", *listen]
    server = ServerProcess(KERNEL, command, environ, directory, guard_seconds=120)
    yield Place(server, directory, environ)
    server.end()


# --- our own client --------------------------------------------------------------------------------------------------

WRONG_KEY = "authentication failed (we hold the key '{}': it may be unknown there, or another one)"
NO_PIN = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("listener", "more", "code", "words", "log_words"),
    [
        ("hmac", ["--secret-file", "KEYS/wrong"], "unauthenticated", WRONG_KEY.format("alice"), "was not proved"),
        ("hmac", ["--secret-file", "KEYS/unknown"], "unauthenticated", WRONG_KEY.format("bob"), "'bob' is not known"),
        ("hmac", [], "unauthenticated", "give the client a secret, --secret-file FILE", "give the client a secret"),
        ("udp hmac", ["--secret-file", "KEYS/wrong"], "unauthenticated", WRONG_KEY.format("alice"), "was not proved"),
        ("udp hmac", ["--secret-file", "KEYS/unknown"], "unauthenticated", WRONG_KEY.format("bob"), "is not known"),
        ("udp hmac", [], "unauthenticated", "give the client a secret, --secret-file FILE", "give the client a secret"),
        ("udp", ["--secret-file", "KEYS/good"], "unauthenticated", "leave the secret out\n", "leave the secret out"),
        ("plain", ["--secret-file", "KEYS/good"], "unauthenticated", "leave the secret out\n", "leave the secret out"),
        ("tls", [], "unauthenticated", "pin it by ?fingerprint=", "does not know the authority of our certificate"),
        ("tls:plain", [], "protocol", "look like a TLS alert", "the client does not speak TLS"),
        ("plain:tls", [], "protocol", "does not speak TLS: leave out tls+", "look like a TLS client hello"),
    ],
)
def test_a_client_that_does_not_fit_the_listener(
    place: Place, listener: str, more: list[str], code: str, words: str, log_words: str
):
    name, _, dialled = listener.partition(":")
    endpoint = place.endpoint(name)
    if dialled:
        endpoint = endpoint.removeprefix("tls+") if dialled == "plain" else f"tls+{endpoint}"
    exit_code, found, said = place.echo(endpoint, *more)
    assert (exit_code, found["code"]) == (1, code)
    assert words in said
    assert said == f"kernel: error: {found['error']}\n"
    record = place.logged(log_words)
    assert (record["message"], record["code"]) == ("a connection ended", code)
    assert log_words in record["reason"]


@pytest.mark.parametrize("name", ["plain", "unix", "udp"])
def test_a_service_that_is_not_there(place: Place, name: str):
    exit_code, found, said = place.echo(place.endpoint(name), "--service", "nope")
    assert (exit_code, found["code"]) == (1, "no such service")
    assert said == "kernel: error: no such service: there is no service 'nope' here, but echo\n"
    if name == "plain":  # of those that follow within a second, only their number is logged
        record = place.logged("a service was refused")
        assert (record["level"], record["code"], record["service"]) == ("warning", "no such service", "nope")


def test_another_certificate_than_the_pinned_one(place: Place):
    exit_code, found, said = place.echo(f"{place.endpoint('tls')}?fingerprint={NO_PIN}")
    assert (exit_code, found["code"]) == (1, "unauthenticated")
    assert "this is not the server that was pinned" in said


def test_nobody_listens(place: Place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for scheme in ("tcp", "tls+tcp", "udp"):
        exit_code, found, said = place.echo(f"{scheme}://127.0.0.1:{port}")
        assert (exit_code, found["code"]) == (1, "lost")
        assert "nobody listens" in said
        assert said.count("\n") == 1


def test_what_was_said_wrongly_has_an_exit_code_of_its_own(place: Place):
    exit_code, found, said = place.echo("tpc://127.0.0.1:1")
    assert (exit_code, found) == (2, {})
    assert said.count("\n") == 1


def test_a_full_server(place: Place, tmp_path: Path):
    command = ["--plugin", "echo", "--log-format", "json", "--listen", TCP, "--limit", "connections_max=1"]
    server = ServerProcess(KERNEL, command, place.environ, tmp_path)
    try:
        with crowd.Crowd(address_of(server.endpoints[0])) as inside:
            inside.come(1, hostile.PREFACE + hostile.hello())
            inside.hear(100)
            exit_code, found, said = place.echo(server.endpoints[0])
        assert (exit_code, found["code"]) == (1, "overloaded")
        assert "the server is full, 1 connections: try again later" in said
        record = json.loads(server.log_until("turned away").splitlines()[-1])
        assert (record["code"], record["reason"]) == (
            "overloaded",
            "the server is full, 1 connections: try again later",
        )
    finally:
        server.end()


# --- other clients at our listeners ----------------------------------------------------------------------------------

HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SSH = b"SSH-2.0-OpenSSH_9.6\r\n"
LITTLE_ENDIAN = (5).to_bytes(4, "little") + b"hello"
FOREIGN = {
    "HTTP": (HTTP, "protocol", "look like HTTP"),
    "TLS": (crowd.client_hello(), "protocol", "look like a TLS client hello"),
    "SSH": (SSH, "protocol", "look like an SSH banner"),
    "little-endian": (LITTLE_ENDIAN, "protocol", "look like a 4-byte little-endian length (5): use ?framing=length"),
    "big-endian": (b"\0\0\0\x05hello", "protocol", "look like a 4-byte big-endian length (5): use ?framing=length"),
    "text": (b"hello\n", "protocol", "look like text: use ?framing=raw or ?framing=line"),
    "another version": (hostile.PREFACE[:4] + b"\x09\0\0\0", "version", "speaks KNL/9, this side KNL/1"),
}


def visit(place: Place, name: str, said: bytes, words: str = "") -> tuple[bytes, dict[str, Any]]:
    """Say it and read to the end; what the server says, and what it logs. A visitor of the UNIX socket has no name of
    its own there, and who came before may be logged after it: it is known by `words`."""
    if name == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(place.endpoint(name).removeprefix("unix:"))
    else:
        sock = socket.create_connection(address_of(place.endpoint(name)))
    sock.settimeout(TIMEOUT_SECONDS)
    with sock:
        peer = "" if name == "unix" else f"127.0.0.1:{sock.getsockname()[1]}"
        sock.sendall(said)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(4096):
                heard += more
    record = place.logged(words if name == "unix" else f'"a connection ended", "peer": "{peer}"')
    return heard, record


@pytest.mark.parametrize("name", ["plain", "hmac", "unix"])
@pytest.mark.parametrize("protocol", list(FOREIGN))
def test_wrong_first_bytes_are_explained_to_both_sides(place: Place, name: str, protocol: str):
    said, code, words = FOREIGN[protocol]
    heard, record = visit(place, name, said, words)
    last = hostile.split_preface(heard)[-1]
    assert last.kind == hostile.ERROR
    assert words in last.reason
    assert record["code"] == code
    assert words in record["reason"]


@pytest.mark.parametrize("protocol", ["HTTP", "SSH", "little-endian", "text"])
def test_wrong_first_bytes_at_a_tls_listener(place: Place, protocol: str):
    heard, record = visit(place, "tls", FOREIGN[protocol][0])
    assert heard[:1] in (b"", b"\x15")  # an alert
    assert record["code"] == "protocol"
    assert "TLS" in record["reason"]


@pytest.mark.parametrize("said", [HTTP, SSH, crowd.client_hello(), LITTLE_ENDIAN], ids=lambda said: said[:4].hex())
def test_wrong_first_bytes_at_a_length_listener(place: Place, said: bytes):
    heard, record = visit(place, "length", said)
    assert heard == b""
    assert record["code"] == "frame too large"


def test_foreign_datagrams_are_not_answered_and_told_once_a_second(place: Place):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address_of(place.endpoint("udp")))
        for _ in range(20):
            sock.send(HTTP)
        record = place.logged("datagrams were not understood")
        assert record["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
        assert "(47 45 54 20 2f 20 48 54): plain clients need ?framing=raw" in record["reason"]
        assert crowd.ask(sock, crowd.packet(crowd.INIT, 7, bytes(72)), crowd.COOKIE)  # all before it got no answer


# --- our client at other servers -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Callable[[bytes], str]]:
    """Servers that greet like this, whatever is said to them."""
    listeners: list[socket.socket] = []

    def listen(greeting: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(greeting)
                while sock.recv(4096):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("protocol", ["HTTP", "SSH", "little-endian", "big-endian", "another version"])
def test_a_server_that_speaks_something_else(place: Place, elsewhere: Callable[[bytes], str], protocol: str):
    greeting, code, words = FOREIGN[protocol]
    if protocol == "HTTP":
        greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    exit_code, found, said = place.echo(elsewhere(greeting))
    assert (exit_code, found["code"]) == (1, code)
    assert words in said
    assert said.count("\n") == 1
