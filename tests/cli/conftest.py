"""Servers for the tests of the command line, and a distribution whose services they serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributions import install
from server_process import TIMEOUT_SECONDS, ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")

SERVICES = """
import asyncio
from kernel import Needs, Service

class Shout(Service):
    name = "shout"
    example = "shout-at {endpoint} hello"
    needs = Needs(reliable=True)
    def on_message(self, channel, message):
        channel.send(message.upper())

class Slow(Service):
    '''Answers a second message only after the server has begun to drain.'''
    name = "slow"
    async def serve(self, channel):
        async for message in channel:
            channel.send(b"got it")
            await asyncio.sleep(3600 if message == b"forever" else 0)

class Stubborn(Service):
    name = "stubborn"
    async def serve(self, channel):
        channel.send(b"never")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

class Refuses(Service):
    name = "refuses"
    async def start(self):
        raise RuntimeError("no disk")
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a server: no settings of this machine's user, and a distribution `some-dist` with services."""
    place = tmp_path / "site"
    entries = {name.lower(): f"some_services:{name}" for name in ("Shout", "Slow", "Stubborn", "Refuses")}
    install(
        place,
        "some-dist",
        "0.3",
        {"kernel.services": entries | {"broken": "not_there:X"}},
        {"some_services": SERVICES},
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
    return kept | {
        "PYTHONPATH": str(place),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }


@pytest.fixture
def serve(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers; those that a test leaves running are ended."""
    started: list[ServerProcess] = []

    def start(*arguments: str, **variables: str) -> ServerProcess:
        server = ServerProcess(KERNEL, arguments, environ | variables, tmp_path)
        started.append(server)
        return server

    yield start
    for server in started:
        server.end()


@pytest.fixture
def kernel(environ: dict[str, str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line to its end; its exit code, stdout and stderr."""

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [KERNEL, *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environ | variables
        )
        return done.returncode, done.stdout, done.stderr

    return run
