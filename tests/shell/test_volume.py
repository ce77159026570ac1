"""1 GiB through `cat` and back, as a person pipes it: byte for byte, and neither side grows."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from .conftest import KERNEL, Serve

MIB = 1 << 20
SIZE = 1024 * MIB
GROWTH_MAX = 48 * MIB


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


@pytest.mark.long
def test_a_gibibyte_there_and_back(serve: Serve, environ: dict[str, str]):
    server = serve("[plugin.shell]\nfree = true")
    command = [KERNEL, "shell", server.endpoints[0], "--", "cat"]
    block = os.urandom(MIB)
    sent, got = hashlib.sha256(), hashlib.sha256()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"x")
        client.stdin.flush()
        assert client.stdout.read(1) == b"x"
        before = [peak_bytes(pid) for pid in (client.pid, server.process.pid)]

        def feed() -> None:
            assert client.stdin is not None
            for number in range(SIZE // MIB):
                piece = number.to_bytes(8, "big") + block[8:]
                sent.update(piece)
                client.stdin.write(piece)
            grown.extend(peak_bytes(pid) for pid in (client.pid, server.process.pid))
            client.stdin.close()

        grown: list[int] = []
        feeder = threading.Thread(target=feed)
        feeder.start()
        size = 0
        while piece := client.stdout.read(MIB):
            size += len(piece)
            got.update(piece)
        feeder.join()
        assert client.wait(30) == 0
    assert (size, got.digest()) == (SIZE, sent.digest())
    print("grown by", [after - first for after, first in zip(grown, before, strict=True)])
    assert all(after - first < GROWTH_MAX for after, first in zip(grown, before, strict=True))
