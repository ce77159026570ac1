"""The dialect `upload`: what the tutorials' client sends, byte for byte, and what a hostile one might."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from pathlib import Path

import pytest
from file.conftest import Serving

LISTEN = "tcp://127.0.0.1:0?dialect=upload"
GUARD_SECONDS = 60


def head(name: str, size: int) -> bytes:
    text = json.dumps({"filepath": f"D:\\videos\\{name}", "filename": name, "filesize": size}).encode()
    return struct.pack("<i", len(text)) + text


async def tell(endpoint: str, *parts: bytes) -> bytes:
    """Send parts, a write each, half-close, and give what comes back."""
    host, port = endpoint.partition("//")[2].partition("?")[0].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


def names(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root) if not name.startswith(".kernel"))


async def test_what_the_tutorial_sends_is_stored(serving: Serving, root: Path):
    data = os.urandom(3_000_000)
    pieces = [data[at : at + 1024] for at in range(0, len(data), 1024)]
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1", LISTEN) as endpoint:
        assert await tell(endpoint, head("video.mp4", len(data)), *pieces) == b""
        assert (root / "video.mp4").read_bytes() == data
        whole = head("empty", 0) + head("video.mp4", 3) + b"abc" + head("last", 5) + b"12345"
        for_each_byte = [whole[at : at + 1] for at in range(len(whole))]
        assert await tell(endpoint, *for_each_byte) == b""
        assert names(root) == ["empty", "last", "video-1.mp4", "video.mp4"]
        assert (root / "video-1.mp4").read_bytes() == b"abc"
    assert os.listdir(root / ".kernel-file") == []


async def test_with_overwrite_it_replaces(serving: Serving, root: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1&overwrite=1", LISTEN) as endpoint:
        for text in (b"old", b"new!"):
            await tell(endpoint, head("a", len(text)), text)
        assert names(root) == ["a"]
        assert (root / "a").read_bytes() == b"new!"


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("<i", -1),
        struct.pack("<i", 0),
        struct.pack("<i", 5000),
        struct.pack(">i", 90) + b"{" * 90,
        struct.pack("<i", 4) + b"null",
        struct.pack("<i", 9) + b'{"a": 1}x',
        head("a", -5),
        head("a", 10) + b"123",
        head("a", 1 << 50),
        head("..", 1) + b"x",
        head("", 1) + b"x",
        head(".kernel-file", 1) + b"x",
        head("a\x1b[2J", 1) + b"x",
        head("x" * 300, 1) + b"x",
        b"\x05",
    ],
)
async def test_nonsense_is_refused_and_leaves_nothing(serving: Serving, root: Path, sent: bytes):
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1", LISTEN) as endpoint:
        try:
            answer = await tell(endpoint, sent)
        except ConnectionError:
            answer = b""
        assert answer == b""
        await tell(endpoint, head("good", 2), b"ok")  # the server lives on
        assert names(root) == ["good"]
        assert os.listdir(root / ".kernel-file") == []


async def test_paths_in_names_lead_nowhere(serving: Serving, root: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving("writable=1", LISTEN) as endpoint:
        for name in ("../../escaped", "/etc/escaped", "C:\\windows\\escaped"):
            await tell(endpoint, head(name, 1), b"x")
        assert names(root) == ["escaped", "escaped-1", "escaped-2"]
        assert not (root.parent / "escaped").exists()


async def test_a_read_only_server_takes_none(serving: Serving, root: Path):
    async with asyncio.timeout(GUARD_SECONDS), serving("", LISTEN) as endpoint:
        with contextlib.suppress(ConnectionError):
            await tell(endpoint, head("a", 1 << 20), bytes(1 << 20))
        assert names(root) == []
