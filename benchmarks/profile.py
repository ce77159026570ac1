"""Where the processor time of our server goes: `python -m benchmarks.profile`, with Linux's perf; about a minute.

perf samples the server's process while it echoes, and says for each sample in which library it was. Numbers of samples
are shares of time: percent of what the server's process used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks import native, servers
from benchmarks.report import Report, Rows
from benchmarks.servers import SERVERS, Running
from kernel.bench import load as loading, machine
from kernel.bench.echo import DATAGRAM_CELLS, STREAM_CELLS

SAMPLES_PER_SECOND = 4000
PLACES = {
    "operating system": r"\[",
    "libc": r"(libc\.|libc-|ld-linux)",
    "uvloop": r"loop\.",
    "csrc": r"_framing",
    "interpreter": "",  # what is left
}
CELLS = (
    *((name, "tcp", cell) for name in (servers.OURS, servers.OURS_KNL) for cell in STREAM_CELLS),
    (servers.OURS_ASYNCIO, "tcp", "16 B x 1"),
    (servers.OURS_ASYNCIO, "tcp", "64 conns x 1 KiB"),
    (servers.OURS_UDP, "udp", "1 KiB x 64"),
)


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    return "" if shutil.which("perf") else "perf is not installed"


def shares(report: str) -> dict[str, float]:
    """What `perf report --sort dso` says, as percent by place."""
    found: defaultdict[str, float] = defaultdict(float)
    for percent, library in re.findall(r"^\s*([\d.]+)%\s+(\S+)", report, re.M):
        found[next(place for place, pattern in PLACES.items() if re.match(pattern, library))] += float(percent)
    return {place: found[place] for place in PLACES}


def sampled(server: str, transport: str, cell: str, seconds: float) -> dict[str, float]:
    """One cell, while the load runs."""
    server_cpu, load_cpu = machine.cores()
    load = (DATAGRAM_CELLS if transport == "udp" else STREAM_CELLS)[cell]
    contestant = next(one for one in SERVERS if one.name == server)
    with Running(contestant, transport, server_cpu) as running, tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory) / "samples")
        client = loading.command(native.load_generator(), running.target, load, load_cpu)
        timed = [*client, "--seconds", str(seconds + 1), "--warmup", "0.1"]
        with subprocess.Popen(timed, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as loaded:
            record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND), "-o", data]
            wait = ["-p", str(running.process.pid), "--", "sleep", str(seconds)]
            subprocess.run([*record, *wait], check=True, capture_output=True)
            loaded.wait()
        told = subprocess.run(
            ["perf", "report", "-i", data, "--stdio", "--sort", "dso"], capture_output=True, text=True
        )
    return shares(told.stdout)


def run(seconds: float = 1.5) -> Report:
    """Sample every cell."""
    report = Report("profile", machine.describe(("uvloop",)))
    watch = machine.Watch()
    watch.start()
    rows: Rows = [["percent of the server's processor time", *PLACES]]
    for server, transport, cell in CELLS:
        found = sampled(server, transport, cell, seconds)
        rows.append([f"{server}, {cell}", *(f"{percent:.0f}" for percent in found.values())])
    report.tables["shares"] = rows
    report.data["shares"] = rows
    report.others = watch.share_of_others()
    return report


def main() -> None:
    """Sample, and print."""
    if reason := missing():
        raise SystemExit(f"profile: error: {reason}: it comes with the package linux-perf, or linux-tools")
    print(run().text())


if __name__ == "__main__":
    main()
