"""Our echo service on this machine: a server process, the load generator, and the cells that are measured.

Server and load generator have a core each, where there are two to be had.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernel.bench.load import Load, Sample, Target, installed_program, sample
from kernel.bench.machine import cores, pinned
from kernel.errors import StartError

START_SECONDS_MAX = 20.0
STREAM_CELLS = {
    "16 B x 1": Load(16),
    "16 B x 128": Load(16, 128),
    "1 KiB x 128": Load(1024, 128),
    "64 KiB x 16": Load(65536, 16),
    "1 MiB x 1": Load(1 << 20),
    "64 conns x 1 KiB": Load(1024, connections=64),
}
"""Message size and how many are in flight on the one connection; at last 64 connections with one each."""
DATAGRAM_CELLS = {"64 B x 1": Load(64), "64 B x 64": Load(64, 64), "1 KiB x 64": Load(1024, 64)}


@dataclass(frozen=True)
class Listener:
    """What the server listens on: a transport and a framing."""

    transport: str
    framing: str

    @property
    def cells(self) -> dict[str, Load]:
        """What is measured there."""
        return DATAGRAM_CELLS if self.transport == "udp" else STREAM_CELLS

    def endpoint(self, directory: Path) -> str:
        """A free place on this machine."""
        place = f"unix:{directory}/{self.framing}" if self.transport == "unix" else f"{self.transport}://127.0.0.1:0"
        return f"{place}?framing={self.framing}"


LISTENERS = (
    Listener("tcp", "length"),
    Listener("tcp", "knl"),
    Listener("unix", "length"),
    Listener("unix", "knl"),
    Listener("udp", "raw"),
)


@dataclass(frozen=True)
class Measured:
    """All samples of one cell."""

    listener: Listener
    cell: str
    samples: Sequence[Sample]


@contextmanager
def serving(listeners: Sequence[Listener], loop: str) -> Iterator[list[Target]]:
    """Run `kernel serve --plugin echo` on all the listeners, in one process.

    Raises:
        StartError: it did not come up.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernel-bench-")))
        log = stack.enter_context(open(directory / "log", "w+"))
        command = [sys.executable, "-c", "from kernel.cli import main; main()", "serve", "--quiet", "--plugin", "echo"]
        command += ["--loop", loop, "--ready-file", str(directory / "ready")]
        for listener in listeners:
            command += ["--listen", listener.endpoint(directory)]
        with pinned(cores()[0]):
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        endpoints = _endpoints(directory, process)
        yield [
            Target(endpoint.partition("?")[0], listener.framing, process.pid)
            for endpoint, listener in zip(endpoints, listeners, strict=True)
        ]


def _endpoints(directory: Path, process: subprocess.Popen[bytes]) -> list[str]:
    deadline = time.monotonic() + START_SECONDS_MAX
    ready = directory / "ready"
    while time.monotonic() < deadline and process.poll() is None:
        if ready.exists():
            endpoints: list[str] = json.loads(ready.read_text())["endpoints"]
            return endpoints
        time.sleep(0.005)
    said = (directory / "log").read_text().strip().splitlines()
    raise StartError(f"the server to be measured did not start: {said[-1] if said else 'it said nothing'}")


def measure(listeners: Sequence[Listener], loop: str, rounds: int, seconds: float) -> Iterator[Measured]:
    """Measure every cell of the listeners, `rounds` times; listeners of the same cell in turn."""
    program, load_cpu = installed_program(), cores()[1]
    with serving(listeners, loop) as targets:
        pairs = list(zip(listeners, targets, strict=True))
        for cell in dict.fromkeys(cell for listener in listeners for cell in listener.cells):
            taking_part = [(listener, target) for listener, target in pairs if cell in listener.cells]
            samples: list[list[Sample]] = [[] for _ in taking_part]
            for _ in range(rounds):
                for (listener, target), series in zip(taking_part, samples, strict=True):
                    load = listener.cells[cell]
                    series.append(sample(program, target, load, seconds, seconds / 4 + 0.05, load_cpu))
            for (listener, _), series in zip(taking_part, samples, strict=True):
                yield Measured(listener, cell, series)
