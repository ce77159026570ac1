"""The servers that are measured: how each is started, what it speaks, and when it cannot run here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import native
from kernel.bench.load import Target
from kernel.bench.machine import pinned

START_SECONDS_MAX = 20.0


@dataclass(frozen=True)
class Server:
    """An echo server that can be started.

    Attributes:
        name: as tables show it.
        transports: `tcp`, `unix`, `udp`: what it can listen on.
        command: the command line for a transport and a directory for its files.
        framing: what the load generator must speak, for a transport.
        requires: Python modules without which it is left out.
        ours: it is this project's.
    """

    name: str
    transports: tuple[str, ...]
    command: Callable[[str, Path], list[str]]
    framing: Callable[[str], str]
    requires: tuple[str, ...] = ()
    ours: bool = False

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        lacking = [module for module in self.requires if importlib.util.find_spec(module) is None]
        return f"{', '.join(lacking)} not installed" if lacking else ""


def _address(transport: str, directory: Path) -> str:
    return f"unix:{directory}/socket" if transport == "unix" else transport


def _python(module: str, *options: str) -> Callable[[str, Path], list[str]]:
    def command(transport: str, directory: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.peers.{module}", _address(transport, directory), *options]

    return command


def _native(name: str) -> Callable[[str, Path], list[str]]:
    def command(transport: str, directory: Path) -> list[str]:
        program = str(native.peer(name))
        return [program] if transport == "udp" else [program, _address(transport, directory)]

    return command


def _ours(framing: str, loop: str) -> Callable[[str, Path], list[str]]:
    def command(transport: str, directory: Path) -> list[str]:
        place = f"unix:{directory}/socket" if transport == "unix" else f"{transport}://127.0.0.1:0"
        kernel = str(Path(sys.executable).with_name("kernel"))
        serve = [kernel, "serve", "--quiet", "--plugin", "echo", "--loop", loop]
        return [*serve, "--listen", f"{place}?framing={framing}", "--ready-file", f"{directory}/ready"]

    return command


def _always(framing: str) -> Callable[[str], str]:
    return lambda _transport: framing


STREAMS = ("tcp", "unix")
OURS, OURS_ASYNCIO, OURS_KNL, OURS_UDP = "kernel", "kernel (asyncio)", "kernel, KNL", "kernel (raw)"
UVLOOP_PROTOCOL, ASYNCIO_STREAMS, PYZMQ = "uvloop Protocol", "asyncio streams", "pyzmq ROUTER"
UDP_ASYNCIO, UDP_UVLOOP = "asyncio DatagramProtocol", "uvloop DatagramProtocol"

SERVERS = (
    Server(OURS, STREAMS, _ours("length", "auto"), _always("length"), ("kernel.plugins.echo",), True),
    Server(OURS_ASYNCIO, STREAMS, _ours("length", "asyncio"), _always("length"), ("kernel.plugins.echo",), True),
    Server(OURS_KNL, STREAMS, _ours("knl", "auto"), _always("knl"), ("kernel.plugins.echo",), True),
    Server("C epoll (the limit)", STREAMS, _native("epoll_echo"), _always("length")),
    Server(UVLOOP_PROTOCOL, STREAMS, _python("asyncio_protocol", "--loop", "uvloop"), _always("length"), ("uvloop",)),
    Server("asyncio Protocol", STREAMS, _python("asyncio_protocol"), _always("length")),
    Server(ASYNCIO_STREAMS, STREAMS, _python("asyncio_streams"), _always("length")),
    Server("Twisted Int32", STREAMS, _python("twisted_int32"), _always("length"), ("twisted",)),
    Server(PYZMQ, STREAMS, _python("pyzmq_router"), _always("zmtp"), ("zmq",)),
    Server("pynng Rep", STREAMS, _python("pynng_rep"), lambda t: "sp-ipc" if t == "unix" else "sp", ("pynng",)),
    Server("picows", ("tcp",), _python("picows_websocket", "--loop", "uvloop"), _always("websocket"), ("picows",)),
    Server("grpcio stream", STREAMS, _python("grpc_stream"), _always("grpc"), ("grpc",)),
    Server(OURS_UDP, ("udp",), _ours("raw", "auto"), _always("raw"), ("kernel.plugins.echo",), True),
    Server("C recvmmsg (the limit)", ("udp",), _native("mmsg_echo"), _always("raw")),
    Server(UDP_UVLOOP, ("udp",), _python("udp_protocol", "--loop", "uvloop"), _always("raw"), ("uvloop",)),
    Server(UDP_ASYNCIO, ("udp",), _python("udp_protocol"), _always("raw")),
)

PEER_DISTRIBUTIONS = ("uvloop", "twisted", "pyzmq", "pynng", "picows", "grpcio")


class Running:
    """A started server: its process and its endpoint. Use it as a context manager."""

    def __init__(self, server: Server, transport: str, cpu: int | None) -> None:
        self.server = server
        self.transport = transport
        self.cpu = cpu

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            log = stack.enter_context(open(directory / "log", "w+"))
            command = self.server.command(self.transport, directory)
            with pinned(self.cpu):
                started = time.perf_counter()
                self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            stack.callback(self._stop)
            endpoint = self._wait(directory)
            self.target = Target(endpoint, self.server.framing(self.transport), self.process.pid)
            self.start_seconds = time.perf_counter() - started
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _wait(self, directory: Path) -> str:
        """Until it says where it listens: ours in its ready file, the others in their first line."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            endpoint = _ready_endpoint(directory / "ready") if self.server.ours else _announced(directory / "log")
            if endpoint:
                return endpoint
            if self.process.poll() is not None:
                break
            time.sleep(0.002)
        said = (directory / "log").read_text().strip().splitlines()
        raise RuntimeError(f"{self.server.name} did not start on {self.transport}: {said[-1] if said else 'no output'}")


def _ready_endpoint(path: Path) -> str:
    """What the load generator connects to: the place, without options."""
    if not path.exists():
        return ""
    endpoint: str = json.loads(path.read_text())["endpoints"][0]
    return endpoint.partition("?")[0]


def _announced(path: Path) -> str:
    for line in path.read_text().splitlines(keepends=True):
        if line.startswith(("tcp://", "unix:", "udp://")) and line.endswith("\n"):
            return line.strip()
    return ""
