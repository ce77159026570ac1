"""A server for the command's tests: one process for all of them, an echo in each manner on an endpoint of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from server_process import ServerProcess

from kernel.cli import root

Run = Callable[..., tuple[int, str, str]]

# The server lives as long as all tests of a module take together.
_GUARD_SECONDS = 600

KERNEL = Path(sys.executable).with_name("kernel")
FRAMINGS = ("knl", "raw", "line", "length")


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
    return kept | {"XDG_CONFIG_HOME": str(place), "XDG_RUNTIME_DIR": str(place)}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Callable[..., list[str]]]:
    """Start a server for a plugin on some endpoints; what was bound."""
    started: list[ServerProcess] = []

    def start(plugin: str, *listen: str) -> list[str]:
        flags = [flag for endpoint in listen for flag in ("--listen", endpoint)]
        place = tmp_path_factory.mktemp("server")
        server = ServerProcess(KERNEL, ["--plugin", plugin, *flags], environ, place, guard_seconds=_GUARD_SECONDS)
        started.append(server)
        return server.endpoints

    yield start
    for server in started:
        server.end()


@pytest.fixture(scope="module")
def echoes(serve: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Endpoints of a verbatim echo, by framing, and over other transports than tcp."""
    listen = [f"tcp://127.0.0.1:0?framing={framing}" for framing in FRAMINGS]
    others = {
        "unix": f"unix:{tmp_path_factory.mktemp('socket')}/echo.sock",
        "udp": "udp://127.0.0.1:0",
        "udp raw": "udp://127.0.0.1:0?framing=raw",
    }
    return dict(zip((*FRAMINGS, *others), serve("echo", *listen, *others.values()), strict=True))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line to its end in this process, with some input; its exit code, stdout and stderr."""

    def run(*arguments: str, stdin: bytes | Path = b"") -> tuple[int, str, str]:
        with _pipe(stdin) if isinstance(stdin, bytes) else stdin.open("rb") as file:
            monkeypatch.setattr(sys, "stdin", file)
            code = root.run(list(arguments))
        out, err = capfdbinary.readouterr()
        return code, out.decode(errors="surrogateescape"), err.decode()

    return run


def _pipe(data: bytes) -> BinaryIO:
    """A pipe that holds some bytes, no more than fit, and then ends."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return open(reading, "rb")
