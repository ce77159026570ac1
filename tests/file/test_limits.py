# ruff: noqa: SIM117
"""What transfers may hold of a server: places, patience, and room, that of unfinished uploads too."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from file.conftest import Serving
from file.hands import Hand
from file.hosts import Hosting, hosting as hosting

from kernel import ChannelClosed, Code, Peer, Principal
from kernel.plugins.file import client as client_module, partial
from kernel.plugins.file.client import FileClient, open_local
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.messages import (
    End,
    Entries,
    Entry,
    Failed,
    Get,
    Message,
    Put,
    Ready,
    Source,
    Start,
    Stat,
    Stored,
)
from kernel.plugins.file.places import Places
from kernel.plugins.file.source import Source as FileSource
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum, digest
from kernel.plugins.file.threads import Ahead
from kernel.plugins.file.wire import Wire

GUARD_SECONDS = 60
BLOCK = os.urandom(BLOCK_BYTES)
THREE = 3 * BLOCK_BYTES


def unfinished(root: Path) -> list[str]:
    return sorted(name.rpartition(".")[2] for name in os.listdir(root / ".kernel-file"))


async def until_unfinished(root: Path, wanted: list[str]) -> None:
    while unfinished(root) != wanted:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def begun(hand: Hand, path: bytes, size: int = THREE) -> None:
    """An upload of which one block is on the server's disk."""
    await hand.begin(path, size)
    hand.block(0, BLOCK)


async def kept(endpoint: str, root: Path, path: bytes, size: int = THREE) -> None:
    """An upload that is cut behind its first block."""
    before = unfinished(root).count("part")
    async with Hand(endpoint) as hand:
        await begun(hand, path, size)
        while [p.stat().st_size for p in (root / ".kernel-file").glob("*.part")].count(BLOCK_BYTES) <= before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    while not all(free(part) for part in (root / ".kernel-file").glob("*.part")):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def free(part: Path) -> bool:
    """Whether the server has let go of it."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# --- patience ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", ["at the start", "behind a block", "inside a block"])
async def test_an_upload_that_stalls_loses_its_place_and_goes_on_later(
    silent: str, serving: Serving, root: Path, tmp_path: Path
):
    options = "writable=1&stalled_seconds_max=0.3&uploads_max=1"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint, Hand(endpoint) as hand:
        if silent == "at the start":
            hand.say(Put(b"victim", THREE, 1, 0o644, "refuse"))
            assert isinstance(await hand.hear(), Ready)
        else:
            await begun(hand, b"victim")
        if silent == "inside a block":
            hand.say(b"\x95\x28\x01" + b"\xce\x00\x10\x00\x00" + b"\xc4\x10" + block_sum([BLOCK]) + b"\x00")
        with pytest.raises(ChannelClosed) as closed:
            await hand.hear()
        assert closed.value.code is Code.IDLE
        assert "stalled_seconds_max" in closed.value.reason
        assert "repeat to continue" in closed.value.reason
        held = ["part", "sums"] if silent != "at the start" else []
        await until_unfinished(root, held)
        local = tmp_path / "local"
        local.write_bytes(BLOCK * 3)
        os.utime(local, ns=(1, 1))
        async with FileClient(endpoint) as files:  # the one place is free
            report = await files.put(local, b"victim")
        assert report.moved == (THREE - BLOCK_BYTES if held else THREE)
        assert (root / "victim").read_bytes() == BLOCK * 3


async def test_a_client_that_is_refused_and_says_no_more_loses_its_place(serving: Serving, root: Path):
    options = "writable=1&stalled_seconds_max=0.3&file_bytes_max=10"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint, Hand(endpoint) as hand:
        await hand.begin(b"victim", -1)
        for index in range(8):
            hand.block(index, BLOCK)
        assert isinstance(await hand.hear(), Failed)
        with pytest.raises(ChannelClosed) as closed:
            await hand.hear()
        assert closed.value.code is Code.IDLE


async def test_a_slow_client_is_no_silent_one(serving: Serving, root: Path):
    """Each byte is a sign of life, however few they are."""
    async with (
        asyncio.timeout(GUARD_SECONDS),
        serving("writable=1&stalled_seconds_max=1") as endpoint,
        Hand(endpoint) as hand,
    ):
        await hand.begin(b"slow", -1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        index = 0
        while loop.time() - began < 2.5:
            hand.block(index, BLOCK)
            index += 1
            await asyncio.sleep(0.1)
        assert hand.wire.channel.code is None


async def test_a_silent_upload_of_a_simple_client_ends(serving: Serving, root: Path):
    listen = "tcp://127.0.0.1:0?dialect=upload"
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1&stalled_seconds_max=0.2", listen) as endpoint:
        host, port = endpoint.partition("//")[2].partition("?")[0].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b'{"filename": "a", "filesize": 9000000}'
        writer.write(struct.pack("<i", len(head)) + head + BLOCK)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await until_unfinished(root, [])
    assert os.listdir(root) == [".kernel-file"]


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["uploads_max", "uploads_per_principal_max"])
async def test_uploads_have_places(option: str, serving: Serving, root: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving(f"writable=1&{option}=2") as endpoint:
        async with Hand(endpoint) as third:
            async with Hand(endpoint) as first, Hand(endpoint) as second:
                await begun(first, b"1")
                await begun(second, b"2")
                with pytest.raises(FileError, match=rf"2 uploads .*are under way.*\({option}\)") as refused:
                    await third.begin(b"3", THREE)
                assert refused.value.kind == "busy"
                third.say(Stat(b""))  # the refused one may go on with other things
                assert isinstance(await third.hear(), Entries)
            await until_unfinished(root, ["part", "part", "sums", "sums"])
            while True:
                third.say(Put(b"3", THREE, 1, 0o644, "refuse"))
                if not isinstance(await third.hear(), Failed):
                    break


async def test_downloads_have_places(serving: Serving, root: Path):
    (root / "large").write_bytes(os.urandom(40 * BLOCK_BYTES))  # more than can be on its way
    options = "downloads_per_principal_max=1"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint:
        async with Hand(endpoint) as first, Hand(endpoint) as second:
            first.say(Get(b"large"))
            await first.wire.expect(Source)
            second.say(Get(b"large"))
            with pytest.raises(FileError, match=r"1 downloads of yours are under way"):
                await second.wire.expect(Source)


def test_places_belong_to_principals_and_where_there_are_none_to_addresses():
    places = Places("uploads", total_max=4, principal_max=1)
    ada = Principal("ada", "hmac")
    taken = [
        places.taken(Peer("10.0.0.1:5", "tcp", ada)),
        places.taken(Peer("10.0.0.1:6", "tcp")),
        places.taken(Peer("10.0.0.2:5", "tcp")),
        places.taken(Peer("[::1]:5", "tcp")),
    ]
    for place in taken:
        place.__enter__()
    for refused, why in (
        (Peer("10.9.9.9:5", "tcp", ada), "1 uploads of yours"),
        (Peer("10.0.0.1:7", "tcp"), "1 uploads of yours"),
        (Peer("10.0.0.3:5", "tcp"), "4 uploads are"),
    ):
        with pytest.raises(FileError, match=why), places.taken(refused):
            pass
    for place in taken:
        place.__exit__(None, None, None)
    with places.taken(Peer("10.0.0.3:5", "tcp", ada)):
        pass


# --- room ----------------------------------------------------------------------------------------------------------


async def test_unfinished_uploads_count(serving: Serving, root: Path, tmp_path: Path):
    """Also those that were there when the server started; whoever takes one up again needs no second room."""
    options = f"writable=1&overwrite=1&total_bytes_max={5 * BLOCK_BYTES}"
    local = tmp_path / "local"
    async with asyncio.timeout(GUARD_SECONDS):
        for _ in range(2):
            async with serving(options) as endpoint, FileClient(endpoint) as files:
                for name in (b"1", b"2") if not unfinished(root) else ():
                    await kept(endpoint, root, name)
                local.write_bytes(BLOCK * 4)
                with pytest.raises(FileError, match=r"2097152 bytes are stored \(2 unfinished uploads among them\)"):
                    await files.put(local, b"victim")
        async with serving(options) as endpoint, FileClient(endpoint) as files:
            local.write_bytes(BLOCK * 3)
            os.utime(local, ns=(1, 1))
            assert (await files.put(local, b"1")).moved == 2 * BLOCK_BYTES
            with pytest.raises(FileError, match=r"4194304 bytes are stored \(1 unfinished"):
                await files.put(local, b"2")
            await files.remove(b"1")
            assert (await files.put(local, b"2")).moved == 2 * BLOCK_BYTES
            assert unfinished(root) == []
            local.write_bytes(BLOCK * 2)
            await files.put(local, b"fits to the last byte")


async def test_unfinished_uploads_count_as_files(serving: Serving, root: Path, tmp_path: Path):
    (tmp_path / "local").write_bytes(b"x")
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1&files_max=2") as endpoint:
        async with FileClient(endpoint) as files:
            await kept(endpoint, root, b"1")
            await files.put(tmp_path / "local", b"2")
            with pytest.raises(FileError, match=r"2 files are stored \(1 unfinished uploads among them\).*files_max"):
                await files.put(tmp_path / "local", b"3")
            (tmp_path / "local").write_bytes(BLOCK * 3)
            await files.put(tmp_path / "local", b"1")


async def test_what_is_swept_gives_its_room_back(serving: Serving, root: Path, tmp_path: Path):
    options = f"writable=1&total_bytes_max={3 * BLOCK_BYTES}"
    async with asyncio.timeout(GUARD_SECONDS):
        async with serving(options) as endpoint:
            await kept(endpoint, root, b"1")
        async with serving(options + "&partials_seconds=0") as endpoint, FileClient(endpoint) as files:
            await until_unfinished(root, [])
            (tmp_path / "local").write_bytes(BLOCK * 3)
            await files.put(tmp_path / "local", b"2")


async def test_who_is_refused_a_busy_name_takes_no_room(serving: Serving, root: Path, tmp_path: Path):
    async with (
        asyncio.timeout(GUARD_SECONDS),
        serving(f"writable=1&total_bytes_max={7 * BLOCK_BYTES}") as endpoint,
        Hand(endpoint) as hand,
        Hand(endpoint) as second,
    ):
        await kept(endpoint, root, b"1")
        await hand.begin(b"1", THREE)
        for _ in range(5):
            with pytest.raises(FileError, match="somebody else"):
                await second.begin(b"1", THREE)
        await begun(second, b"2", 4 * BLOCK_BYTES)  # there is just room for both


async def test_an_upload_that_brought_nothing_leaves_nothing(serving: Serving, root: Path):
    """Else names alone could fill a disk with empty files."""
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1") as endpoint:
        async with Hand(endpoint) as hand:
            hand.say(Put(b"victim", THREE, 1, 0o644, "refuse"))
            assert isinstance(await hand.hear(), Ready)
            hand.say(Start(0))
            assert unfinished(root) == ["part", "sums"]
        await until_unfinished(root, [])


async def test_what_is_renamed_and_not_synced_is_no_unfinished_upload(
    serving: Serving, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A full disk keeps what has come for the next attempt, of which nothing is left here."""

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "local").write_bytes(BLOCK * 3)
    options = f"writable=1&total_bytes_max={4 * BLOCK_BYTES}"
    async with asyncio.timeout(GUARD_SECONDS), serving(options) as endpoint, FileClient(endpoint) as files:
        with monkeypatch.context() as patch:
            patch.setattr(partial, "fsync_directory", full)
            with pytest.raises(FileError) as failed:
                await files.put(tmp_path / "local", b"1")
            assert failed.value.kind == "full"
        assert unfinished(root) == []
        await files.put(tmp_path / "local", b"2")


async def test_what_is_gone_before_it_is_replaced_is_not_given_back_twice(serving: Serving, root: Path, tmp_path: Path):
    """Else a client makes room by removing what it is about to replace, again and again."""
    (tmp_path / "local").write_bytes(BLOCK * 2)
    options = f"writable=1&overwrite=1&total_bytes_max={5 * BLOCK_BYTES}"
    async with (
        asyncio.timeout(GUARD_SECONDS),
        serving(options) as endpoint,
        FileClient(endpoint) as files,
        Hand(endpoint) as hand,
    ):
        await files.put(tmp_path / "local", b"x")
        hand.say(Put(b"x", 2 * BLOCK_BYTES, 1, 0o644, "replace"))
        await hand.wire.expect(Ready)
        await files.remove(b"x")
        hand.say(Start(0))
        for index in range(2):
            hand.block(index, BLOCK)
        hand.say(End(2 * BLOCK_BYTES, digest(block_sum([BLOCK]) * 2, 2 * BLOCK_BYTES)))
        await hand.wire.expect(Stored)
        (tmp_path / "local").write_bytes(BLOCK * 4)
        with pytest.raises(FileError, match="2097152 bytes are stored"):
            await files.put(tmp_path / "local", b"y")


# --- cancelled -----------------------------------------------------------------------------------------------------


async def test_who_reads_ahead_is_waited_for():
    """Else what he reads from is closed, and its number somebody else's, while he reads."""
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            inside.set()
            assert go_on.wait(GUARD_SECONDS)
            yield 2
        finally:
            closed.set()

    ahead = Ahead(items(), 4)
    assert await anext(ahead) == 1
    assert await asyncio.to_thread(inside.wait, GUARD_SECONDS)
    ending = asyncio.ensure_future(ahead.end())
    await asyncio.sleep(0)
    assert not ending.done()
    go_on.set()
    await ending
    assert closed.is_set()


async def test_who_is_cancelled_leaves_no_file_open(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "local").write_bytes(b"x")
    inside, go_on = asyncio.Event(), threading.Event()
    loop, opened = asyncio.get_running_loop(), []

    def slow(local: bytes) -> FileSource:
        opened.append(open_local(local))
        loop.call_soon_threadsafe(inside.set)
        assert go_on.wait(GUARD_SECONDS)
        return opened[0]

    monkeypatch.setattr(client_module, "open_local", slow)
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        putting = asyncio.ensure_future(files.put(tmp_path / "local", b"x"))
        await inside.wait()
        putting.cancel()
        await asyncio.wait({putting})
        go_on.set()
        await files.do(bool)
    assert opened[0].fd == -1


async def test_who_is_cancelled_before_the_server_is_ready_may_ask_again(hosting: Hosting, tmp_path: Path):
    """The answer to what nobody waits for is no answer to what is asked next."""
    loop, asked, ready = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def play(wire: Wire, request: Message) -> None:
        if isinstance(request, Put):
            loop.call_soon_threadsafe(asked.set)
            await asyncio.to_thread(ready.wait, GUARD_SECONDS)
            wire.send(Ready(0, b""))
        elif isinstance(request, Stat):
            wire.send(Entries([Entry(b"x", "file", 1, 0, 0o644)], last=True))

    (tmp_path / "local").write_bytes(b"x")
    async with asyncio.timeout(GUARD_SECONDS), FileClient(hosting(play)) as files:
        for put in (lambda: files.put(tmp_path / "local", b"x"), lambda: files.put_stream(0, b"x")):
            asked.clear()
            ready.clear()
            task = asyncio.ensure_future(put())
            await asked.wait()
            task.cancel()
            await asyncio.wait({task})
            ready.set()
            assert (await files.stat(b"x")).size == 1
