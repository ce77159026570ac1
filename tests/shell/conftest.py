"""A shell server in a process of its own, and its client as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from server_process import ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
PATIENCE_SECONDS = 30
_GUARD_SECONDS = 600

if not sys.platform.startswith("linux"):
    collect_ignore_glob = ["test_*.py"]


class Ran(NamedTuple):
    """How a client's run ended."""

    code: int
    out: bytes
    err: str


Run = Callable[..., Ran]
Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("home")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KERNEL_", "LC_", "LANG", "TZ", "COLORTERM", "NO_COLOR"))
    }
    return kept | {"XDG_CONFIG_HOME": str(place), "XDG_RUNTIME_DIR": str(place), "LANG": "C.UTF-8"}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Serve]:
    """Start a server from the text of a configuration file, on a socket of its own unless that says where."""
    started: list[ServerProcess] = []

    def start(config: str, *arguments: str) -> ServerProcess:
        place = tmp_path_factory.mktemp("server")
        (place / "config.toml").write_text(config)
        listen = () if "listen =" in config else ("--listen", f"unix:{place}/shell.sock")
        flags = ["--config", str(place / "config.toml"), *listen, *arguments]
        server = ServerProcess(KERNEL, flags, environ, place, guard_seconds=_GUARD_SECONDS)
        started.append(server)
        return server

    yield start
    for server in started:
        server.end()


@pytest.fixture(scope="module")
def run(environ: dict[str, str]) -> Run:
    """Run `kernel shell` to its end."""

    def run(endpoint: str, *arguments: str, stdin: bytes = b"", **variables: str) -> Ran:
        done = subprocess.run(
            [KERNEL, "shell", endpoint, *arguments],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            env=environ | variables,
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    return run
