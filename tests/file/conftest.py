"""A file service in this process, and the command that talks to it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from server_process import ServerProcess

from kernel import Server
from kernel.cli import root as cli

Run = Callable[..., tuple[int, str, str]]
Serving = Callable[..., AbstractAsyncContextManager[str]]

KERNEL = Path(sys.executable).with_name("kernel")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


@pytest.fixture
def serving(root: Path) -> Serving:
    """`async with serving("writable=1") as endpoint`: a server in this event loop."""

    @asynccontextmanager
    async def serve(options: str = "writable=1&overwrite=1", listen: str = "tcp://127.0.0.1:0") -> AsyncIterator[str]:
        async with Server([f"file?root={root}&{options}"], [listen]) as server:
            yield str(server.endpoints[0])

    return serve


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
    return kept | {"XDG_CONFIG_HOME": str(place), "XDG_RUNTIME_DIR": str(place), "XDG_CACHE_HOME": str(place)}


@pytest.fixture
def serve_process(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Start a server in a process of its own; its endpoint."""
    started: list[ServerProcess] = []

    def start(place: Path, options: str = "writable=1&overwrite=1", listen: str = "tcp://127.0.0.1:0") -> ServerProcess:
        flags = ["--plugin", f"file?root={place}&{options}", "--listen", listen]
        server = ServerProcess(KERNEL, flags, environ, tmp_path_factory.mktemp("server"), guard_seconds=300)
        started.append(server)
        return server

    yield start
    for server in started:
        server.end()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line to its end in this process; its exit code, stdout and stderr."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        reading, writing = os.pipe()
        os.write(writing, stdin)
        os.close(writing)
        with open(reading, "rb") as file:
            monkeypatch.setattr(sys, "stdin", file)
            code = cli.run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(errors="surrogateescape"), err.decode()

    return run
