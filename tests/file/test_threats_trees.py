"""Random trees arrive as they are: names of any bytes, empty files, deep directories, holes, modes and times."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings, strategies as st

from kernel import Server
from kernel.plugins.file.client import FileClient
from kernel.plugins.file.download import Destination
from kernel.plugins.file.get import GetMover, walk as walk_there
from kernel.plugins.file.progress import Progress
from kernel.plugins.file.put import PutMover, walk as walk_here
from kernel.plugins.file.sums import BLOCK_BYTES
from kernel.plugins.file.transfer import Outcome, move

GUARD_SECONDS = 120

_names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b"..", b".kernel-file"))
)
_sizes = st.sampled_from([0, 1, 4095, 32 * 1024, 32 * 1024 + 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
_files = st.tuples(st.booleans(), _sizes, st.sampled_from([0o600, 0o644, 0o755]), st.integers(-(10**18), 2 * 10**18))
_trees = st.recursive(_files, lambda inner: st.dictionaries(_names, inner, max_size=4), max_leaves=8)


def make(place: bytes, tree: object) -> None:
    """A tuple is a file: whether it is a hole with a few bytes at its end, its size, mode and time."""
    if isinstance(tree, dict):
        os.mkdir(place)
        for name, inner in tree.items():
            make(os.path.join(place, name), inner)
        return
    assert isinstance(tree, tuple)
    sparse, size, mode, mtime_ns = tree
    with open(place, "wb") as file:
        if sparse:
            file.truncate(size)
            file.seek(max(0, size - 3))
        file.write(os.urandom(min(size, 3) if sparse else size))
    os.chmod(place, mode)
    os.utime(place, ns=(mtime_ns, mtime_ns))


def seen(place: bytes) -> dict[bytes, tuple[int, int, bytes]]:
    found = {}
    for above, directories, files in os.walk(place):
        for name in directories:
            found[os.path.relpath(os.path.join(above, name), place)] = (0, 0, b"a directory")
        for name in files:
            path = os.path.join(above, name)
            status = os.stat(path)
            with open(path, "rb") as file:
                found[os.path.relpath(path, place)] = (status.st_mode, status.st_mtime_ns, file.read())
    return found


async def there_and_back(base: Path) -> None:
    (base / "root").mkdir()
    options = f"file?root={base / 'root'}&writable=1&any_names=1&durable=0"
    async with asyncio.timeout(GUARD_SECONDS), Server([options], ["tcp://127.0.0.1:0"]) as server:
        endpoint = str(server.endpoints[0])
        progress = Progress(shown=False)
        outcome = Outcome()
        walk = walk_here([(os.fsencode(base / "here"), b"tree")], recursive=True)
        await move(walk, PutMover("refuse", progress), lambda: FileClient(endpoint), 2, progress, outcome)
        destination = Destination(str(base / "back"), "refuse", durable=False)
        async with FileClient(endpoint) as files:
            back = walk_there(files, [(b"tree", b"tree")], recursive=True)
            mover = GetMover(destination, progress)
            await move(back, mover, lambda: FileClient(endpoint), 2, progress, outcome)
        destination.close()
    assert outcome.failures == []
    assert outcome.skipped == []


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=st.dictionaries(_names, _trees, max_size=5))
def test_a_tree_goes_there_and_back(tree: dict[bytes, object]):
    base = Path(tempfile.mkdtemp())
    try:
        make(os.fsencode(base / "here"), tree)
        asyncio.run(there_and_back(base))
        wanted = seen(os.fsencode(base / "here"))
        assert seen(os.fsencode(base / "root" / "tree")) == wanted
        assert seen(os.fsencode(base / "back" / "tree")) == wanted
    finally:
        shutil.rmtree(base)
