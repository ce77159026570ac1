"""Listeners that others can reach: refused unless they are protected, or somebody says that they need not be."""

from __future__ import annotations

import logging

import pytest
from security.services import Recorder

from kernel import Acceptor, Capabilities, Key, Keyring, Layer, Listener, Server, StartError
from kernel.registry import LAYERS, Registry

ALICE = Keyring([Key("alice", bytes(32))])


class Sealed(Layer):
    """A layer that says that it encrypts."""

    name = "sealed"

    def capabilities(self) -> Capabilities:
        return Capabilities(encrypted=True)

    async def listen(self, accept: Acceptor) -> Listener:
        return await self.inner.listen(accept)

    async def dial(self) -> None:  # type: ignore[override]
        raise NotImplementedError


class WithSealed(Registry):
    def load(self, group: str, name: str) -> object:
        return Sealed if (group, name) == (LAYERS, "sealed") else super().load(group, name)


def server(endpoint: str, keys: Keyring | None = None, *, allowed: bool = False) -> Server:
    return Server([Recorder()], [endpoint], keys=keys, allow_insecure_network=allowed, registry=WithSealed())


@pytest.mark.parametrize(
    ("endpoint", "keys", "words"),
    [
        (
            "tcp://0.0.0.0:0",
            None,
            "tcp://0.0.0.0:0 can be reached from the network without authentication and without encryption: "
            "add --secret-file FILE (`kernel keys new FILE` makes one) and write tls+tcp://, listen on 127.0.0.1, "
            "or give --allow-insecure-network",
        ),
        ("tcp://[::]:0", None, "without authentication and without encryption"),
        ("tcp://127.0.0.1.example:0", None, "without authentication and without encryption"),
        ("tcp://0.0.0.0:0", ALICE, "without encryption: write tls+tcp://"),
        ("sealed+tcp://0.0.0.0:0", None, "without authentication: add --secret-file"),
        ("sealed+tcp://0.0.0.0:0?auth=none", ALICE, "without authentication: add --secret-file"),
        ("tcp://0.0.0.0:0?framing=raw", None, "without authentication and without encryption"),
        ("udp://0.0.0.0:0", None, "without authentication and without encryption"),
    ],
)
async def test_what_is_open_to_the_network_must_be_protected(endpoint: str, keys: Keyring | None, words: str):
    with pytest.raises(StartError) as caught:
        await server(endpoint, keys).start()
    assert words in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("endpoint", "keys"),
    [
        ("tcp://127.0.0.1:0", None),
        ("tcp://127.8.9.10:0", None),
        ("tcp://localhost:0", None),
        ("udp://127.0.0.1:0", None),
        ("unix:@kernel-test-exposure", None),
        ("sealed+tcp://0.0.0.0:0", ALICE),
    ],
)
async def test_what_is_protected_or_local_needs_no_permission(endpoint: str, keys: Keyring | None):
    async with server(endpoint, keys) as running:
        assert running.endpoints


async def test_a_permission_is_used_and_logged_at_each_start(caplog: pytest.LogCaptureFixture):
    for _ in range(2):
        async with server("tcp://0.0.0.0:0", allowed=True):
            pass
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "tcp://0.0.0.0:0 can be reached from the network without authentication and without encryption "
        "(--allow-insecure-network)"
    ] * 2  # fmt: skip


async def test_datagrams_need_more_than_the_permission():
    with pytest.raises(StartError, match="without authentication: add --secret-file FILE, or auth=none if it shall"):
        await server("udp://0.0.0.0:0", allowed=True).start()
    with pytest.raises(StartError, match="without authentication: framing=raw has none, add auth=none if it shall"):
        await server("udp://0.0.0.0:0?framing=raw", allowed=True).start()
    with pytest.raises(StartError, match="without encryption: datagrams cannot be encrypted yet"):
        await server("udp://0.0.0.0:0", ALICE).start()
    for endpoint, keys in (("udp://0.0.0.0:0", ALICE), ("udp://0.0.0.0:0?auth=none", None)):
        async with server(endpoint, keys, allowed=True):
            pass
