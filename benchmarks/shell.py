"""Remote commands, beside ssh: `python -m benchmarks.shell` (short, under 3 minutes) or `--full`.

`cat bigfile` through each, and `true` through each, over the loopback, all contestants in turn in every round; what is
told is the median of the rounds with its quartiles, and ratios taken within each round. Then the time from a key to its
echo in a terminal, alone and beside a command that floods another connection of the same server.

ssh runs its own sshd on a loopback port, with keys made for the occasion; without sshd it is left out. Both programs'
times hold the start of the client. Of ours, `tls` is encrypted as ssh is; `tcp` proves its key and is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.report import Report, Rows
from kernel import MIB, dial
from kernel.bench import machine
from kernel.bench.timing import Spread, ratios
from kernel.plugins.shell.client import Remote  # type: ignore[import-untyped]  # mypy knows it as plugins.shell
from kernel.plugins.shell.protocol import Kind, Request, Started, Terminal  # type: ignore[import-untyped]

KERNEL = str(Path(sys.executable).with_name("kernel"))
SSHD = shutil.which("sshd") or next(filter(os.path.exists, ["/usr/sbin/sshd"]), None)
_START_SECONDS_MAX = 60.0
_KEYS = 300

Command = list[str]


@contextmanager
def kernel_server(place: Path) -> Iterator[dict[str, Command]]:
    """Our server; for each contestant the command before the remote one."""
    ready, key = place / "ready.json", place / "shell.key"
    subprocess.run([KERNEL, "keys", "new", str(key)], check=True, capture_output=True)
    listen = [f"unix:{place}/shell.sock", "tcp://127.0.0.1:0", f"tls+tcp://127.0.0.1:0?self_signed={place}/own.pem"]
    flags = [flag for endpoint in listen for flag in ("--listen", endpoint)]
    command = [KERNEL, "serve", "--plugin", "shell?free=1&pty=1", *flags, "--secret-file", str(key), "-q"]
    server = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.DEVNULL)
    try:
        _until(ready.exists)
        endpoints = json.loads(ready.read_text())["endpoints"]
        secret = ["--secret-file", str(key)]
        yield {
            "kernel unix": [KERNEL, "shell", endpoints[0], "--"],
            "kernel tcp": [KERNEL, "shell", endpoints[1], *secret, "--"],
            "kernel tls": [KERNEL, "shell", endpoints[2], *secret, "--"],
        }
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@contextmanager
def ssh_server(place: Path) -> Iterator[dict[str, Command]]:
    """An sshd of our own, if there is one."""
    if SSHD is None or shutil.which("ssh") is None:
        yield {}
        return
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    (place / "authorized").write_text((place / "user.pub").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": place / "host",
        "AuthorizedKeysFile": place / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
    }
    if not Path("/run/sshd").exists() and os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755)
    flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
    server = subprocess.Popen([SSHD, "-D", "-f", "/dev/null", *flags], stderr=subprocess.DEVNULL)
    try:
        try:
            _until(lambda: _answers(port) or server.poll() is not None)
        except SystemExit:
            server.kill()
        if server.poll() is not None:
            yield {}
            return
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        yield {"ssh": ["ssh", "-F", "none", "-T", "-p", str(port), "-i", str(place / "user"), *quiet, "127.0.0.1"]}
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("a server did not start")
        time.sleep(0.02)


def timed(command: Command) -> float:
    """Seconds from the start of a client to its end; its output goes nowhere."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120)
    return time.perf_counter() - started


def in_turn(contestants: dict[str, Command], remote: Command, rounds: int) -> dict[str, list[float]]:
    """Every contestant in every round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, command in contestants.items():
            seconds = timed([*command, *remote])
            if number:
                times[name].append(seconds)
    return times


class Keys:
    """A terminal in which `cat` runs: types a key when the last one has come back, and notes how long it took."""

    def __init__(self) -> None:
        self.remote = Remote(self, Request(["cat"], terminal=Terminal()))
        self.times: list[float] = []
        self.finished = asyncio.Event()
        self._typed_at = 0.0

    def started(self, started: Started) -> None:
        self._type()

    def _type(self) -> None:
        self._typed_at = time.perf_counter()
        self.remote.send_input(b"k")

    def output(self, stream: Kind, data: memoryview) -> None:
        self.remote.consumed(stream, len(data))
        self.times.append(time.perf_counter() - self._typed_at)
        if len(self.times) < _KEYS:
            asyncio.get_running_loop().call_later(0.003, self._type)
        else:
            self.finished.set()

    def input_taken(self, nbytes: int) -> None:
        """One key at a time needs no window."""


async def key_times(endpoint: str) -> list[float]:
    """Seconds from key to echo."""
    keys = Keys()
    async with dial(endpoint) as client:
        await client.open("shell", handler=keys.remote)
        async with asyncio.timeout(60):
            await keys.finished.wait()
    return sorted(keys.times)


def run(*, full: bool) -> Report:
    """Measure everything."""
    size, rounds, starts = (1024 * MIB, 9, 21) if full else (256 * MIB, 5, 9)
    report = Report("shell", machine.describe())
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        with (place / "big").open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        contestants = stack.enter_context(kernel_server(place)) | stack.enter_context(ssh_server(place))
        if "ssh" not in contestants:
            report.remarks.append("there is no sshd, or it does not start: there is nothing to compare with")
        moved = in_turn(contestants, ["cat", str(place / "big")], rounds)
        started = in_turn(contestants, ["true"], starts)
        report.tables["streams"] = _table("MiB/s", moved, lambda seconds: size / MIB / seconds)
        report.tables["starts"] = _table("`true`, ms", started, lambda seconds: seconds * 1e3)
        endpoint = contestants["kernel unix"][2]
        alone = asyncio.run(key_times(endpoint))
        flood = subprocess.Popen([*contestants["kernel unix"], "yes"], stdout=subprocess.DEVNULL)
        try:
            beside = asyncio.run(key_times(endpoint))
        finally:
            flood.terminate()
            flood.wait(30)
    rows: Rows = [["key to echo, ms", "median", "99th percentile"]]
    for name, times in (("alone", alone), ("beside a flood", beside)):
        rows.append([name, f"{times[len(times) // 2] * 1e3:.2f}", f"{times[len(times) * 99 // 100] * 1e3:.2f}"])
    report.tables["keys"] = rows
    report.data = {
        "streams_seconds": moved,
        "starts_seconds": started,
        "keys_seconds": {"alone": alone, "beside": beside},
    }
    return report


def _table(unit: str, times: dict[str, list[float]], shown: Callable[[float], float]) -> Rows:
    rows: Rows = [[unit, "median", "quartiles", "speed beside ssh"]]
    for name, samples in times.items():
        spread = Spread.of([shown(seconds) for seconds in samples])
        beside = f"{ratios(times['ssh'], samples).median:.2f}" if "ssh" in times else ""
        rows.append([name, f"{spread.median:.0f}", f"{spread.low:.0f} to {spread.high:.0f}", beside])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1 GiB and more rounds")
    parser.add_argument("--short", action="store_true", help="256 MiB, the default")
    parser.add_argument("--record", type=Path, metavar="DIRECTORY", help="write shell.json there, too")
    arguments = parser.parse_args()
    report = run(full=arguments.full)
    print(report.text())
    if arguments.record is not None:
        report.write(arguments.record)


if __name__ == "__main__":
    main()
