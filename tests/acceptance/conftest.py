"""Servers of echo for whole clients, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
# The machine that runs the long form may be slow, and busy.
GUARD_SECONDS = 3600

Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[ServerProcess] = []

    def start(*listen: str, plugin: str = "echo") -> ServerProcess:
        environ = dict(os.environ, XDG_CONFIG_HOME=str(tmp_path))
        arguments = ["--plugin", plugin, "--log-level", "warning"]
        for endpoint in listen:
            arguments += ["--listen", endpoint]
        started.append(ServerProcess(KERNEL, arguments, environ, tmp_path, guard_seconds=GUARD_SECONDS))
        return started[-1]

    yield start
    for server in started:
        server.end()
