"""Moving files, beside others: `python -m benchmarks.file --short` (under 3 minutes) or `--full`.

One file over the loopback into the same tmpfs, and 10,000 files of 4 KiB. Servers are started once; then in every round
all contestants go one after the other, so that what disturbs the machine disturbs all. What is told is the median of
the rounds with its quartiles, and ratios taken within each round.

Two times are told: *transfer*, from the dialling to the answer that all is stored, and *command*, with the start of the
program. Where a program does not tell its own time (all but ours) both are the command's. Processor time is that of
client and server together: on a machine that others use too it is the better figure.

On a disk (`--directory /var/tmp --size 512`; `--directory` may be given several times) what counts is that the bytes
are on it: ours syncs before it answers, and who does not is followed by a sync that belongs to its time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import native
from benchmarks.report import Report, Rows, ratio
from kernel.bench import machine
from kernel.bench.timing import Spread, ratios

KERNEL = str(Path(sys.executable).with_name("kernel"))
BEST_C = "the better C pair"
_START_SECONDS_MAX = 20.0
_SMALL_BYTES = 4096


@dataclass(frozen=True)
class Sample:
    """One transfer: seconds by the clock, and of the processor."""

    transfer: float
    command: float
    cpu: float


@dataclass
class Place:
    """Where everything lies: what is sent, what is served, what is written."""

    base: Path
    size: int
    files: int
    on_disk: bool = False
    source: Path = field(init=False)
    tree: Path = field(init=False)
    served: Path = field(init=False)
    written: Path = field(init=False)

    def __post_init__(self) -> None:
        self.served, self.written = self.base / "served", self.base / "written"
        self.source, self.tree = self.served / "one", self.served / "many"

    def make(self) -> None:
        for directory in (self.served, self.written, self.tree):
            directory.mkdir(parents=True)
        with self.source.open("wb") as file:
            for _ in range(self.size >> 20):
                file.write(os.urandom(1 << 20))
        for number in range(self.files):
            folder = self.tree / f"{number // 100:03}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number % 100:02}").write_bytes(os.urandom(_SMALL_BYTES))

    def clear(self) -> None:
        """Take away what the last transfer wrote; a server has the directory itself open."""
        for path in self.written.iterdir():
            if path.name == "many" or path.name.isdigit():
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        if self.on_disk:
            self.sync()

    def sync(self) -> float:
        """Have on the disk what was written; the seconds that it took."""
        began = time.perf_counter()
        subprocess.run(["sync", "-f", str(self.written)], check=True)
        return time.perf_counter() - began


Run = Callable[[Place], Sample]


@dataclass(frozen=True)
class Contestant:
    """Something that moves a file.

    Attributes:
        needs: programs without which it is left out.
        start: starts its server; gives what runs one transfer.
        syncs: what it wrote is on the disk when it is done.
    """

    name: str
    needs: tuple[str, ...]
    start: Callable[[ExitStack, Place], Run]
    syncs: bool = False

    def missing(self) -> str:
        return ", ".join(name for name in self.needs if shutil.which(name) is None)


# --- measuring one command -----------------------------------------------------------------------------------------


def timed(command: list[str], server: int = 0) -> tuple[float, float, str]:
    """Run a command: seconds, processor seconds (with those of a server that runs on), and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    server_before = machine.process_seconds(server) if server else 0.0
    began = time.perf_counter()
    outcome = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if outcome.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {outcome.stderr.strip() or outcome.stdout[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if server:
        cpu += machine.process_seconds(server) - server_before
    return seconds, cpu, outcome.stdout


@contextmanager
def daemon(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is ended with the `with`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class NotStarted(Exception):
    """A server did not come up: its contestant is left out, and named."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise NotStarted(f"nothing listened on port {port} within {_START_SECONDS_MAX:g} s")


# --- the contestants -----------------------------------------------------------------------------------------------


def c_pair(manner: str) -> Callable[[ExitStack, Place], Run]:
    def start(_stack: ExitStack, _place: Place) -> Run:
        program = str(native.peer("file_pair"))

        def run(place: Place) -> Sample:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            target = str(place.written / "one")
            receiver = subprocess.Popen([program, "receive", manner, target], stdout=subprocess.PIPE, text=True)
            assert receiver.stdout is not None
            port = receiver.stdout.readline().strip()
            began = time.perf_counter()
            sender = subprocess.Popen([program, "send", port, str(place.source)])
            codes = sender.wait(), receiver.wait()
            seconds = time.perf_counter() - began
            receiver.stdout.close()
            if any(codes):
                raise SystemExit("the C pair failed")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return Sample(seconds, seconds, cpu)

        return run

    return start


def ours(action: str, *flags: str, many: bool = False) -> Callable[[ExitStack, Place], Run]:
    def start(stack: ExitStack, place: Place) -> Run:
        port = free_port()
        root = place.written if action == "put" else place.served
        options = f"root={root}&writable=1&overwrite=1" if action == "put" else f"root={root}"
        endpoint = f"tcp://127.0.0.1:{port}"
        serve = [KERNEL, "serve", "-q", "--plugin", f"file?{options}", "--listen", endpoint]
        server = stack.enter_context(daemon(serve))
        wait_for(port)
        command = [KERNEL, "file", action, endpoint, "--json", *flags]
        if action == "put":
            command += ["-r", str(place.tree)] if many else [str(place.source)]
        else:
            command += ["-r", "many", "--to"] if many else ["one", "--to"]
            command.append(str(place.written))

        def run(_place: Place) -> Sample:
            seconds, cpu, printed = timed(command, server.pid)
            report = json.loads(printed)
            if report["failed"]:
                raise SystemExit(f"{command}: {report['failed'][:3]}")
            return Sample(report["seconds"], seconds, cpu)

        return run

    return start


def rsync(*, many: bool = False) -> Callable[[ExitStack, Place], Run]:
    def start(stack: ExitStack, place: Place) -> Run:
        port = free_port()
        config = place.base / f"rsyncd-{port}.conf"
        config.write_text(f"use chroot = no\nuid = {os.getuid()}\n[served]\npath = {place.served}\n")
        server = stack.enter_context(
            daemon(["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}", "--address=127.0.0.1"])
        )
        wait_for(port)
        what = "many" if many else "one"
        command = ["rsync", "--whole-file", *(["-r", "-t"] if many else [])]
        command += [f"rsync://127.0.0.1:{port}/served/{what}", str(place.written)]

        def run(_place: Place) -> Sample:
            seconds, cpu, _ = timed(command, server.pid)
            return Sample(seconds, seconds, cpu)

        return run

    return start


def scp(stack: ExitStack, place: Place) -> Run:
    keys = place.base / "ssh"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    (keys / "authorized").write_text((keys / "user.pub").read_text())
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": keys / "host",
        "AuthorizedKeysFile": keys / "authorized",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (keys / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    os.makedirs("/run/sshd", exist_ok=True)
    stack.enter_context(daemon([shutil.which("sshd") or "sshd", "-D", "-f", str(keys / "config")]))
    wait_for(port)
    options = [f"IdentityFile={keys / 'user'}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    options += ["LogLevel=ERROR", "Ciphers=aes128-gcm@openssh.com"]
    flags = [word for option in options for word in ("-o", option)]

    def run(place: Place) -> Sample:
        command = ["scp", "-q", "-P", str(port), *flags, f"127.0.0.1:{place.source}", str(place.written / "one")]
        seconds, cpu, _ = timed(command)
        return Sample(seconds, seconds, cpu)

    return run


def curl(stack: ExitStack, place: Place) -> Run:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(place.served)]
    server = stack.enter_context(daemon(command))
    wait_for(port)

    def run(place: Place) -> Sample:
        command = ["curl", "-sS", "-o", str(place.written / "one"), f"http://127.0.0.1:{port}/one"]
        seconds, cpu, _ = timed(command, server.pid)
        return Sample(seconds, seconds, cpu)

    return run


ONE = (
    Contestant("C sendfile, C receive and write", ("cc",), c_pair("write")),
    Contestant("C sendfile, C splice", ("cc",), c_pair("splice")),
    Contestant("ours, put, not verified", (), ours("put", "--no-verify"), syncs=True),
    Contestant("ours, get, not verified", (), ours("get", "--no-verify"), syncs=True),
    Contestant("ours, put, verified", (), ours("put"), syncs=True),
    Contestant("ours, get, verified", (), ours("get"), syncs=True),
    Contestant("http.server, curl", ("curl",), curl),
    Contestant("rsync daemon", ("rsync",), rsync()),
    Contestant("scp (AES-GCM)", ("scp", "sshd", "ssh-keygen"), scp),
)
MANY = (
    Contestant("ours, put", (), ours("put", many=True), syncs=True),
    Contestant("ours, get", (), ours("get", many=True), syncs=True),
    Contestant("rsync daemon", ("rsync",), rsync(many=True)),
)
TARGETS = (
    ("ours, put, not verified", BEST_C, 0.85),
    ("ours, get, not verified", BEST_C, 0.85),
    ("ours, put, verified", BEST_C, 0.7),
    ("ours, get, verified", BEST_C, 0.7),
    ("ours, put, verified", "rsync daemon", 2.0),
    ("ours, get, verified", "rsync daemon", 2.0),
    ("ours, put, verified", "scp (AES-GCM)", 2.0),
    ("ours, get, verified", "scp (AES-GCM)", 2.0),
    ("ours, put, verified", "http.server, curl", 1.0),
    ("ours, get, verified", "http.server, curl", 1.0),
)
"""(ours, whose, at least so many times as fast)"""

Samples = dict[str, list[Sample]]


def measure(contestants: tuple[Contestant, ...], place: Place, rounds: int, remarks: list[str]) -> Samples:
    """All in turn, round by round."""
    samples: Samples = {}
    with ExitStack() as stack:
        runs = {}
        syncing = {contestant.name for contestant in contestants if contestant.syncs or not place.on_disk}
        for contestant in contestants:
            if missing := contestant.missing():
                remarks.append(f"{contestant.name} is left out: {missing} not installed")
                continue
            try:
                runs[contestant.name] = contestant.start(stack, place)
            except NotStarted as error:
                remarks.append(f"{contestant.name} is left out: {error}")
        for number in range(rounds):
            for name, run in runs.items():
                print(f"\rround {number + 1} of {rounds}: {name:<40}", end="", file=sys.stderr, flush=True)
                place.clear()
                sample = run(place)
                if name not in syncing:
                    seconds = place.sync()
                    sample = Sample(sample.transfer + seconds, sample.command + seconds, sample.cpu)
                samples.setdefault(name, []).append(sample)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return samples


def table(samples: Samples, unit: str, amount: float) -> Rows:
    """Rates with their spread, and processor time."""
    rows = [["", f"{unit} transfer", f"{unit} command", f"CPU s / {amount:g}"]]
    for name, taken in samples.items():
        rates = [Spread.of([amount / getattr(sample, which) for sample in taken]) for which in ("transfer", "command")]
        cpu = Spread.of([sample.cpu for sample in taken])
        rows.append([name, *map(ratio, rates), f"{cpu.median:.2f}"])
    return rows


def verdicts(one: Samples, many: Samples) -> Rows:
    """Each target beside what was measured: by transfer time, by the whole command, by processor time."""
    pair = [name for name in one if name.startswith("C ")]
    if pair:
        rounds = zip(*(one[name] for name in pair), strict=True)
        one = one | {BEST_C: [min(samples, key=lambda sample: sample.transfer) for samples in rounds]}
    rows = [["", "at least", "by transfer", "by command", "by processor time"]]
    for ours_, theirs, wanted in TARGETS:
        if ours_ in one and theirs in one:
            rows.append(_verdict(one[ours_], one[theirs], f"{ours_} / {theirs}", wanted))
    if "rsync daemon" in many:
        theirs_many = many["rsync daemon"]
        rows += [_verdict(many[name], theirs_many, f"{name}, small files / rsync daemon", 1.0) for name in many][:2]
    return rows


def _verdict(ours_: list[Sample], theirs: list[Sample], name: str, wanted: float) -> list[str]:
    spreads = [
        ratios([getattr(sample, which) for sample in theirs], [getattr(sample, which) for sample in ours_])
        for which in ("transfer", "command", "cpu")
    ]
    return [name, f"{wanted:g}", *map(ratio, spreads)]


def is_disk(directory: Path) -> bool:
    """Whether what is written there ends up on a disk."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], check=True, capture_output=True, text=True).stdout
    return kind.strip() not in ("tmpfs", "ramfs")


def run(*, full: bool, directory: Path = Path("/dev/shm"), size_mib: int = 0) -> Report:
    """Measure everything."""
    report = Report("file", machine.describe(("xxhash", "uvloop")))
    watch = machine.Watch()
    watch.start()
    size, files, rounds = (2 << 30, 10_000, 7) if full else (1 << 30, 2_000, 3)
    size = size_mib << 20 or size
    with tempfile.TemporaryDirectory(prefix="kernel-file-", dir=directory) as base:
        place = Place(Path(base), size, files, on_disk=is_disk(directory))
        place.make()
        one = measure(ONE, place, rounds, report.remarks)
        many = measure(MANY, place, rounds, report.remarks)
    report.others = watch.share_of_others()
    report.tables["one"] = table(one, "GB/s", size / 1e9)
    report.tables["many"] = table(many, "thousand files/s", files / 1e3)
    report.tables["targets"] = verdicts(one, many)
    report.remarks.append(f"one file of {size >> 20} MiB, {files} files of 4 KiB, {rounds} rounds, in {directory}")
    if place.on_disk:
        report.remarks.append("a disk: ours syncs before it answers, the others are followed by a sync that counts")
    report.data["samples"] = {
        name: [vars(sample) for sample in taken] for samples in (one, many) for name, taken in samples.items()
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.file", description=(__doc__ or "").partition("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="under 3 minutes (the default)")
    length.add_argument("--full", action="store_true", help="2 GiB, 10,000 files, 7 rounds")
    parser.add_argument(
        "--directory",
        type=Path,
        action="append",
        metavar="PATH",
        help="where files lie; several times: one by one [/dev/shm]",
    )
    parser.add_argument("--size", type=int, default=0, metavar="MIB", help="of the one file [1024, with --full 2048]")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the report as text, too")
    asked = parser.parse_args()
    texts = []
    for directory in asked.directory or [Path("/dev/shm")]:
        texts.append(run(full=asked.full, directory=directory, size_mib=asked.size).text())
        print(texts[-1], end="\n\n", flush=True)
    if asked.record is not None:
        asked.record.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
