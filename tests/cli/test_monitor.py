"""What a running server tells over HTTP, asked as curl, a supervisor and Prometheus ask."""

from __future__ import annotations

import asyncio
import http.client
import re
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import TIMEOUT_SECONDS, ServerProcess

from kernel import DialError, Refused, Server, blocking
from kernel.endpoint import Endpoint
from kernel.monitor import HEAD_BYTES_MAX, monitor_of, url
from kernel.registry import Registry

Serve = Callable[..., ServerProcess]
Kernel = Callable[..., tuple[int, str, str]]

TCP = "tcp://127.0.0.1:0"
SAMPLE = re.compile(r'([a-z_]+)(\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? (-?\d+(?:\.\d+)?)')


def place(server: ServerProcess) -> tuple[str, int]:
    host, _, port = str(server.ready["monitor"]).removeprefix("tcp://").rpartition(":")
    return host, int(port)


def get(server: ServerProcess, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    client = http.client.HTTPConnection(*place(server), timeout=TIMEOUT_SECONDS)
    client.request(method, path)
    response = client.getresponse()
    text = response.read().decode()
    client.close()
    return response.status, text, response.headers


def say(server: ServerProcess, *parts: bytes) -> bytes:
    """What comes until the end, when this was said."""
    with socket.create_connection(place(server), timeout=TIMEOUT_SECONDS) as sock:
        for part in parts:
            sock.sendall(part)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def metrics(server: ServerProcess) -> dict[str, float]:
    """All samples; and every one belongs to a family that was announced."""
    status, text, headers = get(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples, family = {}, ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            continue
        if line.startswith("# TYPE "):
            assert line in (f"# TYPE {family} gauge", f"# TYPE {family} counter")
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] == family
        samples[found[1] + (found[2] or "")] = float(found[3])
    return samples


@pytest.fixture
def watched(serve: Serve) -> ServerProcess:
    return serve("--plugin", "shout", "--plugin", "slow", "--listen", TCP, "--monitor", TCP)


def test_it_lives_and_is_ready_and_says_where_to_ask(watched: ServerProcess):
    for path, text in (("/healthz", "alive\n"), ("/readyz", "serving\n"), ("/readyz?verbose", "serving\n")):
        assert get(watched, path)[:2] == (200, text)
    status, text, headers = get(watched, "/healthz", "HEAD")
    assert (status, text, headers["Content-Length"], headers["Connection"]) == (200, "", "6", "close")
    assert f"  for operators: http://127.0.0.1:{place(watched)[1]}/metrics\n" in watched.output


def test_what_it_does_not_have_is_told(watched: ServerProcess):
    assert get(watched, "/")[:2] == (404, "here are /healthz, /readyz and /metrics\n")
    status, _, headers = get(watched, "/metrics", "POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    for nonsense in (b"hello\n\n", b"\r\n\r\n", b"GET /metrics\r\n\r\n", b"\xff \xff HTTP/1.1\r\n\r\n"):
        assert say(watched, nonsense).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_request_may_come_byte_by_byte_and_not_without_end(watched: ServerProcess):
    whole = b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n"
    assert say(watched, *(whole[at : at + 1] for at in range(len(whole)))).endswith(b"\r\n\r\nalive\n")
    for end in (b"", b"\r\n\r\n"):
        answer = say(watched, whole[:-2] + b"X: " + bytes(HEAD_BYTES_MAX) + end)
        assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert get(watched, "/healthz")[0] == 200


async def test_who_never_comes_to_the_end_of_his_request_loses_his_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kernel.monitor.REQUEST_SECONDS_MAX", 0.5)
    told = monitor_of(Server(["echo"], [TCP]), TCP, Registry())
    async with told, asyncio.timeout(TIMEOUT_SECONDS):
        reader, writer = await asyncio.open_connection(*told.endpoints[0].host_port())
        while not (reader.at_eof() or writer.transport.is_closing()):
            writer.write(b"x")
            await asyncio.sleep(0.05)
        writer.close()


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("tcp://[::1]:9100", "http://[::1]:9100/metrics"),
        ("tls+tcp://127.0.0.1:9100", "https://127.0.0.1:9100/metrics"),
        ("unix:/run/my own.sock", "curl --unix-socket '/run/my own.sock' http://monitor/metrics"),
    ],
)
def test_what_the_banner_says_can_be_pasted(endpoint: str, told: str):
    assert url(Endpoint.parse(endpoint)) == told


def test_the_numbers_are_those_of_the_server(watched: ServerProcess):
    before = metrics(watched)
    assert before["kernel_ready"] == 1
    assert (before["kernel_connections"], before["kernel_connections_total"]) == (0, 0)
    endpoint = watched.endpoints[0]
    with blocking.connect(endpoint, "shout") as channel:
        channel.send(b"hello")
        assert channel.receive(TIMEOUT_SECONDS) == b"HELLO"
        during = metrics(watched)
    with pytest.raises(Refused):
        blocking.connect(endpoint, "chess")
    assert (during["kernel_connections"], during["kernel_connections_total"]) == (1, 1)
    assert (during['kernel_channels{service="shout"}'], during['kernel_channels{service="slow"}']) == (1, 0)
    assert during["process_open_fds"] > 3
    assert during["process_resident_memory_bytes"] > 1 << 20
    assert during["process_start_time_seconds"] > 1_600_000_000
    after = metrics(watched)
    assert after['kernel_channels_total{service="shout"}'] == 1
    assert after['kernel_channels_refused_total{code="no such service"}'] == 1
    assert after["kernel_connections_total"] == 2


def test_a_full_server_counts_whom_it_turns_away(serve: Serve):
    server = serve("--plugin", "shout", "--listen", TCP, "--monitor", TCP, "--limit", "connections_max=1")
    with blocking.connect(server.endpoints[0], "shout"):
        with pytest.raises(DialError):
            blocking.connect(server.endpoints[0], "shout")
        assert metrics(server)['kernel_connections_refused_total{code="overloaded"}'] == 1


def test_while_it_drains_it_lives_and_is_not_ready(watched: ServerProcess):
    with blocking.connect(watched.endpoints[0], "slow") as channel:
        channel.send(b"forever")
        assert channel.receive(TIMEOUT_SECONDS) == b"got it"
        watched.signal(signal.SIGTERM)
        watched.log_until("draining")
        assert get(watched, "/readyz")[:2] == (503, "draining\n")
        assert get(watched, "/healthz")[:2] == (200, "alive\n")
        assert metrics(watched)["kernel_ready"] == 0
        watched.signal(signal.SIGTERM)
        watched.finish()


def test_a_unix_socket_is_its_owners(serve: Serve, tmp_path: Path):
    path = tmp_path / "monitor.sock"
    server = serve("--plugin", "shout", "--listen", TCP, "--monitor", f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(str(path))
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: monitor\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    server.signal(signal.SIGTERM)
    server.finish()
    assert not path.exists()


@pytest.mark.parametrize(
    ("endpoint", "code", "words"),
    [
        ("tcp://0.0.0.0:0", 3, "listens on this machine only, and not on tcp://0.0.0.0:0: write tcp://127.0.0.1:PORT"),
        ("udp://127.0.0.1:0", 3, "and not on udp://127.0.0.1:0: write tcp://127.0.0.1:PORT or unix:PATH"),
        ("tcp://127.0.0.1:0?framing=knl", 2, "the monitor speaks HTTP, leave framing= out"),
        ("127.0.0.1:9000", 2, "is not an endpoint: write scheme://address"),
    ],
)
def test_a_wrong_place_is_refused_in_one_line(kernel: Kernel, endpoint: str, code: int, words: str):
    found, out, err = kernel("serve", "--plugin", "shout", "--listen", TCP, "--monitor", endpoint)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_busy_port_is_refused_in_one_line(kernel: Kernel):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found, _, err = kernel("serve", "--plugin", "shout", "--listen", TCP, "--monitor", f"tcp://127.0.0.1:{port}")
    assert found == 3
    assert err.startswith(f"kernel: error: cannot listen on tcp://127.0.0.1:{port}: the port is busy")
