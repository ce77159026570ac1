"""What the tutorials' own scripts do, behaviour by behaviour, with plain sockets and with nc and socat.

The rows are those of the project's list of behaviours: 1 TCP upper, 2 greeting, 3 UDP, 4 AF_UNIX, 5 IPv6, 8 sticky
packets, 13 many clients, 14 backlog, addresses, disconnects and options. The other rows belong to other services.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from acceptance.conftest import Serve
from server_process import ServerProcess

GUARD_SECONDS = 30


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.partition("?")[0].partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def dialled(endpoint: str) -> socket.socket:
    return socket.create_connection(address(endpoint), timeout=GUARD_SECONDS)


def datagrams(endpoint: str) -> socket.socket:
    host, port = address(endpoint)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(GUARD_SECONDS)
    sock.connect((host, port))
    return sock


def until_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1024), b""))


def exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = sock.recv(size - len(received))
        assert part, f"the end came after {received!r}"
        received += part
    return received


# --- rows 1, 2, 4 and 5: raw streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_rows_1_and_5_a_raw_stream_comes_back_in_upper_case_and_the_end_is_no_spin(serve: Serve, host: str) -> None:
    server = serve(f"tcp://{host}:0?framing=raw", plugin="echo?mode=upper")
    with dialled(server.endpoints[0]) as one, dialled(server.endpoints[0]) as other:
        other.sendall(b"second, and not starved")
        assert exactly(other, 23) == b"SECOND, AND NOT STARVED"
        one.sendall("stra\u00dfe".encode())
        assert exactly(one, 7) == "STRA\u00dfE".encode()
        one.shutdown(socket.SHUT_WR)
        assert until_end(one) == b""


def test_row_2_a_fixed_greeting_then_the_end_for_one_client_after_the_other(serve: Serve) -> None:
    server = serve("tcp://127.0.0.1:0?framing=raw", plugin="echo?mode=greeting")
    for said in (b"hello", b"\xff\x00"):
        with dialled(server.endpoints[0]) as client:
            client.sendall(said)
            assert until_end(client) == b"hi"


def test_row_4_the_same_between_processes_of_one_machine(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    serve(f"unix:{path}?framing=raw", plugin="echo?mode=upper")
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(GUARD_SECONDS)
        client.connect(str(path))
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert until_end(client) == b"HELLO"


# --- row 3: datagrams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_rows_3_and_5_every_datagram_comes_back_as_one(serve: Serve, host: str) -> None:
    server = serve(f"udp://{host}:0?framing=raw")
    with datagrams(server.endpoints[0]) as client:
        for message in (b"exit", b"", b"\xff\xfe", bytes(range(256)) * 250, b"hello"):
            client.send(message)
            assert client.recv(65_535) == message


def test_row_3_upper_case_and_a_sink_that_says_nothing(serve: Serve) -> None:
    upper = serve("udp://127.0.0.1:0?framing=raw", plugin="echo?mode=upper")
    with datagrams(upper.endpoints[0]) as client:
        client.send(b"hello")
        assert client.recv(1024) == b"HELLO"

    sink = serve("udp://127.0.0.1:0?framing=raw", "tcp://127.0.0.1:0?framing=raw", plugin="echo?mode=sink")
    with datagrams(sink.endpoints[0]) as client, dialled(sink.endpoints[1]) as witness:
        client.send(b"hello")
        witness.sendall(b"hello")
        witness.shutdown(socket.SHUT_WR)
        assert until_end(witness) == b""
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1024)


# --- row 8: sticky packets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        ("length&width=4&endian=little", b"\x05\0\0\0hello\0\0\0\0\x04\0\0\0feng"),
        ("length&width=2", b"\0\x05hello\0\0\0\x04feng"),
        ("line", b"hello\n\nfeng\n"),
    ],
)
def test_row_8_messages_keep_their_boundaries_wherever_they_are_cut(serve: Serve, framing: str, sent: bytes) -> None:
    """`hello`, an empty message and `feng`, as two sends, at every split point."""
    server = serve(f"tcp://127.0.0.1:0?framing={framing}")
    for cut in range(len(sent) + 1):
        with dialled(server.endpoints[0]) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(sent[:cut])
            whole = complete(framing, sent[:cut])
            # Once these are back, the server has read the first part, and the second comes in another read.
            assert exactly(client, len(whole)) == whole
            client.sendall(sent[cut:])
            client.shutdown(socket.SHUT_WR)
            assert whole + until_end(client) == sent


def complete(framing: str, data: bytes) -> bytes:
    """The whole messages at the beginning of the data, with their lengths or line ends."""
    if framing == "line":
        return data[: data.rfind(b"\n") + 1]
    width, order = (2, ">H") if "width=2" in framing else (4, "<I")
    end = 0
    while len(data) >= end + width and len(data) >= (then := end + width + struct.unpack_from(order, data, end)[0]):
        end = then
    return data[:end]


def test_row_8_without_a_framing_two_sends_stick_together(serve: Serve) -> None:
    server = serve("tcp://127.0.0.1:0?framing=raw")
    with dialled(server.endpoints[0]) as client:
        client.sendall(b"hello")
        client.sendall(b"feng")
        assert exactly(client, 9) == b"hellofeng"


# --- rows 13 and 14 ---------------------------------------------------------------------------------------------------


def test_row_13_many_clients_at_once_and_q_is_a_message_like_any_other(serve: Serve) -> None:
    server = serve("tcp://127.0.0.1:0?framing=raw")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dialled(server.endpoints[0])) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(b"client %03d" % number)
        clients[0].sendall(b"q")
        for number, client in reversed(list(enumerate(clients))):
            assert exactly(client, 10) == b"client %03d" % number
        assert exactly(clients[0], 1) == b"q"


def test_row_14_a_reset_ends_one_client_and_the_next_is_served(serve: Serve) -> None:
    server = serve("tcp://127.0.0.1:0?framing=raw&backlog=1&keepalive_seconds=60&nodelay=true")
    for _ in range(3):
        with dialled(server.endpoints[0]) as client:
            client.sendall(b"hello")
            assert exactly(client, 5) == b"hello"
            client.sendall(bytes(100_000))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with dialled(server.endpoints[0]) as client:
        client.sendall(b"still there?")
        assert exactly(client, 12) == b"still there?"


def test_row_14_the_address_can_be_used_again_at_once(serve: Serve) -> None:
    server = serve("tcp://127.0.0.1:0?framing=raw")
    with dialled(server.endpoints[0]) as client:
        client.sendall(b"hello")
        exactly(client, 5)
        server.end()  # the server closes first: its side of the connection stays behind, in TIME_WAIT
    again = serve(server.endpoints[0])
    assert again.endpoints == server.endpoints


# --- other people's programs ------------------------------------------------------------------------------------------


@pytest.fixture
def everywhere(serve: Serve, tmp_path: Path) -> ServerProcess:
    return serve("tcp://127.0.0.1:0?framing=raw", f"unix:{tmp_path}/raw.sock?framing=raw")


@pytest.mark.parametrize(
    ("program", "command", "index"),
    [
        ("nc.openbsd", "nc.openbsd -N {host} {port}", 0),
        ("nc.openbsd", "nc.openbsd -N -U {path}", 1),
        ("ncat", "ncat {host} {port}", 0),
        ("ncat", "ncat -U {path}", 1),
        ("socat", "socat -t 30 - TCP:{host}:{port}", 0),
        ("socat", "socat -t 30 - UNIX-CONNECT:{path}", 1),
    ],
)
def test_programs_of_others_talk_to_a_raw_listener(
    everywhere: ServerProcess, program: str, command: str, index: int
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    endpoint = everywhere.endpoints[index]
    host, port = address(endpoint) if index != 1 else ("", 0)
    path = endpoint.removeprefix("unix:").partition("?")[0]
    words = command.format(host=host, port=port, path=path).split()
    done = subprocess.run(words, input=b"hello\n", capture_output=True, timeout=GUARD_SECONDS)
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
