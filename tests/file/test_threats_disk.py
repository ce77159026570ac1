# ruff: noqa: ASYNC230, ASYNC240, SIM117
"""Disks that fill up and disks that fail: a clear line, nothing under the name, nothing acknowledged falsely."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file.conftest import Serving

from kernel.plugins.file import partial
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.download import Destination
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.get import fetch
from kernel.plugins.file.messages import Failed, SmallFile, Stored
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum

GUARD_SECONDS = 120
MIB = 1024 * 1024


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """The root on a disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield root
    subprocess.run(["umount", "-l", root], check=True)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(os.urandom(3 * BLOCK_BYTES + 5))
    return path


def visible(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root) if name != ".kernel-file")


async def test_a_full_disk_is_said_in_one_line_and_the_upload_goes_on_when_there_is_room(
    serving: Serving, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    local = tmp_path / "local"
    local.write_bytes(os.urandom(6 * MIB))
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        (small_disk / "taken").write_bytes(bytes(5 * MIB))
        with pytest.raises(FileError, match="do not fit") as refused:  # known before a byte is sent
            await files.put(local, b"victim")
        assert refused.value.kind == "full"
        (small_disk / "taken").unlink()

        write_all = partial._write_all

        def filling(fd: int, data: bytes, offset: int) -> None:
            """Somebody else takes what is left of the disk when three blocks are there."""
            if offset >= 3 * MIB:
                with contextlib.suppress(OSError):
                    (small_disk / "taken").write_bytes(bytes(8 * MIB))
            write_all(fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(partial, "_write_all", filling)
            with pytest.raises(FileError, match="disk is full") as failed:
                await files.put(local, b"victim")
        assert failed.value.kind == "full"
        assert "\n" not in str(failed.value)
        assert visible(small_disk) == ["taken"]
        (small_disk / "taken").write_bytes(bytes(MIB // 2))  # room for what is missing, not for the whole
        report = await files.put(local, b"victim")
        assert (small_disk / "victim").read_bytes() == local.read_bytes()
        assert report.moved == 3 * MIB, "what had come was kept"


async def test_a_full_disk_holds_no_small_file_either(serving: Serving, small_disk: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        data = os.urandom(20_000)
        stored = 0
        outcomes: list[Stored | Failed] = []
        while not any(isinstance(outcome, Failed) for outcome in outcomes):
            batch = [SmallFile(b"%d" % (stored + n), 1, 0o644, block_sum([data]), data) for n in range(10)]
            outcomes = await files.put_small(batch, "refuse")
            stored += sum(isinstance(outcome, Stored) for outcome in outcomes)
        assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failed)} == {"full"}
        assert len(visible(small_disk)) == stored > 100
        assert all((small_disk / name).read_bytes() == data for name in visible(small_disk))


async def test_a_stream_fills_a_disk(serving: Serving, small_disk: Path, tmp_path: Path):
    (tmp_path / "stream").write_bytes(bytes(10 * MIB))
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        with open(tmp_path / "stream", "rb") as stream, pytest.raises(FileError, match="full"):
            await files.put_stream(stream.fileno(), b"victim")
        assert visible(small_disk) == []
        with open(tmp_path / "local", "wb") as file:
            file.write(bytes(5 * MIB))
        await files.put(tmp_path / "local", b"room")


class Failing:
    """The system's calls, of which one fails: `os` as the module under test sees it."""

    def __init__(self, call: str, which: Callable[..., bool]) -> None:
        self._call = call
        self._which = which
        self.failures = 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name != self._call:
            return real

        def call(*args: object, **options: object) -> object:
            if self._which(*args):
                self.failures += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **options)

        return call


def is_directory(fd: object, *_: object) -> bool:
    return os.path.isdir(f"/proc/self/fd/{fd}")


def is_file(fd: object, *_: object) -> bool:
    return not is_directory(fd)


def late_block(_fd: object, _data: object, offset: int) -> bool:
    return offset >= 2 * BLOCK_BYTES


def always(*_: object) -> bool:
    return True


def fail_renames(monkeypatch: pytest.MonkeyPatch, failing: Failing) -> None:
    def fail(*_: object) -> None:
        failing.failures += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial, "rename_new", fail)


FAILURES = {
    "a write": ("pwrite", late_block),
    "the first write": ("pwrite", always),
    "the sync of the file": ("fsync", is_file),
    "the sync of the directory": ("fsync", is_directory),
    "the rename": ("rename", always),
    "setting the length": ("ftruncate", always),
    "setting the mode": ("fchmod", always),
    "setting the time": ("utime", always),
}


@pytest.mark.parametrize("policy", ["refuse", "rename", "replace"])
@pytest.mark.parametrize("what", FAILURES)
async def test_a_disk_that_fails_acknowledges_nothing(
    what: str, policy: str, serving: Serving, root: Path, local: Path, monkeypatch: pytest.MonkeyPatch
):
    old = b"old" if policy == "replace" else None
    if old is not None:
        (root / "victim").write_bytes(old)
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        failing = Failing(*FAILURES[what])
        with monkeypatch.context() as patch:
            patch.setattr(partial, "os", failing)
            if what == "the rename" and policy != "replace":
                fail_renames(patch, failing)
            with pytest.raises(FileError, match=r"the disk failed \(EIO\)") as failed:
                await files.put(local, b"victim", policy=policy)  # type: ignore[arg-type]
            await files.stat(b"")  # behind it the server has cleaned up
        assert failing.failures
        assert failed.value.kind == "io"
        assert "\n" not in str(failed.value)
        if old is None:
            assert visible(root) == []
        else:
            assert (root / "victim").read_bytes() in (
                {old, local.read_bytes()} if what.endswith("directory") else {old}
            )
        assert [name for name in os.listdir(root / ".kernel-file") if name.endswith(".part")] == []
        report = await files.put(local, b"victim", policy="replace")
        assert report.moved == report.size, "nothing of a disk that failed is built upon"
        assert (root / "victim").read_bytes() == local.read_bytes()


@pytest.mark.parametrize("what", FAILURES)
async def test_small_files_on_a_disk_that_fails(
    what: str, serving: Serving, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each that is acknowledged is there; where the directory may not be on disk, none of them is acknowledged."""
    from kernel.plugins.file import small as writer

    def small(path: bytes) -> SmallFile:
        return SmallFile(path, 1, 0o644, block_sum([b"x"]), b"x")

    names = [b"a/1", b"a/2", b"b/1"]
    for directory in ("a", "b"):
        (root / directory).mkdir()
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1&overwrite=1") as endpoint:
        async with FileClient(endpoint) as files:
            call, which = {"pwrite": ("write", always), "rename": ("link", always)}.get(
                FAILURES[what][0], FAILURES[what]
            )
            failing = Failing(call, which)
            with monkeypatch.context() as patch:
                patch.setattr(partial, "os", failing)
                patch.setattr(writer, "os", failing)
                outcomes = await files.put_small([small(name) for name in names], "refuse")
            if not failing.failures:
                pytest.skip("small files do not need that")
            assert {getattr(outcome, "kind", "stored") for outcome in outcomes} == {"io"}
            assert all("EIO" in outcome.text for outcome in outcomes if isinstance(outcome, Failed))
            assert [
                outcome
                for outcome in await files.put_small([small(name) for name in names], "replace")
                if not isinstance(outcome, Stored)
            ] == []


async def test_a_directory_that_cannot_be_synced_takes_back_what_was_said_of_its_files(
    serving: Serving, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Files are synced a directory at a time: the failure of one is not the next one's."""
    from kernel.plugins.file import small as writer

    def fail_first(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/a"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    for directory in ("a", "b"):
        (root / directory).mkdir()
    monkeypatch.setattr(writer, "fsync_directory", fail_first)
    small = [SmallFile(name, 1, 0o644, block_sum([b"x"]), b"x") for name in (b"a/1", b"a/2", b"b/1")]
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        outcomes = await files.put_small(small, "refuse")
    assert [isinstance(outcome, Stored) for outcome in outcomes] == [False, False, True]


@pytest.mark.parametrize("what", ["a write", "the sync of the file", "the sync of the directory"])
async def test_a_client_whose_disk_fails_has_fetched_nothing(
    what: str, serving: Serving, root: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (root / "f").write_bytes(local.read_bytes())
    async with asyncio.timeout(GUARD_SECONDS), serving("") as endpoint, FileClient(endpoint) as files:
        destination = Destination(str(tmp_path / "here"), "refuse")
        with monkeypatch.context() as patch:
            patch.setattr(partial, "os", Failing(*FAILURES[what]))
            with pytest.raises(FileError, match="EIO") as failed:
                await fetch(files, b"f", b"f", destination)
            await files.stat(b"")
        assert "\n" not in str(failed.value)
        assert "f" not in os.listdir(tmp_path / "here")
        await fetch(files, b"f", b"f", destination)
        assert (tmp_path / "here" / "f").read_bytes() == local.read_bytes()
        destination.close()
