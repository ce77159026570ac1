# ruff: noqa: ASYNC240, SIM117
"""Nothing outside of the root is read, listed, changed or made, by any name, and while links change under the server.

Both ways of confinement: one openat2, and part by part where a system has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file.conftest import Serving

from kernel.plugins.file import confine
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.download import Destination
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.get import fetch
from kernel.plugins.file.messages import Directory, Failed, SmallFile, Stored
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum

GUARD_SECONDS = 240
SECRET = b"the secret"
BIG = 2 * BLOCK_BYTES + 5


@pytest.fixture(params=["openat2", "by parts"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by parts":
        monkeypatch.setattr(confine, "best_way", lambda: confine.open_by_parts)
    elif confine.best_way() is confine.open_by_parts:
        pytest.skip("this system has no openat2")
    return str(request.param)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the root, with what nobody may see or change."""
    place = tmp_path / "outside"
    (place / "sub").mkdir(parents=True)
    (place / "secret").write_bytes(SECRET)
    (place / "big").write_bytes(SECRET * (BIG // len(SECRET)))
    return place


def state_of(place: Path) -> list[tuple[str, int, int, bytes]]:
    found = []
    for path in sorted([place, *place.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((str(path), status.st_mode, status.st_mtime_ns, content))
    return found


def small(path: bytes) -> SmallFile:
    return SmallFile(path, 1, 0o644, block_sum([b"x"]), b"x")


class Attempts:
    """Everything that a client can ask for with a path; what comes of it is an error, or something within the root."""

    def __init__(self, files: FileClient, tmp_path: Path) -> None:
        self._files = files
        self._destination = Destination(str(tmp_path / "fetched"), "replace")
        self._local = tmp_path / "local"
        self._local.write_bytes(b"x" * BIG)
        self.seen: list[bytes] = []
        self.succeeded: set[str] = set()

    def close(self) -> None:
        self._destination.close()

    async def all(self, path: bytes) -> None:
        for attempt in (self._get, self._get_small, self._list, self._stat, *self._changes()):
            with contextlib.suppress(FileError):
                await attempt(path)
                self.succeeded.add(attempt.__name__.strip("_"))

    def _changes(self) -> list[Callable]:
        return [self._put, self._put_small, self._make, self._make_parents, self._modes, self._remove]

    async def _get(self, path: bytes) -> None:
        report = await fetch(self._files, path, b"fetched", self._destination)
        self.seen.append(Path(str(self._destination.root.path), os.fsdecode(report.path)).read_bytes())

    async def _get_small(self, path: bytes) -> None:
        async for file in self._files.get_small([path]):
            if isinstance(file, Failed):
                raise FileError(file.kind, file.text)
            self.seen.append(file.data)

    async def _list(self, path: bytes) -> None:
        for recursive in (False, True):
            async for entry in self._files.entries(path, recursive=recursive):
                self.seen.append(entry.name)

    async def _stat(self, path: bytes) -> None:
        self.seen.append(b"%d bytes" % (await self._files.stat(path)).size)

    async def _put(self, path: bytes) -> None:
        await self._files.put(self._local, path, policy="replace", parents=True)

    async def _put_small(self, path: bytes) -> None:
        [outcome] = await self._files.put_small([small(path)], "replace")
        if not isinstance(outcome, Stored):
            raise FileError(outcome.kind, outcome.text)

    async def _make(self, path: bytes) -> None:
        await self._files.make_directory(path + b"/made")

    async def _make_parents(self, path: bytes) -> None:
        await self._files.make_directory(path + b"/made/deep", parents=True)

    async def _modes(self, path: bytes) -> None:
        await self._files.set_directories([Directory(path, 0o777, 5)])

    async def _remove(self, path: bytes) -> None:
        await self._files.remove(path, recursive=True)


async def test_no_path_leads_out(serving: Serving, root: Path, outside: Path, tmp_path: Path):
    (root / "inside").mkdir()
    (root / "link").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "file-link").symlink_to(outside / "secret")
    (root / "big-link").symlink_to(outside / "big")
    (root / "loop").symlink_to("loop")
    (root / "magic").symlink_to("/proc/self/root")
    (root / "inside" / "up").symlink_to("..")
    there = os.fsencode(outside)
    # Only files of this test are named: what would lead out would be overwritten and removed.
    paths = [
        b"..", b"../outside", b"../outside/secret", b"inside/../../outside/secret", b"./../outside/secret",
        b"//..//outside/secret", b"inside/up/../../outside/secret", b"..\0", b"a/b/../../../outside/secret",
        there, there + b"/secret", b"//" + there + b"/secret", b"/../../../../../.." + there + b"/secret",
        b"link", b"link/", b"link/secret", b"link/sub", b"link/new", b"link/sub/new", b"relative/secret", b"file-link",
        b"file-link/", b"big-link", b"link/big", b"loop", b"loop/x", b"magic" + there + b"/secret",
        b"inside/up/link/secret", b"inside/up/../link/secret", b"secret\0", b"link\0/secret", b"\0", b".kernel-file",
        b".kernel-file/x.part", b"./.kernel-file/x", b"/.kernel-file", b"", b"/", b".", b"./", b"///",
    ]  # fmt: skip
    before = state_of(outside)
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        attempts = Attempts(files, tmp_path)
        try:
            for path in paths:
                await attempts.all(path)
        finally:
            attempts.close()
    assert state_of(outside) == before
    assert not any(SECRET in seen or seen == b"secret" for seen in attempts.seen)
    assert sorted(os.listdir(tmp_path)) == ["fetched", "local", "outside", "root"]


async def test_magic_links_of_proc_are_links(tmp_path: Path):
    """A root below /proc, which nobody serves: there are links there that are no text."""
    root = confine.Root("/proc/self")
    try:
        for path in (b"root/etc/passwd", b"cwd", b"cwd/x", b"fd/0", b"exe", b"root", b"task/%d/root/etc" % os.getpid()):
            for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_PATH, os.O_RDONLY | os.O_NONBLOCK):
                with pytest.raises(OSError, match="symbolic links"):
                    os.close(root.open(path.split(b"/"), flags))
    finally:
        root.close()


async def test_what_is_no_file_is_refused_and_never_waited_for(serving: Serving, root: Path, tmp_path: Path):
    os.mkfifo(root / "fifo")
    (root / "directory").mkdir()
    names = [b"fifo", b"directory"]
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.mknod(root / "device", 0o020666, os.makedev(1, 5))  # /dev/zero: it never ends
            names.append(b"device")
    local = tmp_path / "local"
    local.write_bytes(b"x")
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        destination = Destination(str(tmp_path / "fetched"), "refuse")
        for name in names:
            with pytest.raises(FileError):
                await fetch(files, name, b"f", destination)
            [answer] = [file async for file in files.get_small([name])]
            assert isinstance(answer, Failed)
            with pytest.raises(FileError):
                await files.put(local, name)
            if name != b"directory":
                with pytest.raises(FileError):
                    await files.put(local, name + b"/below")
        destination.close()
        kinds = {entry.name: entry.kind async for entry in files.entries(b"")}
        assert kinds == {name: "directory" if name == b"directory" else "other" for name in names}
        assert os.listdir(tmp_path / "fetched") == []
        await files.remove(b"fifo")


async def test_a_name_may_hold_every_byte_that_a_name_may_hold(serving: Serving, root: Path, tmp_path: Path):
    """Control characters only where the server takes them."""
    local = tmp_path / "local"
    local.write_bytes(b"x" * BIG)
    alphabet = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    names = [bytes([byte]) for byte in alphabet if byte != ord(".")]
    names += [alphabet[:127], alphabet[127:], b"\xff" * 255, b"...", b"..a", b". ", b"-r", b"a\xcc\x81"]
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1&overwrite=1&any_names=1") as endpoint:
        async with FileClient(endpoint) as files:
            for at in range(0, len(names), 50):
                outcomes = await files.put_small([small(name) for name in names[at : at + 50]], "refuse")
                assert [getattr(outcome, "path", outcome) for outcome in outcomes] == names[at : at + 50]
            assert sorted(os.listdir(os.fsencode(root))) == sorted([*names, b".kernel-file"])
            for name in names[-8:]:
                await files.put(local, name, policy="replace")
                destination = Destination(str(tmp_path / "fetched"), "replace")
                await fetch(files, name, name, destination)
                destination.close()
                assert (tmp_path / "fetched" / os.fsdecode(name)).read_bytes() == local.read_bytes()
            for name in names:
                await files.remove(name)
            assert os.listdir(root) == [".kernel-file"]
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        outcomes = await files.put_small([small(bytes([byte])) for byte in (*range(1, 32), 127)], "refuse")
        assert {getattr(outcome, "kind", "stored") for outcome in outcomes} == {"name"}
        assert all("\n" not in outcome.text for outcome in outcomes if isinstance(outcome, Failed))
        with pytest.raises(FileError, match="at most 255 bytes"):
            await files.stat(b"x" * 256)


async def test_trees_may_be_deeper_than_one_path_of_the_system(serving: Serving, root: Path, tmp_path: Path):
    """40 levels of 200 bytes: more than a system call takes at once (4,096)."""
    path = b"/".join([b"%03d" % level + b"d" * 197 for level in range(40)])
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint, FileClient(endpoint) as files:
        await files.make_directory(path, parents=True)
        [outcome] = await files.put_small([small(path + b"/f")], "refuse")
        assert isinstance(outcome, Stored)
        assert (await files.stat(path + b"/f")).size == 1
        assert len([entry async for entry in files.entries(b"", recursive=True)]) == 41
        await files.remove(path.split(b"/")[0], recursive=True)
        assert os.listdir(root) == [".kernel-file"]


def test_a_server_whose_place_for_uploads_is_a_link_does_not_start(root: Path, outside: Path):
    from kernel.plugins.file.names import NameRules
    from kernel.plugins.file.store import Store
    from kernel.plugins.file.usage import Usage

    (root / ".kernel-file").symlink_to(outside)
    place = confine.Root(str(root))
    store = Store(
        place, writable=True, overwrite=True, rules=NameRules(), durable=True, file_bytes_max=1, usage=Usage()
    )
    with pytest.raises(OSError, match="symbolic links"):
        store.open()
    place.close()


SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    for a, b in ((b"swap", b"other"), (b"deep/swap", b"deep/other"), (b"target", b"target-link")):
        libc.renameat2(-100, a, -100, b, 2)  # exchange them at once
"""


@contextlib.contextmanager
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """Directories and files below the root turn into links that lead out, and back, thousands of times a second."""
    (root / "deep").mkdir()
    for place in (root, root / "deep"):
        (place / "swap" / "sub").mkdir(parents=True)
        for name in ("secret", "big"):
            (place / "swap" / name).write_bytes(b"harmless")
        (place / "other").symlink_to(outside)
    (root / "target").write_bytes(b"harmless")
    (root / "target-link").symlink_to(outside / "secret")
    swapper = subprocess.Popen([sys.executable, "-c", SWAPPER, root], stdout=subprocess.PIPE)
    try:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        yield
    finally:
        swapper.kill()
        swapper.communicate()


PATHS = [
    b"swap/secret",
    b"swap/big",
    b"swap",
    b"swap/sub",
    b"swap/new",
    b"deep/swap/secret",
    b"deep/swap/sub/new",
    b"target",
]
# Where nothing ever succeeds, no leak can be seen: it goes on until each of these has.
MUST_SUCCEED = {"get", "put", "list", "put_small"}


async def race(serving: Serving, root: Path, outside: Path, tmp_path: Path, seconds: float) -> int:
    """Ask for everything while links change; returns how many rounds that were."""
    before = state_of(outside)
    rounds = 0
    async with asyncio.timeout(GUARD_SECONDS), serving() as endpoint:
        with swapping(root, outside):
            async with FileClient(endpoint) as files:
                attempts = Attempts(files, tmp_path)
                ends = time.monotonic() + seconds
                try:
                    while time.monotonic() < ends or rounds < 2 or not attempts.succeeded >= MUST_SUCCEED:
                        for path in PATHS:
                            await attempts.all(path)
                        for name in ("swap", "deep/swap"):  # what was removed comes back
                            with contextlib.suppress(OSError):
                                os.makedirs(root / name / "sub")
                        rounds += 1
                finally:
                    attempts.close()
    assert state_of(outside) == before
    assert not [seen for seen in attempts.seen if SECRET in seen]
    assert sorted(os.listdir(tmp_path)) == ["fetched", "local", "outside", "root"]
    return rounds


async def test_links_that_change_under_the_server_leak_nothing(
    serving: Serving, root: Path, outside: Path, tmp_path: Path
):
    await race(serving, root, outside, tmp_path, 1.5)


@pytest.mark.long
async def test_links_that_change_for_a_minute_leak_nothing(
    serving: Serving, root: Path, outside: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
):
    rounds = await race(serving, root, outside, tmp_path, 60)
    with capsys.disabled():
        print(f"\n{way}: {rounds} rounds of {len(PATHS)} paths, every request with each: 0 leaks")
