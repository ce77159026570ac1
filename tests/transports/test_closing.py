"""Closing a socket while its peer reads slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from kernel import sockets
from kernel.testing.end import End

PENDING_BYTES = 4 * 1024 * 1024
LINGER_SECONDS = 0.5


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LINGER_SECONDS", LINGER_SECONDS)


def closing_pair() -> tuple[End, socket.socket]:
    """A connection that was closed with much still pending, and the other side's bare socket."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    connection = sockets.SocketConnection(ours, "ours", "theirs")
    end = End(connection, is_client=False, preserves_messages=False, patience_seconds=10)
    end.start()
    end.write([bytes(PENDING_BYTES)])
    end.close()
    assert end.pending_bytes > PENDING_BYTES // 2
    return end, theirs


async def test_a_reader_that_is_slow_gets_everything(impatient: None):
    end, theirs = closing_pair()
    with contextlib.closing(theirs):
        loop, arrived, began_at = asyncio.get_running_loop(), 0, asyncio.get_running_loop().time()
        while chunk := await loop.sock_recv(theirs, 1024 * 1024):
            arrived += len(chunk)
            await asyncio.sleep(LINGER_SECONDS / 10)
        assert loop.time() - began_at > LINGER_SECONDS
        assert arrived == PENDING_BYTES
    await end.until(lambda: end.lost, "connection_lost")
    assert end.error is None


async def test_a_reader_that_does_not_read_is_given_up(impatient: None):
    end, theirs = closing_pair()
    with contextlib.closing(theirs):
        await end.until(lambda: end.lost, "connection_lost")
        assert end.pending_bytes == 0
