"""Who may open what: the table alone, and in force at a server."""

from __future__ import annotations

import os

import pytest
from security.services import Flood, Recorder

import kernel
from kernel import AccessPolicy, Code, Principal, Refused, Server

ALICE = Principal("alice", "hmac")


@pytest.mark.parametrize(
    ("pattern", "principal", "matches"),
    [
        ("hmac:alice", ALICE, True),
        ("hmac:*", ALICE, True),
        ("*", ALICE, True),
        ("hmac:ALICE", ALICE, False),
        ("alice", ALICE, False),
        ("tls:alice", ALICE, False),
        ("hmac:ali", ALICE, False),
        ("anonymous", Principal(), True),
        ("hmac:*", Principal(), False),
        ("tls:*.ops.example", Principal("a.ops.example", "tls"), True),
        ("unix:1000", Principal("1000", "unix", 1000, 1000), True),
        ("unix:100", Principal("1000", "unix", 1000, 1000), False),
    ],
)
def test_patterns_match_whole_principals(pattern: str, principal: Principal, matches: bool):
    assert AccessPolicy({pattern: ["echo"]}).permits(principal, "echo", "hmac") is matches


def test_all_rules_that_match_count_together_and_whoever_matches_none_gets_nothing():
    policy = AccessPolicy({"hmac:*": ["echo"], "hmac:alice": ["file"], "hmac:root": ["*"]})
    assert [policy.permits(ALICE, service, "hmac") for service in ("echo", "file", "shell")] == [True, True, False]
    assert policy.permits(Principal("root", "hmac"), "shell", "hmac")
    assert not policy.permits(Principal(), "echo", "none")
    assert not AccessPolicy({}).permits(ALICE, "echo", "hmac")


@pytest.mark.parametrize(
    ("principal", "level", "permitted"),
    [
        (Principal(), "none", True),
        (ALICE, "hmac", True),
        (Principal("0", "unix", 0, 0), "unix", True),
        (Principal("me", "unix", os.geteuid(), 0), "unix", True),
        (Principal("4711", "unix", 4711, 4711), "unix", False),
        (Principal("4711", "unix", 4711, 4711), "none", True),
    ],
)
def test_without_a_table_the_level_decides_and_of_local_users_ours_and_root(
    principal: Principal, level: str, permitted: bool
):
    assert AccessPolicy().permits(principal, "echo", level) is permitted


async def test_one_policy_for_every_transport(tmp_path: object):
    policy = AccessPolicy({f"unix:{os.geteuid()}": ["echo"], "anonymous": ["flood"]})
    listen = [f"unix:{tmp_path}/socket", "tcp://127.0.0.1:0"]
    async with Server([Recorder(), Flood()], listen, policy=policy) as server:
        local, remote = server.endpoints
        for endpoint, permitted, denied in ((local, "echo", "flood"), (remote, "flood", "echo")):
            async with kernel.connect(endpoint, permitted):
                pass
            with pytest.raises(Refused, match="may not open") as caught:
                await kernel.connect(endpoint, denied)
            assert caught.value.code is Code.FORBIDDEN


async def test_who_may_open_nothing_does_not_learn_what_there_is():
    async with Server([Recorder()], ["tcp://127.0.0.1:0"], policy=AccessPolicy({})) as server:
        for service in ("echo", "no-such-service"):
            with pytest.raises(Refused) as caught:
                await kernel.connect(server.endpoints[0], service)
            assert str(caught.value) == f"forbidden: anonymous may not open '{service}' here"


async def test_a_wrong_name_is_answered_with_those_that_the_peer_may_open():
    policy = AccessPolicy({"anonymous": ["echo", "other"]})
    async with Server([Recorder(), Flood()], ["tcp://127.0.0.1:0"], policy=policy) as server:
        with pytest.raises(Refused, match=r"there is no service 'other' here, but echo$"):
            await kernel.connect(server.endpoints[0], "other")
