"""One file, there and back: byte-exact, on every transport, and there only when whole."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from file.conftest import Serving

from kernel import NeedsCapability, Server
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.download import Destination
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.get import fetch
from kernel.plugins.file.names import STATE_DIRECTORY
from kernel.plugins.file.sums import BLOCK_BYTES, SUM_BYTES, block_sum, digest

GUARD_SECONDS = 120
SIZES = [0, 1, 4096, 32 * 1024, 32 * 1024 + 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 17]


def expected_digest(data: bytes) -> bytes:
    sums = b"".join(block_sum([data[at : at + BLOCK_BYTES]]) for at in range(0, len(data), BLOCK_BYTES))
    assert len(sums) == -(-len(data) // BLOCK_BYTES) * SUM_BYTES
    return digest(sums, len(data))


def leftovers(root: Path) -> list[str]:
    return sorted(os.listdir(root / os.fsdecode(STATE_DIRECTORY)))


@pytest.fixture(params=["tcp", "unix", "tls"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path}/s.sock",
        "tls": f"tls+tcp://127.0.0.1:0?self_signed={tmp_path}/own.pem",
    }[str(request.param)]


@pytest.mark.parametrize("summed", [True, False], ids=["verified", "not verified"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
async def test_a_file_goes_there_and_back(
    listen: str, summed: bool, packed: bool, serving: Serving, root: Path, tmp_path: Path
):
    async with asyncio.timeout(GUARD_SECONDS), serving(listen=listen) as endpoint:
        async with FileClient(endpoint, summed=summed, packed=packed) as files:
            for size in SIZES:
                data = os.urandom(size // 2) + bytes(size - size // 2)
                local = tmp_path / "local"
                local.write_bytes(data)
                os.chmod(local, 0o640)
                os.utime(local, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
                name = b"file-%d" % size
                report = await files.put(local, name)
                stored = root / os.fsdecode(name)
                assert stored.read_bytes() == data
                assert stored.stat().st_mode & 0o777 == 0o640
                assert stored.stat().st_mtime_ns == 1_700_000_000_123_456_789
                assert report.digest == (expected_digest(data) if summed else b"")
                destination = Destination(str(tmp_path / "back"), "refuse")
                got = await fetch(files, name, name, destination)
                assert (tmp_path / "back" / os.fsdecode(name)).read_bytes() == data
                assert got.digest == report.digest
                destination.close()
        assert leftovers(root) == []
        assert sorted(os.listdir(tmp_path / "back")) == sorted(f"file-{size}" for size in SIZES)


async def test_what_exists_is_left_alone_unless_asked(serving: Serving, root: Path, tmp_path: Path):
    local = tmp_path / "local"
    local.write_bytes(b"new")
    (root / "a.txt").write_bytes(b"old")
    (root / "directory").mkdir()
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        with pytest.raises(FileError, match=r"a\.txt: it exists"):
            await files.put(local, b"a.txt")
        assert (root / "a.txt").read_bytes() == b"old"
        assert (await files.put(local, b"a.txt", policy="rename")).path == b"a-1.txt"
        assert (await files.put(local, b"a.txt", policy="rename")).path == b"a-2.txt"
        assert (await files.put(local, b"a.txt", policy="replace")).path == b"a.txt"
        assert {name: (root / name).read_bytes() for name in ("a.txt", "a-1.txt", "a-2.txt")} == dict.fromkeys(
            ("a.txt", "a-1.txt", "a-2.txt"), b"new"
        )
        with pytest.raises(FileError, match="a directory is there"):
            await files.put(local, b"directory", policy="replace")


async def test_datagrams_are_refused_in_one_line(root: Path):
    with pytest.raises(NeedsCapability, match="the service 'file' needs") as refused:
        await Server([f"file?root={root}"], ["udp://127.0.0.1:0"]).start()
    assert "\n" not in str(refused.value)
    assert "serve it on tcp:// or unix:" in str(refused.value)


async def test_a_server_is_read_only_until_told_otherwise(serving: Serving, root: Path, tmp_path: Path):
    (root / "there").write_bytes(b"x")
    local = tmp_path / "local"
    local.write_bytes(b"new")
    async with asyncio.timeout(GUARD_SECONDS), serving("") as endpoint, FileClient(endpoint) as files:
        assert not files.welcome.writable
        for attempt in (files.put(local, b"a"), files.remove(b"there"), files.make_directory(b"d")):
            with pytest.raises(FileError, match="read-only"):
                await attempt
        assert os.listdir(root) == ["there"]
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1") as endpoint, FileClient(endpoint) as files:
        await files.put(local, b"a")
        with pytest.raises(FileError, match="removes nothing"):
            await files.remove(b"there")
        with pytest.raises(FileError, match="replaces nothing"):
            await files.put(local, b"there", policy="replace")
        assert (root / "there").read_bytes() == b"x"
