"""One sample of an echo server: the load generator, a program in C, against it.

The generator is built with the C engine and installed beside it, so that the client does not limit what is measured.
Its source is benchmarks/loadgen/ in the repository.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.bench.machine import process_seconds
from kernel.errors import UsageError

PROGRAM = "bench/loadgen"


@dataclass(frozen=True)
class Load:
    """What the load generator does.

    Attributes:
        size: bytes of a message's payload.
        in_flight: messages on their way, on each channel.
        connections: at once.
        channels: on each connection; more than one only for KNL.
    """

    size: int
    in_flight: int = 1
    connections: int = 1
    channels: int = 1


@dataclass(frozen=True)
class Target:
    """A running server.

    Attributes:
        endpoint: where it listens, without options.
        framing: what the load generator must speak.
        pid: its process.
    """

    endpoint: str
    framing: str
    pid: int


@dataclass(frozen=True)
class Sample:
    """What came of it. `error` says why there is nothing else.

    Attributes:
        server_us: the server's processor time for a message, which says more than the rate when the machine is busy.
        server_cpu, client_cpu: how busy both were, 1.0 being a whole core.
    """

    messages_per_second: float = 0.0
    server_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    lost: int = 0
    error: str = ""


def installed_program() -> Path:
    """The load generator of this installation.

    Raises:
        UsageError: it was installed without a C compiler.
    """
    module = importlib.util.find_spec("kernel._framing")
    if module is not None and module.origin is not None:
        program = Path(module.origin).parent / PROGRAM
        if program.exists():
            return program
    raise UsageError(
        "the load generator was not built, it needs Linux and a C compiler: "
        "install again with a compiler at hand, or use kernel echo ENDPOINT --load"
    )


def command(program: Path, target: Target, load: Load, cpu: int | None) -> list[str]:
    """The load generator's command line, but for how long it runs."""
    options = {
        "connect": target.endpoint,
        "framing": target.framing,
        "size": load.size,
        "in-flight": load.in_flight,
        "connections": load.connections,
        "channels": load.channels,
    } | ({} if cpu is None else {"cpu": cpu})
    return [str(program), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def sample(program: Path, target: Target, load: Load, seconds: float, warmup_seconds: float, cpu: int | None) -> Sample:
    """Run the load generator once; it verifies every message that returns."""
    timed = [*command(program, target, load, cpu), "--seconds", str(seconds), "--warmup", str(warmup_seconds)]
    before = process_seconds(target.pid)
    outcome = subprocess.run(timed, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    used = process_seconds(target.pid) - before
    if outcome.returncode:
        return Sample(error=outcome.stderr.strip().removeprefix("loadgen: ") or f"exit code {outcome.returncode}")
    report: dict[str, Any] = json.loads(outcome.stdout)
    if not report["messages"]:
        return Sample(error="nothing came back")
    latency = report["latency_us"]
    return Sample(
        report["messages_per_second"],
        1e6 * used / report["all_messages"],
        latency["p50"],
        latency["p99"],
        used / (seconds + warmup_seconds),
        report["client_cpu"],
        report["lost"],
    )


class Held:
    """Connections that are open and silent, each after one round trip, for as long as the context lasts."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = [*command, "--seconds", "0", "--warmup", "0", "--linger"]

    def __enter__(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError(f"the connections could not be opened: {' '.join(self.command)}")

    def __exit__(self, *_: object) -> None:
        self.process.communicate()
