"""Who holds the places of commands, and for how long: not for one principal alone, and not for who does not read."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kernel import Client, Keyring, Server, dial
from kernel.auth.keys import Key
from kernel.channel import Channel
from kernel.errors import ChannelClosed
from kernel.plugins.shell import process, session
from kernel.plugins.shell.protocol import END_OF_STDIN, Exit, Kind, Request, signal_message
from kernel.plugins.shell.service import Shell

from .local import PATIENCE_SECONDS, children, keeper_of, run, serving, until


def service(server: Server) -> Shell:
    [hosted] = server._services.values()
    assert isinstance(hosted.service, Shell)
    return hosted.service


async def begun(client: Client, *argv: str, **request: object) -> Channel:
    """A command that runs, whose output nobody reads."""
    channel = await client.open("shell")
    channel.send(Request(list(argv), **request).encode())  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_SECONDS):
        message = await channel.receive()
    assert message is not None
    assert message[0] == Kind.STARTED
    return channel


async def messages(channel: Channel) -> AsyncIterator[bytes]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for message in channel:
            yield message


@pytest.mark.parametrize("option", ["commands_max=3", "commands_max=99&commands_per_principal_max=2"])
async def test_one_principal_does_not_get_all_places(option: str):
    keys = [Key(name, os.urandom(32)) for name in ("ada", "bob")]
    async with AsyncExitStack() as stack:
        server = Server([f"shell?free=1&grace_seconds=0&{option}"], ["tcp://127.0.0.1:0"], keys=Keyring(keys))
        await stack.enter_async_context(server)
        ada, bob = [await stack.enter_async_context(dial(server.endpoints[0], keys=Keyring([key]))) for key in keys]
        for _ in range(2):
            await begun(ada, "sleep", "1000")
        with pytest.raises(ChannelClosed, match=r"2 commands of hmac:ada run here already.*commands_per_principal_max"):
            await run(ada, "true")
        how, _, _ = await run(bob, "true")
        assert how.status == 0


async def test_who_does_not_read_keeps_no_place_when_its_command_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "_UNREAD_SECONDS", 0.2)
    async with serving("shell?free=1&grace_seconds=0", tmp_path) as (server, client):
        channel = await begun(client, "yes", timeout_seconds=0.5)
        await until(lambda: not service(server)._sessions)
        last = [message async for message in messages(channel)][-1]
        how = Exit.decode(last)
        assert (how.timed_out, how.reason) == (True, "its time was up after 0.5 s, and what it wrote was not read")


async def test_the_cap_of_output_is_exact_however_long_the_end_takes(tmp_path: Path):
    script = "trap '' TERM HUP; exec 3>&1; yes >&3"
    async with serving("shell?free=1&output_bytes_max=1MiB&grace_seconds=200ms", tmp_path) as (_, client):
        how, out, _ = await run(client, "sh", "-c", script)
    assert (how.reason, len(out)) == ("it wrote more than 1,048,576 bytes", 1 << 20)


async def test_who_finishes_the_channel_ends_the_input_and_gets_all_output(tmp_path: Path):
    async with serving("shell?free=1", tmp_path) as (_, client):
        channel = await client.open("shell")
        channel.send(Request(["sh", "-c", "cat; head -c 3000000 /dev/zero"]).encode())
        channel.send(bytes([Kind.STDIN]) + b"hello")
        channel.finish()
        said = [message async for message in messages(channel)]
    assert b"".join(message[1:] for message in said if message[0] == Kind.STDOUT) == b"hello" + bytes(3_000_000)
    assert Exit.decode(said[-1]).status == 0


async def test_who_finishes_without_a_word_is_let_go(tmp_path: Path):
    async with serving("shell?free=1", tmp_path) as (server, client):
        channel = await client.open("shell")
        channel.finish()
        assert [message async for message in messages(channel)] == []
        await until(lambda: not server.channels)


async def test_signals_that_nobody_takes_cost_no_memory(tmp_path: Path):
    async with serving("shell?free=1&grace_seconds=0", tmp_path) as (server, client):
        channel = await begun(client, "sh", "-c", "trap '' CONT; cat")
        [only] = service(server)._sessions.values()
        keeper = keeper_of(os.getpid())
        [supervisor] = children(keeper)
        os.kill(keeper, signal.SIGSTOP)  # else it would end the other one
        os.kill(supervisor, signal.SIGSTOP)
        try:
            for _ in range(20_000):
                channel.send(signal_message("CONT"))
            await client.ping()
            assert 0 < only._process._orders.waiting <= process._ORDERS_MAX
        finally:
            os.kill(supervisor, signal.SIGCONT)
            os.kill(keeper, signal.SIGCONT)
        channel.send(END_OF_STDIN)
        said = [message async for message in messages(channel)]
        assert Exit.decode(said[-1]).status == 0


async def test_a_keeper_that_takes_nothing_is_waited_for_no_longer_than_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "_HAND_OVER_SECONDS", 0.2)
    async with serving("shell?free=1", tmp_path) as (server, client):
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patched:
            patched.setattr(service(server).keeper, "request", lambda descriptors: False)
            how, _, _ = await run(client, "true")
        assert (how.status, how.reason) == (126, "true: cannot be started (start): resource temporarily unavailable")
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        how, _, _ = await run(client, "true")
        assert how.status == 0


async def test_after_the_stop_no_keeper_is_started_again(tmp_path: Path):
    async with serving("shell?free=1", tmp_path) as (server, client):
        await run(client, "true")
        keeper = service(server).keeper
        keeper.stop()
        await keeper.wait_stopped(PATIENCE_SECONDS)
        how, _, _ = await run(client, "true")
        assert how.status == 126
        assert keeper.pid == 0
