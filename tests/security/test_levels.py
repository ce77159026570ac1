"""The level of authentication that a listener asks for, in force: who gets in, as whom, and what the others read."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from security.services import Recorder

import kernel
from kernel import (
    Code,
    DialError,
    Key,
    Keyring,
    Needs,
    NeedsCapability,
    OptionError,
    Principal,
    Refused,
    Server,
    SocketConnection,
    UsageError,
)
from kernel.registry import TRANSPORTS, Registry
from kernel.transports.unix import Unix

ALICE = Keyring([Key("alice/1", bytes(32))])
WRONG = Keyring([Key("alice/1", bytes(31) + b"\1")])
LOOPBACK = "tcp://127.0.0.1:0"


async def test_with_keys_a_tcp_listener_asks_for_them_and_the_service_sees_who_it_is():
    async with Server([recorder := Recorder()], [LOOPBACK], keys=ALICE) as server:
        async with kernel.connect(server.endpoints[0], "echo", keys=ALICE) as channel:
            channel.send(b"hello")
            assert await channel.receive() == b"hello"
            assert str(channel.peer.principal) == "hmac:alice"
        assert recorder.opened_by == ["hmac:alice"]


@pytest.mark.parametrize("listen", [LOOPBACK, "udp://127.0.0.1:0"])
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (None, "give the client a secret, --secret-file FILE"),
        (WRONG, "authentication failed (we hold the key 'alice/1': it may be unknown there"),
    ],
)
async def test_who_has_no_key_or_a_wrong_one_reads_one_line(keys: Keyring | None, words: str, listen: str):
    async with Server([recorder := Recorder()], [listen], keys=ALICE) as server:
        with pytest.raises((DialError, Refused)) as caught:
            await kernel.connect(server.endpoints[0], "echo", keys=keys)
        assert caught.value.code is Code.UNAUTHENTICATED
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert recorder.opened_by == []


async def test_our_own_log_knows_why_and_who_has_come(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    async with Server([Recorder()], [LOOPBACK], keys=ALICE) as server:
        with pytest.raises(DialError):
            await kernel.connect(server.endpoints[0], "echo", keys=WRONG)
    [record] = [vars(record) for record in caplog.records if record.getMessage() == "a connection ended"]
    assert record["reason"] == "the key 'alice/1' was not proved"
    assert record["code"] == "unauthenticated"
    assert record["principal"] == "anonymous"
    assert record["peer"].startswith("127.0.0.1:")


async def test_a_client_does_not_talk_to_a_server_that_cannot_prove_the_key():
    async with Server([recorder := Recorder()], [LOOPBACK], keys=WRONG) as server:
        with pytest.raises(DialError):
            await kernel.connect(server.endpoints[0], "echo", keys=ALICE)
    async with Server([recorder], [LOOPBACK]) as server:
        with pytest.raises(DialError, match="leave the secret out"):
            await kernel.connect(server.endpoints[0], "echo", keys=ALICE)
    assert recorder.opened_by == []


async def test_a_listener_can_say_that_it_asks_for_nothing():
    async with Server([recorder := Recorder()], [LOOPBACK + "?auth=none"], keys=ALICE) as server:
        async with kernel.connect(server.endpoints[0].without_options(), "echo"):
            pass
        async with kernel.connect(server.endpoints[0], "echo", keys=ALICE):
            pass
    assert recorder.opened_by == ["anonymous", "anonymous"]


async def test_on_a_unix_socket_the_operating_system_says_who_it_is(tmp_path: Path):
    async with Server([recorder := Recorder()], [f"unix:{tmp_path}/s"], keys=ALICE) as server:
        for keys in (None, ALICE):
            async with kernel.connect(server.endpoints[0], "echo", keys=keys):
                pass
        async with kernel.connect(f"unix:{tmp_path}/s?auth=none", "echo"):
            pass
    assert recorder.opened_by == [f"unix:{os.geteuid()}"] * 3


async def test_datagrams_carry_proofs_too():
    async with (
        Server([recorder := Recorder()], ["udp://127.0.0.1:0"], keys=ALICE) as server,
        kernel.connect(server.endpoints[0], "echo", keys=ALICE) as channel,
    ):
        channel.send(b"hello")
        assert await channel.receive() == b"hello"
    assert recorder.opened_by == ["hmac:alice"]
    async with Server([recorder], ["udp://127.0.0.1:0"]) as server:
        with pytest.raises(kernel.ChannelClosed, match="leave the secret out"):
            await kernel.connect(server.endpoints[0], "echo", keys=ALICE)


class Foreign(Unix):
    """UNIX sockets whose peers all belong to another user."""

    def connection(self, sock: socket.socket) -> SocketConnection:
        return SocketConnection(sock, "", "", Principal("4711", "unix", 4711, 4711))


class WithForeigners(Registry):
    def load(self, group: str, name: str) -> Any:
        return Foreign if (group, name) == (TRANSPORTS, "unix") else super().load(group, name)


async def test_another_user_of_this_machine_is_refused_unless_the_listener_says_otherwise(tmp_path: Path):
    listen = [f"unix:{tmp_path}/asks?mode=666", f"unix:{tmp_path}/open?mode=666&auth=none"]
    async with Server([recorder := Recorder()], listen, registry=WithForeigners()) as server:
        asks, asks_nothing = server.endpoints
        with pytest.raises(Refused, match="unix:4711 may not open 'echo' here"):
            await kernel.connect(asks, "echo")
        async with kernel.connect(asks_nothing, "echo"):
            pass
    assert recorder.opened_by == ["unix:4711"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_the_operating_system_tells_who_really_connects():
    name = f"kernel-test-{os.getpid()}"
    endpoint = f"unix:@{name}?auth=none&framing=raw"
    async with Server([recorder := Recorder()], [endpoint]):
        child = os.fork()
        if child == 0:
            try:
                os.setuid(4711)
                socket.socket(socket.AF_UNIX).connect(f"\0{name}")
            finally:
                os._exit(0)
        await asyncio.wait_for(recorder.ended.wait(), 20)
        os.waitpid(child, 0)  # noqa: ASYNC222 (it has ended)
    assert recorder.opened_by == ["unix:4711"]


@pytest.mark.parametrize(
    ("endpoint", "keys", "error", "words"),
    [
        (LOOPBACK + "?auth=hmac", None, UsageError, "add --secret-file FILE"),
        (LOOPBACK + "?auth=tls", ALICE, OptionError, "it can have none or hmac"),
        (LOOPBACK + "?auth=hmac5", ALICE, OptionError, "it can have none or hmac"),
        (LOOPBACK + "?framing=raw", ALICE, UsageError, "leave the secret out, or add auth=none"),
        (LOOPBACK + "?framing=raw&auth=hmac", ALICE, OptionError, "use framing=knl, or auth=none"),
        ("unix:/tmp/x?auth=tls", ALICE, OptionError, "it can have none or hmac or unix"),
    ],
)
async def test_levels_that_cannot_be_are_refused_before_anything_starts(
    endpoint: str, keys: Keyring | None, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        await Server([Recorder()], [endpoint], keys=keys).start()
    with pytest.raises(error, match=words):
        await kernel.dial(endpoint, keys=keys)


class Careful(Recorder):
    name = "careful"
    needs = Needs(authenticated=True)


async def test_a_service_for_known_peers_is_not_served_where_nobody_is_asked(tmp_path: Path):
    with pytest.raises(NeedsCapability, match=r"'careful' is for peers that prove who they are.*add --secret-file"):
        await Server([Careful()], [LOOPBACK]).start()
    with pytest.raises(NeedsCapability):
        await Server([Careful()], [f"unix:{tmp_path}/s?auth=none"], keys=ALICE).start()
    async with Server([Careful()], [f"unix:{tmp_path}/s", LOOPBACK], keys=ALICE):
        pass


async def test_several_keys_are_several_principals():
    ring = Keyring([Key("alice", bytes(32)), Key("bob", bytes(range(32)))])
    async with Server([recorder := Recorder()], [LOOPBACK], keys=ring) as server:
        for name in ("bob", "alice"):
            key = ring.find(name)
            assert key is not None
            async with kernel.connect(server.endpoints[0], "echo", keys=Keyring([key])):
                pass
    assert recorder.opened_by == ["hmac:bob", "hmac:alice"]
