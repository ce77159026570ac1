"""What was measured on: the machine, the versions, and whether somebody else used the processor meanwhile.

A number without these cannot be compared with another one. Everything here is read from the system, nothing is asked of
the user; what a system does not tell is left out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

OTHERS_MAX = 0.05


def describe(distributions: tuple[str, ...] = ()) -> dict[str, object]:
    """The machine, Python, and the versions of ours and of other `distributions` that are installed."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: found for name in ("transport-kernel", *distributions) if (found := _version(name))},
    }


def summary(machine: dict[str, object]) -> str:
    """The same in a line."""
    versions = machine["versions"]
    assert isinstance(versions, dict)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}; {listed}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def cores() -> tuple[int | None, int | None]:
    """(a server's core, the load generator's); None, None where there is only one to share."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[-1], usable[-2]) if len(usable) > 1 else (None, None)


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Processes that are started inside stay on that core; None: wherever they like."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores_in_words() -> str:
    """How `cores` were shared out, for a report."""
    server, load = cores()
    if server is None:
        return "Server and load generator share the machine, not pinned."
    return f"Servers on core {server} (all their threads), the load generator on core {load}."


def in_words(others: float | None) -> str:
    """A warning, if others used more of the processor than a measurement bears; else empty."""
    if others is None or others <= OTHERS_MAX:
        return ""
    return f"Others used {others:.0%} of the machine meanwhile: measure again when it is quiet."


class Watch:
    """How much of the processor others used, from `start` to `share_of_others`.

    Args:
        processes: ids of processes that belong to the measurement, besides this one and its children that have ended.
    """

    def __init__(self, processes: tuple[int, ...] = ()) -> None:
        self.processes = processes

    def start(self) -> None:
        """Begin to watch."""
        self._busy, self._all, self._own = *_system_ticks(), self._own_seconds()

    def share_of_others(self) -> float | None:
        """The part of all the machine's time that others used, 0.0 to 1.0; None where the system does not tell."""
        busy, everything = _system_ticks()
        if everything == self._all:
            return None
        own = (self._own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
        return max(0.0, (busy - self._busy - own) / (everything - self._all))

    def _own_seconds(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used) + sum(map(process_seconds, self.processes))


def _system_ticks() -> tuple[int, int]:
    """(busy, all) ticks of all processors since the start of the system; zeros where there is no /proc."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0, 0
    ticks = [int(field) for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def process_seconds(pid: int) -> float:
    """Processor time that a running process has used, its threads included; 0.0 when it is gone.

    Linux derives a clock's number from a process's: clock_getcpuclockid(3).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def process_memory_bytes(pid: int) -> int:
    """Memory of its own that a running process has touched and not given back: its private resident pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return 1024 * (sizes["Private_Clean"] + sizes["Private_Dirty"])


def process_peak_bytes(pid: int) -> int:
    """The most memory that a running process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
