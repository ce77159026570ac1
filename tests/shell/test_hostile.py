"""What a client that may run something could do to the server beyond that: its memory, descriptors, places, audit."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest

from kernel import Client, Server
from kernel.errors import ChannelClosed
from kernel.plugins.shell.protocol import STDIN, WINDOW_BYTES, Started, Terminal
from kernel.plugins.shell.service import Shell
from kernel.plugins.shell.session import Session

from .conftest import Serve
from .local import Collected, run, serving, until

FREE = "shell?free=1&pty=1&grace_seconds=300ms"


def sessions(server: Server) -> dict[str, Session]:
    [hosted] = server._services.values()
    assert isinstance(hosted.service, Shell)
    return hosted.service._sessions


def first_line_of_recording(place: Path) -> str:
    [recording] = place.glob("*.cast")
    return recording.read_text().splitlines()[0]


class Watching(Collected):
    """A client that remembers what it was told at the start."""

    def started(self, started: Started) -> None:
        self.begun = started
        super().started(started)


async def watched(client: Client, *argv: str, **request: object) -> Watching:
    command = Watching(argv, **request)  # type: ignore[arg-type]
    await command.open(client)
    await command.running.wait()
    return command


async def test_input_of_no_bytes_costs_no_memory(tmp_path: Path):
    async with serving(FREE, tmp_path) as (server, client):
        command = await watched(client, "sleep", "1000", terminal=Terminal())
        [session] = sessions(server).values()
        fill = 200 * 1024
        command.channel.send(STDIN + bytes(fill))
        for _ in range(1000):
            command.channel.send(STDIN)
        command.channel.send(STDIN + b"x")
        await until(lambda: session.entry.input_bytes == fill + 1)
        assert len(session._process._input._queue) <= 2


async def test_who_joins_again_gets_what_is_left_of_the_window(tmp_path: Path):
    async with serving(FREE, tmp_path) as (server, client):
        first = await watched(client, "sh", "-c", "stty raw -echo; echo ready; exec sleep 1000", terminal=Terminal())
        await first.wrote.wait()
        [session] = sessions(server).values()
        fill = 200 * 1024
        first.channel.send(STDIN + bytes(fill))
        await until(lambda: session.entry.input_bytes == fill)
        waiting = sum(map(len, session._process._input._queue))
        assert waiting > fill // 4
        second = await watched(client, attach=first.begun.session, terminal=Terminal())
        assert second.begun.window_bytes == WINDOW_BYTES - waiting
        assert second.begun.consumed == fill


async def test_a_recorded_command_line_need_not_be_text(tmp_path: Path):
    async with serving(f"{FREE}&record_dir={tmp_path}", tmp_path) as (server, client):
        how, out, _ = await run(client, "printf", "\udcff", terminal=Terminal())
        assert (how.status, out) == (0, b"\xff")
        await until(lambda: not sessions(server))
    assert json.loads(first_line_of_recording(tmp_path))["title"] == "printf '\udcff'"


@pytest.mark.parametrize("call", ["dup", "openpty"])
async def test_without_descriptors_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    def fail(*ignored: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with serving(FREE, tmp_path) as (server, client):
        await run(client, "true")
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(ChannelClosed, match="no command can be started"):
                await run(client, "true", terminal=Terminal())
        assert (sessions(server), len(os.listdir("/proc/self/fd"))) == ({}, before)
        how, _, _ = await run(client, "true", terminal=Terminal())
        assert how.status == 0


async def test_a_time_limit_beyond_all_measure_is_none(tmp_path: Path):
    async with serving(FREE, tmp_path) as (_, client):
        how, _, _ = await run(client, "true", timeout_seconds=10**400)
        assert how.status == 0


def test_what_a_simple_client_may_not_do_is_in_the_audit(serve: Serve):
    listen = ["tcp://127.0.0.1:0?dialect=cmd-sized"]
    server = serve(f"listen = {listen}\n[plugin.shell]\nallow = ['pwd']\ndialects_for_anyone = true")
    host, port = server.endpoints[0].partition("?")[0].removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.send(b"id\nforged")
        assert sock.recv(1024)
    assert "argv=id\\nforged cwd" in server.log_until("a command was refused")
