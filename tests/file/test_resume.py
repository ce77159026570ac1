# ruff: noqa: ASYNC240
"""Transfers that are cut and taken up again, holes, quotas, damage on the way, files that change."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from file.conftest import Serving

from kernel import ChannelClosed
from kernel.plugins.file import partial, source
from kernel.plugins.file.client import FileClient, Report
from kernel.plugins.file.download import Destination
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.get import fetch
from kernel.plugins.file.messages import Policy
from kernel.plugins.file.sums import BLOCK_BYTES

GUARD_SECONDS = 120
BLOCKS = 24
NAME = b"large"


class Cut(Exception):
    """The line is dead."""


def cut_after(files: FileClient, nbytes: int) -> Callable[[int], None]:
    """End the connection, as if the cable were pulled, once so much has moved."""
    moved = 0

    def count(more: int) -> None:
        nonlocal moved
        moved += more
        if moved >= nbytes:
            assert files._client is not None
            files._client.abort()

    return count


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(BLOCKS * BLOCK_BYTES + 4711))
    return path


def leftovers(root: Path) -> list[str]:
    return os.listdir(root / ".kernel-file")


async def put_and_cut(endpoint: str, local: Path, nbytes: int, policy: Policy = "refuse") -> None:
    with pytest.raises((ChannelClosed, FileError)):
        async with FileClient(endpoint) as files:
            await files.put(local, NAME, policy=policy, moved=cut_after(files, nbytes))


async def put(endpoint: str, local: Path, policy: Policy = "refuse") -> Report:
    """Until the server has let go of what was cut."""
    while True:
        try:
            async with FileClient(endpoint) as files:
                return await files.put(local, NAME, policy=policy)
        except FileError as error:
            if error.kind != "busy":
                raise
        await asyncio.sleep(0.02)


async def test_a_put_goes_on_behind_what_is_there(serving: Serving, root: Path, local: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        await put_and_cut(endpoint, local, 16 * BLOCK_BYTES)
        assert not (root / "large").exists()
        report = await put(endpoint, local)
        assert (root / "large").read_bytes() == local.read_bytes()
        assert 0 < report.moved < local.stat().st_size
        assert "continued behind" in report.note
        assert leftovers(root) == []


async def test_another_content_starts_over_and_says_so(serving: Serving, root: Path, local: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        await put_and_cut(endpoint, local, 16 * BLOCK_BYTES)
        local.write_bytes(os.urandom(local.stat().st_size))
        report = await put(endpoint, local)
        assert (root / "large").read_bytes() == local.read_bytes()
        assert report.moved == local.stat().st_size
        assert "starting over" in report.note
        assert leftovers(root) == []


async def test_the_same_size_and_time_do_not_deceive(serving: Serving, root: Path, local: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        before = local.stat()
        await put_and_cut(endpoint, local, 16 * BLOCK_BYTES)
        local.write_bytes(os.urandom(before.st_size))
        os.utime(local, ns=(before.st_mtime_ns, before.st_mtime_ns))
        report = await put(endpoint, local)
        assert (root / "large").read_bytes() == local.read_bytes()
        assert report.moved == before.st_size
        assert "starting over" in report.note


async def test_after_a_crash_of_the_system_blocks_are_compared(
    serving: Serving, root: Path, local: Path, monkeypatch: pytest.MonkeyPatch
):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        await put_and_cut(endpoint, local, 16 * BLOCK_BYTES)
        await asyncio.sleep(0.2)
        part = next(name for name in leftovers(root) if name.endswith(".part"))
        with (root / ".kernel-file" / part).open("r+b") as file:  # what a power cut may do to pages
            file.seek(5 * BLOCK_BYTES)
            file.write(bytes(4096))
        monkeypatch.setattr(partial, "boot", lambda: b"another boot....")
        report = await put(endpoint, local)
        assert (root / "large").read_bytes() == local.read_bytes()
        assert report.moved == local.stat().st_size - 5 * BLOCK_BYTES


@pytest.mark.parametrize("cuts", [12])
async def test_cuts_anywhere_and_a_source_that_may_change(serving: Serving, root: Path, local: Path, cuts: int):
    """Byte-exact, whatever happens in between; `-m long` has more of it."""
    chance = random.Random(4711)
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        for _ in range(cuts):
            if chance.random() < 0.3:
                with local.open("r+b") as file:
                    file.seek(chance.randrange(BLOCKS) * BLOCK_BYTES)
                    file.write(os.urandom(10))
            await put_and_cut(endpoint, local, chance.randrange(1, 20) * BLOCK_BYTES, "replace")
            await asyncio.sleep(0)
        await put(endpoint, local, "replace")
        assert (root / "large").read_bytes() == local.read_bytes()
        assert leftovers(root) == []


async def get(endpoint: str, destination: Destination, nbytes: int = 1 << 60) -> Report:
    async with FileClient(endpoint) as files:
        return await fetch(files, NAME, NAME, destination, moved=cut_after(files, nbytes))


@pytest.mark.parametrize("changes", [False, True])
async def test_a_get_goes_on_or_starts_over(serving: Serving, root: Path, local: Path, tmp_path: Path, changes: bool):
    (root / "large").write_bytes(local.read_bytes())
    destination = Destination(str(tmp_path / "back"), "refuse")
    async with asyncio.timeout(GUARD_SECONDS), serving("") as endpoint:
        with pytest.raises(ChannelClosed):
            await get(endpoint, destination, 16 * BLOCK_BYTES)
        assert sorted(os.listdir(tmp_path / "back")) == [".large.kernel.part", ".large.kernel.sums"]
        if changes:
            (root / "large").write_bytes(os.urandom(local.stat().st_size))
        report = await get(endpoint, destination)
    destination.close()
    assert (tmp_path / "back" / "large").read_bytes() == (root / "large").read_bytes()
    assert ("starting over" if changes else "continued behind") in report.note
    assert (report.moved == local.stat().st_size) is changes
    assert os.listdir(tmp_path / "back") == ["large"]


# --- holes ---------------------------------------------------------------------------------------------------------


async def test_sparse_files_stay_sparse(serving: Serving, root: Path, tmp_path: Path):
    sparse = tmp_path / "large"
    size = 300 * BLOCK_BYTES + 5
    with sparse.open("wb") as file:
        file.truncate(size)
        for at in (3, 100, 299):
            file.seek(at * BLOCK_BYTES + 100)
            file.write(b"data")
    destination = Destination(str(tmp_path / "back"), "refuse")
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        await files.put(sparse, NAME)
        await fetch(files, NAME, NAME, destination)
    destination.close()
    for copy in (root / "large", tmp_path / "back" / "large"):
        assert copy.stat().st_size == size
        assert copy.stat().st_blocks * 512 <= 8 * BLOCK_BYTES
        assert copy.read_bytes() == sparse.read_bytes()


# --- quotas --------------------------------------------------------------------------------------------------------


async def test_quotas_hold(serving: Serving, root: Path, tmp_path: Path):
    (root / "there").write_bytes(bytes(1000))
    options = "writable=1&overwrite=1&total_bytes_max=3MiB&files_max=4&file_bytes_max=2MiB&depth_max=2&name_bytes_max=9"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint, FileClient(endpoint) as files:

        async def put(name: bytes, size: int, policy: Policy = "refuse") -> None:
            (tmp_path / "f").write_bytes(bytes(size))
            await files.put(tmp_path / "f", name, policy=policy, parents=True)

        with pytest.raises(FileError, match="the limit is 2097152"):
            await put(b"a", 2 * BLOCK_BYTES + 1)
        await put(b"a", 2 * BLOCK_BYTES)
        with pytest.raises(FileError, match="total_bytes_max"):
            await put(b"b", BLOCK_BYTES)
        await put(b"a", BLOCK_BYTES, "replace")
        await put(b"b", BLOCK_BYTES)
        await put(b"c", 10)
        with pytest.raises(FileError, match="files_max"):
            await put(b"d", 10)
        await files.remove(b"there")
        await put(b"d", 10)
        for name, word in ((b"e/f/g", "depth_max"), (b"0123456789", "name_bytes_max")):
            with pytest.raises(FileError, match=word):
                await put(name, 1)
        await files.remove(b"a")
        reading, writing = os.pipe()
        os.write(writing, b"piped")
        os.close(writing)
        assert (await files.put_stream(reading, b"e")).size == 5
        os.close(reading)
    assert leftovers(root) == []


async def test_control_characters_in_names_need_leave(serving: Serving, root: Path, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"x")
    every = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    plain = bytes(byte for byte in every if byte >= 32 and byte != 127)
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        await files.put(tmp_path / "f", plain)
        with pytest.raises(FileError, match="any_names=1"):
            await files.put(tmp_path / "f", b"a\nb")
    options = "writable=1&any_names=1"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint, FileClient(endpoint) as files:
        await files.put(tmp_path / "f", every)
        names = {entry.name async for entry in files.entries(b"")}
    assert names == {plain, every}


# --- damage, and files that change -----------------------------------------------------------------------------------


async def test_a_damaged_block_is_sent_again(
    serving: Serving, root: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The bytes of two blocks are wrong on their way, once; the receiver names them."""
    whole = local.read_bytes()
    wrong = {3, 7}
    sum_of = source.Source._block

    def lies(self: source.Source, index: int, *args: object, **kwargs: object) -> source.Outgoing:
        item = sum_of(self, index, *args, **kwargs)  # type: ignore[arg-type]
        if index in wrong:
            wrong.discard(index)
            return source.Outgoing(item.index, item.nbytes, bytes(15) + b"x", item.data)
        return item

    monkeypatch.setattr(source.Source, "_block", lies)
    destination = Destination(str(tmp_path / "back"), "refuse")
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        await files.put(local, NAME)
        assert not wrong
        assert (root / "large").read_bytes() == whole
        wrong |= {0, 23}
        await fetch(files, NAME, NAME, destination)
        assert not wrong
    destination.close()
    assert (tmp_path / "back" / "large").read_bytes() == whole


@pytest.mark.parametrize("summed", [True, False])
async def test_a_file_that_changes_while_it_is_sent_is_noticed(serving: Serving, root: Path, local: Path, summed: bool):
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint, summed=summed) as files:
        changed = False

        def change(_nbytes: int) -> None:
            nonlocal changed
            if not changed:
                changed = True
                with local.open("r+b") as file:
                    file.seek(100)
                    file.write(b"other")

        with pytest.raises(FileError, match="changed while it was sent"):
            await files.put(local, NAME, moved=change)
        assert not (root / "large").exists()
        await files.put(local, NAME)  # the channel is good for the next one
        assert (root / "large").read_bytes() == local.read_bytes()
    assert leftovers(root) == []
