"""One sample: the load generator against a running server, with the processor time that both used."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from benchmarks import native
from benchmarks.servers import Running
from kernel.bench.machine import process_seconds


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
class Sample:
    """What came of it. `error` says why there is nothing else.

    Attributes:
        server_us: the server's processor time for a message, which says more than the rate when the machine is busy.
    """

    messages_per_second: float = 0.0
    server_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    lost: int = 0
    error: str = ""


def sample(running: Running, load: Load, seconds: float, warmup_seconds: float, cpu: int | None) -> Sample:
    """Run the load generator once; it verifies every message that returns."""
    command = [*_command(running, load, cpu), "--seconds", str(seconds), "--warmup", str(warmup_seconds)]
    before = process_seconds(running.process.pid)
    outcome = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    used = process_seconds(running.process.pid) - before
    if outcome.returncode:
        return Sample(error=outcome.stderr.strip().removeprefix("loadgen: ") or f"exit code {outcome.returncode}")
    report: dict[str, Any] = json.loads(outcome.stdout)
    if not report["messages"]:
        return Sample(error="nothing came back")
    latency = report["latency_us"]
    return Sample(
        report["messages_per_second"],
        1e6 * used / max(1, report["all_messages"]),
        latency["p50"],
        latency["p99"],
        used / (seconds + warmup_seconds),
        report["client_cpu"],
        report["lost"],
    )


class Held:
    """Connections that are open and silent, for as long as the context lasts."""

    def __init__(self, running: Running, connections: int, cpu: int | None) -> None:
        self.command = [
            *_command(running, Load(16, 0, connections), cpu),
            "--seconds",
            "0",
            "--warmup",
            "0",
            "--linger",
        ]

    def __enter__(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError("the load generator could not open its connections")

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def _command(running: Running, load: Load, cpu: int | None) -> list[str]:
    options = {
        "connect": running.endpoint,
        "framing": running.server.framing(running.transport),
        "size": load.size,
        "in-flight": load.in_flight,
        "connections": load.connections,
        "channels": load.channels,
    }
    command = [str(native.load_generator())]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return command if cpu is None else [*command, "--cpu", str(cpu)]


def raise_file_limit() -> None:
    """Thousands of connections need descriptors; the servers inherit the limit."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
