"""Much at once, and many in a row, between two processes: nothing is changed, memory stays small, loss is told.

The client checks what comes back byte by byte; for streams a checksum of what it printed is compared as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from acceptance.conftest import GUARD_SECONDS, KERNEL, Serve

from kernel.plugins.echo.client import Plan, run
from kernel.plugins.echo.payload import Payload, generated
from kernel.plugins.echo.report import Tally, lines

MIB = 1024 * 1024
MEMORY_BYTES_MAX = 96 * MIB


def memory_bytes(process: int) -> int:
    """The most that the process has held in memory so far."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


def random_file(path: Path, size: int) -> str:
    """Fill a file; the checksum of what is in it."""
    checksum = hashlib.blake2b()
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            block = os.urandom(MIB)
            checksum.update(block)
            file.write(block)
    return checksum.hexdigest()


@pytest.mark.parametrize("size", [32 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.long)])
@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "unix:{}/echo.sock", "tcp://127.0.0.1:0?framing=raw"])
def test_one_message_comes_back_as_it_was_and_is_never_whole_in_memory(
    serve: Serve, tmp_path: Path, listen: str, size: int
) -> None:
    server = serve(listen.format(tmp_path))
    data = tmp_path / "data"
    sent = random_file(data, size)

    received = hashlib.blake2b()
    with data.open("rb") as file:
        command = [KERNEL, "echo", server.endpoints[0], "--whole", "--timeout", "60"]
        client = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert client.stdout is not None
    while block := client.stdout.read(MIB):
        received.update(block)
    _, report = client.communicate()

    assert (client.returncode, received.hexdigest()) == (0, sent), report
    assert report.startswith(b"1 sent, 1 received, 0 lost (0%), 0 corrupt")
    assert memory_bytes(server.process.pid) < MEMORY_BYTES_MAX


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("listen", ["udp://127.0.0.1:0", "udp://127.0.0.1:0?framing=raw"])
async def test_datagrams_of_all_sizes_come_back_or_are_reported_lost(
    serve: Serve, listen: str, count: int, record_property: Callable[[str, object], None]
) -> None:
    server = serve(listen)

    async def payloads(_boundaries: bool) -> AsyncIterator[Payload]:
        for number in range(1, count + 1):
            yield generated(number, 1 + number * 7919 % 60_000)

    tally = Tally()
    plan = Plan(server.endpoints[0], "echo", payloads, lambda part: part, timeout_seconds=1.0, in_flight=4)
    async with asyncio.timeout(GUARD_SECONDS):
        await run(plan, tally)

    print(lines(tally))
    record_property("loss_percent", 100 * tally.lost / tally.sent)
    assert tally.sent == count == tally.received + tally.lost
    assert tally.corrupt == tally.unexpected == 0
    assert tally.received > count / 2
    assert memory_bytes(server.process.pid) < MEMORY_BYTES_MAX
