"""A server process for the tests of the command line, and a distribution whose services it serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributions import install

KERNEL = Path(sys.executable).with_name("kernel")
TIMEOUT_SECONDS = 30

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

class Refuses(Service):
    name = "refuses"
    async def start(self):
        raise RuntimeError("no disk")
"""


class ServerProcess:
    """`kernel serve` in a process of its own, ready to be talked to."""

    def __init__(self, arguments: list[str], environ: dict[str, str], directory: Path) -> None:
        self.ready_file = directory / "ready.json"
        self.process = subprocess.Popen(
            [KERNEL, "serve", *arguments, "--ready-file", str(self.ready_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        # What hangs is ended from outside, and the test fails on what it reads then.
        self._guard = threading.Timer(TIMEOUT_SECONDS, self.process.kill)
        self._guard.start()
        self.output = self._until("Press Ctrl-C to stop.")
        self.ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        self.endpoints: list[str] = self.ready["endpoints"]

    def _until(self, last: str) -> str:
        lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if line.strip() == last:
                return "".join(lines)
        raise AssertionError(f"the server ended: {self.process.communicate()}")

    def log_until(self, text: str) -> str:
        """The log up to the line that holds the text."""
        lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"'{text}' was not logged, but {lines}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the exit code and the rest of the log."""
        _, log = self.process.communicate()
        self._guard.cancel()
        return self.process.returncode, log

    def end(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        self.process.kill()
        self.finish()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a server: no settings of this machine's user, and a distribution `some-dist` with services."""
    place = tmp_path / "site"
    entries = {name.lower(): f"some_services:{name}" for name in ("Shout", "Slow", "Refuses")}
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
        server = ServerProcess(list(arguments), environ | variables, tmp_path)
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
