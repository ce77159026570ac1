"""Nothing survives: however a command ends, its whole tree of processes is gone, and no zombie stays."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from pathlib import Path

import pytest

from kernel import Client, Server, dial
from kernel.plugins.shell import process
from kernel.plugins.shell.protocol import Terminal
from kernel.plugins.shell.service import Shell
from kernel.plugins.shell.session import Session

from .conftest import Serve
from .local import PATIENCE_SECONDS, Collected, children, keeper_of, kill, marked, run, serving, stat, until

# A child, a grandchild in a session of its own, an orphan in another one; none of them reads or writes.
TREE = (
    "setsid sh -c 'setsid sleep 1000 & exec sleep 1000' </dev/null >/dev/null 2>&1 & (sleep 1000 &) ; echo ready; wait"
)
STUBBORN = "trap '' TERM HUP INT; " + TREE
FREE = "shell?free=1&pty=1&grace_seconds=300ms"
PROCESSES = 4
ORPHANS = 3


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


async def tree(client: Client, mark: str, script: str = TREE, **request: object) -> Collected:
    """A command whose whole tree is there."""
    command = await Collected(["sh", "-c", script], mark=mark, **request).open(client)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await command.wrote.wait()
    processes = PROCESSES if script.endswith("wait") else ORPHANS
    await until(lambda: len(marked(mark)) >= processes or command.remote.ended.done())
    return command


def zombies(server_pid: int) -> list[int]:
    """Ended processes that nobody has reaped, among our children's children."""
    return [pid for child in children(server_pid) for pid in [child, *children(child)] if stat(pid)[0] == "Z"]


@pytest.mark.parametrize("script", [TREE, STUBBORN], ids=["obedient", "stubborn"])
async def test_a_time_out_ends_the_whole_tree(tmp_path: Path, mark: str, script: str):
    async with serving(FREE, tmp_path) as (_, client):
        command = await tree(client, mark, script, timeout_seconds=1.5)
        how = await command.ended()
        assert how.timed_out
        assert marked(mark) == []
        await until(lambda: not zombies(os.getpid()))


@pytest.mark.parametrize("terminal", [None, Terminal()], ids=["pipes", "terminal"])
async def test_so_does_a_client_that_leaves(tmp_path: Path, mark: str, terminal: Terminal | None):
    async with serving(FREE + "&detach_seconds=0", tmp_path) as (_, client):
        await tree(client, mark, STUBBORN, terminal=terminal)
        client.abort()
        await until(lambda: not marked(mark))


async def test_a_terminal_whose_client_does_not_come_back_is_ended(tmp_path: Path, mark: str):
    async with serving(FREE + "&detach_seconds=300ms", tmp_path) as (_, client):
        await tree(client, mark, terminal=Terminal())
        client.abort()
        await until(lambda: not marked(mark))


async def test_so_does_the_servers_end(tmp_path: Path, mark: str):
    server = Server([FREE], [f"unix:{tmp_path}/shell.sock"])
    await server.start()
    async with dial(server.endpoints[0]) as client:
        await tree(client, mark, STUBBORN)
        keeper = keeper_of(os.getpid())
        await server.drain(0.1)
    assert marked(mark) == []
    assert stat(keeper)[0] == "X"


async def test_and_the_death_of_the_server(serve: Serve, mark: str):
    server = serve("[plugin.shell]\nfree = true\ngrace_seconds = '300ms'")
    async with dial(server.endpoints[0]) as client:
        await tree(client, mark, STUBBORN)
        keeper = keeper_of(server.process.pid)
        kill(server.process.pid)
        server.finish()
        await until(lambda: not marked(mark) and stat(keeper)[0] == "X")


async def test_what_the_command_leaves_behind_ends_with_it(tmp_path: Path, mark: str):
    async with serving(FREE, tmp_path) as (_, client):
        how, out, _ = await run(client, "sh", "-c", TREE.removesuffix("; wait"), mark=mark)
        assert (how.status, out) == (0, b"ready\n")
        assert marked(mark) == []


async def test_output_of_what_outlives_the_command_for_a_moment_is_read(tmp_path: Path):
    async with serving(FREE, tmp_path) as (_, client):
        _, out, _ = await run(client, "sh", "-c", "(sleep 0.05; echo late) & echo early")
        assert out == b"early\nlate\n"


async def test_a_supervisor_that_is_killed_takes_its_command_along(tmp_path: Path, mark: str):
    async with serving(FREE, tmp_path) as (_, client):
        command = await tree(client, mark, STUBBORN)
        keeper = keeper_of(os.getpid())
        [supervisor] = children(keeper)
        kill(supervisor)
        assert (await command.ended()).signal == "KILL"
        await until(lambda: not marked(mark) and not zombies(os.getpid()))


def session(server: Server) -> Session:
    """The one session of a server."""
    [hosted] = server._services.values()
    assert isinstance(hosted.service, Shell)
    [only] = hosted.service._sessions.values()
    return only


async def test_so_does_a_supervisor_that_fails_and_the_audit_counts_no_survivors(
    tmp_path: Path, mark: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    async with serving(FREE, tmp_path) as (server, client):
        command = await tree(client, mark, STUBBORN)
        session(server)._process._orders.write(b"no order at all\n")
        assert (await command.ended()).signal == "KILL"
        await until(lambda: not marked(mark) and not zombies(os.getpid()))
    assert capfd.readouterr().err.startswith("kernel: a supervisor of the service shell failed: JSONDecodeError: ")
    [ended] = [record for record in caplog.records if record.name == "kernel.audit.shell"]
    assert not hasattr(ended, "survivors")


async def test_nor_is_anything_left_when_its_command_has_ended_before(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "_LINGER_SECONDS", 1000.0)
    async with serving(FREE, tmp_path) as (server, client):
        command = await tree(client, mark, STUBBORN.removesuffix("; wait"))
        only = session(server)
        await until(lambda: only._process._exited is not None)
        only._process._orders.write(b"no order at all\n")
        assert (await command.ended()).status == 0
        await until(lambda: not marked(mark) and not zombies(os.getpid()))


async def test_a_command_that_stops_its_supervisor_gains_no_time(tmp_path: Path, mark: str):
    async with serving(FREE, tmp_path) as (_, client):
        command = await tree(client, mark, STUBBORN.removesuffix("wait") + "kill -STOP $PPID; wait")
        assert (await command.ended()).signal == "KILL"
        await until(lambda: not marked(mark) and not zombies(os.getpid()))


async def test_a_keeper_that_is_killed_is_replaced(tmp_path: Path, mark: str):
    async with serving(FREE, tmp_path) as (_, client):
        command = await tree(client, mark, timeout_seconds=2.0)
        keeper = keeper_of(os.getpid())
        kill(keeper)
        await until(lambda: stat(keeper)[0] in "XZ")
        for _ in range(3):
            how, out, _ = await run(client, "echo", "still there")
            assert (how.status, out) == (0, b"still there\n")
        assert (await command.ended()).timed_out
        assert marked(mark) == []


async def test_a_command_that_a_dying_keeper_was_asked_for_fails_in_words(tmp_path: Path):
    async with serving(FREE, tmp_path) as (_, client):
        keeper = keeper_of(os.getpid())
        os.kill(keeper, signal.SIGSTOP)
        command = await Collected(["echo"]).open(client)
        await client.ping()  # the request is with the keeper, which does not see it
        kill(keeper)
        how = await command.ended()
        assert (how.status, how.reason) == (126, "echo: cannot be started (start): resource temporarily unavailable")


async def test_what_forks_all_the_time_is_ended_too(tmp_path: Path, mark: str):
    script = "echo ready; while :; do setsid sh -c 'sleep 1000 & exec sleep 1000' & done"
    async with serving(FREE, tmp_path) as (_, client):
        command = await tree(client, mark, script, timeout_seconds=1.0)
        assert (await command.ended()).timed_out
        assert marked(mark) == []


async def _storm(place: Path, rounds: int, mark: str) -> None:
    """Time-outs and disconnects at any moment, ten at once."""
    dice = random.Random(6)
    async with Server([FREE], [f"unix:{place}/shell.sock"]) as server:

        async def one(number: int) -> None:
            async with asyncio.timeout(120), dial(server.endpoints[0]) as client:
                if number % 2:
                    seconds = dice.uniform(0.01, 0.5)
                    how, _, _ = await run(client, "sh", "-c", TREE, mark=mark, timeout_seconds=seconds)
                    assert how.timed_out
                else:
                    await Collected(["sh", "-c", TREE], mark=mark).open(client)
                    await asyncio.sleep(dice.uniform(0, 0.5))
                    client.abort()

        for first in range(0, rounds, 10):
            await asyncio.gather(*(one(number) for number in range(first, first + 10)))
        await until(lambda: not marked(mark) and not zombies(os.getpid()))
        assert len(children(keeper_of(os.getpid()))) == 0


async def test_time_outs_and_disconnects_at_any_moment(tmp_path: Path, mark: str):
    await _storm(tmp_path, 20, mark)


@pytest.mark.long
async def test_a_thousand_time_outs_and_disconnects(tmp_path: Path, mark: str):
    await _storm(tmp_path, 1000, mark)
