"""Compressed blocks that unpack to far more than they are: refused, within bounded memory, whichever side sends them.

A zstd frame says how long its content is, and libraries that are asked to unpack it whole believe that. Here frames are
written by hand: blocks of one byte that is repeated 131,072 times take 4 bytes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from file.hands import Hand
from file.hosts import Hosting, hosting as hosting
from server_process import ServerProcess

from kernel import ChannelClosed, Code
from kernel.plugins.file.compression import RATIO_MAX, unpacker
from kernel.plugins.file.errors import FileError
from kernel.plugins.file.messages import Block, End, Entries, Entry, Get, Message, Source, Stat
from kernel.plugins.file.sums import BLOCK_BYTES, digest, zeros_sum
from kernel.plugins.file.wire import Wire

pytest.importorskip("zstandard")

GUARD_SECONDS = 120
GROWN_MIB_MAX = 16
_RLE_BYTES = 128 * 1024
_MAGIC = b"\x28\xb5\x2f\xfd"


def frame(content_bytes: int | None, *, window: int = 0x58, blocks: int = 0, empty: int = 0) -> bytes:
    """A frame of zeros.

    Args:
        content_bytes: what it declares, which need not be true; None: nothing.
        window: the byte that tells how much must be remembered; 0x58: 2 MiB.
        blocks: so many of 128 KiB each.
        empty: so many before them that hold nothing.
    """
    head = b"\x00" + bytes([window]) if content_bytes is None else b"\xc0" + bytes([window])
    if content_bytes is not None:
        head += content_bytes.to_bytes(8, "little")
    body = [(0).to_bytes(3, "little")] * empty
    for number in range(blocks):
        header = (_RLE_BYTES << 3) | (1 << 1) | (number == blocks - 1)
        body.append(header.to_bytes(3, "little") + b"\0")
    return _MAGIC + head + b"".join(body)


HONEST = frame(BLOCK_BYTES, blocks=8, empty=1500)
BOMBS = {
    "no size declared": frame(None, blocks=2048),
    "its true size declared": frame(2048 * _RLE_BYTES, blocks=2048),
    "a block's size declared": frame(BLOCK_BYTES, blocks=2048),
    "one byte declared": frame(1, blocks=2048),
    "a terabyte declared": frame(1 << 40, blocks=2048),
    "all that can be declared": frame((1 << 64) - 1, blocks=2048),
    "a window of gigabytes": frame(None, window=0xB0, blocks=2048),
    "a block longer than a block": frame(None, blocks=9, empty=2000),
    "too short": frame(None, blocks=7, empty=2000),
    "no end": frame(None, blocks=8, empty=2000)[:-1],
    "nothing but emptiness": frame(None, empty=100_000),
    "many frames": frame(_RLE_BYTES, blocks=1) * 500,
}


def test_the_frames_are_what_they_seem():
    import zstandard

    whole = zstandard.ZstdDecompressor().decompress(BOMBS["its true size declared"])
    assert len(whole) == 256 * 1024 * 1024
    assert not whole.strip(b"\0")
    unpack = unpacker()
    assert unpack is not None
    assert b"".join(unpack([HONEST], BLOCK_BYTES)) == bytes(BLOCK_BYTES)
    assert all(len(bomb) * RATIO_MAX >= BLOCK_BYTES for bomb in BOMBS.values()), "the ratio alone refuses none of them"


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_unpacks_to_something_else_is_refused(bomb: str):
    unpack = unpacker()
    assert unpack is not None
    with pytest.raises(FileError, match="a compressed block") as refused:
        unpack([BOMBS[bomb]], BLOCK_BYTES)
    assert refused.value.kind == "protocol"
    assert "\n" not in str(refused.value)


def test_the_ratio_has_a_limit_and_the_size_too():
    unpack = unpacker()
    assert unpack is not None
    few = frame(None, blocks=8)
    for nbytes in (len(few) * RATIO_MAX + 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 40):
        with pytest.raises(FileError, match=f"more than {RATIO_MAX} times as much"):
            unpack([few], nbytes)
    with pytest.raises(FileError, match="more than"):
        unpack([BOMBS["no size declared"] * 1000], BLOCK_BYTES + 1)


def memory_mib(pid: int) -> float:
    """The most that it has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


async def upload(endpoint: str, name: bytes, packed: bytes) -> None:
    async with Hand(endpoint, packed=True) as hand:
        await hand.begin(name, 2 * BLOCK_BYTES)
        hand.say(Block(0, BLOCK_BYTES, zeros_sum(BLOCK_BYTES), packed=len(packed)), packed)
        hand.say(Block(1, BLOCK_BYTES, zeros_sum(BLOCK_BYTES), packed=len(packed)), packed)
        hand.say(End(2 * BLOCK_BYTES, digest(zeros_sum(BLOCK_BYTES) * 2, 2 * BLOCK_BYTES)))
        refused = await hand.refusal()
        assert (refused is None) is (packed is HONEST)
        assert refused is None or (isinstance(refused, ChannelClosed) and refused.code is Code.PROTOCOL)


async def test_a_server_takes_no_bombs(serve_process: Callable[..., ServerProcess], root: Path):
    server = serve_process(root)
    async with asyncio.timeout(GUARD_SECONDS):
        await upload(server.endpoints[0], b"victim", HONEST)
        assert (root / "victim").read_bytes() == bytes(2 * BLOCK_BYTES)
        (root / "victim").unlink()
        before = memory_mib(server.process.pid)
        for number, bomb in enumerate(list(BOMBS.values()) * 5):
            await upload(server.endpoints[0], b"%d" % number, bomb)
        grown = memory_mib(server.process.pid) - before
    assert os.listdir(root) == [".kernel-file"]
    assert grown <= GROWN_MIB_MAX


# Runs a command, and then says how much memory it has had at most: `wait4` counts what was its parent's, too.
MEASURED = """
import sys
from kernel.cli import root
code = root.run(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def fetched(endpoint: str, here: Path, environ: dict[str, str]) -> tuple[int, str, float]:
    """Fetch `x`; the exit code, what was said, and the most memory that the client had, in MiB."""
    command = [sys.executable, "-c", MEASURED, "file", "get", endpoint, "x", "--compress", "zstd", "-q"]
    done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True)
    return done.returncode, done.stderr, int(done.stdout) / 1024


def test_a_client_takes_no_bombs(hosting: Hosting, tmp_path: Path, environ: dict[str, str]):
    frames = [HONEST]

    async def play(wire: Wire, request: Message) -> None:
        if isinstance(request, Stat):
            wire.send(Entries([Entry(b"x", "file", 2 * BLOCK_BYTES, 0, 0o644)], last=True))
        elif isinstance(request, Get):
            wire.send(Source(2 * BLOCK_BYTES, 0, 0o644, bytes(16), 0))
            for index in range(2):
                wire.send(Block(index, BLOCK_BYTES, zeros_sum(BLOCK_BYTES), packed=len(frames[0])))
                wire.channel.send(frames[0])
            wire.send(End(2 * BLOCK_BYTES, digest(zeros_sum(BLOCK_BYTES) * 2, 2 * BLOCK_BYTES)))

    here = tmp_path / "here"
    here.mkdir()
    endpoint = hosting(play)
    code, said, usual = fetched(endpoint, here, environ)
    assert (code, said) == (0, "")
    assert (here / "x").read_bytes() == bytes(2 * BLOCK_BYTES)
    (here / "x").unlink()
    for what, frames[0] in BOMBS.items():
        code, said, used = fetched(endpoint, here, environ)
        assert code == 1, what
        assert said.startswith("kernel: error: x: a compressed block"), (what, said)
        assert said.count("\n") == 1, what
        assert os.listdir(here) == [], what
        assert used - usual <= GROWN_MIB_MAX, what
