"""Who gets a place at a server, seen from plain sockets: the numbers in force, and what those hear who get none."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from security.hostile import PREFACE, Stranger, hello, serving, split_preface, until
from security.services import Recorder

import kernel
from kernel import Code, DialError, Limits
from kernel.admission import Admission, source_of
from kernel.limits import connections_for_descriptors
from kernel.throttle import Throttle


async def admitted(stranger: Stranger) -> bool:
    """Whether the server speaks with it: a HELLO and nothing that ends it."""
    await stranger.send(PREFACE + hello())
    said = await stranger.read(len(PREFACE) + 16)
    return len(said) == len(PREFACE) + 16 and said[9] == 1


async def refusal(stranger: Stranger) -> tuple[int, str]:
    """The one frame that a server says to a client for which it has no place."""
    [error] = split_preface(await stranger.read_to_end())
    return error.code, error.reason


async def test_one_more_than_connections_max_is_told_that_the_server_is_full():
    async with serving(Recorder(), connections_max=3) as server:
        inside = [await Stranger.connect(server.endpoints[0]) for _ in range(3)]
        assert [await admitted(one) for one in inside] == [True] * 3
        code, reason = await refusal(await Stranger.connect(server.endpoints[0]))
        assert code == Code.OVERLOADED
        assert "full, 3 connections" in reason


async def test_a_client_prints_why_it_was_turned_away():
    async with serving(Recorder(), connections_max=1) as server:
        inside = await Stranger.connect(server.endpoints[0])
        assert await admitted(inside)
        with pytest.raises(DialError, match="the server is full") as caught:
            await kernel.dial(server.endpoints[0])
        assert caught.value.code is Code.OVERLOADED
        assert "\n" not in str(caught.value)


async def test_a_place_that_is_given_back_can_be_taken():
    async with serving(Recorder(), connections_max=1) as server:
        first = await Stranger.connect(server.endpoints[0])
        assert await admitted(first)
        first.close()
        await until(lambda: not server._links)
        assert await admitted(await Stranger.connect(server.endpoints[0]))


async def test_those_who_do_not_hang_up_after_a_refusal_are_few():
    async with serving(Recorder(), connections_max=1) as server:
        assert await admitted(await Stranger.connect(server.endpoints[0]))
        turned_away = [await Stranger.connect(server.endpoints[0]) for _ in range(40)]
        said = [await one.read_to_end() for one in turned_away]
        assert sum(1 for words in said if words) == 32
        assert sum(1 for one in turned_away if one.was_reset) == 8


async def test_one_source_has_its_own_number_of_places():
    async with serving(Recorder(), connections_per_source_max=2) as server:
        endpoint = server.endpoints[0]
        assert await admitted(await Stranger.connect(endpoint, "127.0.0.2"))
        assert await admitted(await Stranger.connect(endpoint, "127.0.0.2"))
        code, reason = await refusal(await Stranger.connect(endpoint, "127.0.0.2"))
        assert code == Code.OVERLOADED
        assert "2 connections from your address" in reason
        assert await admitted(await Stranger.connect(endpoint, "127.0.0.3"))


async def test_this_machine_is_exempt_from_the_limits_per_source():
    async with serving(Recorder(), connections_per_source_max=1, accepts_per_second_per_source_max=1) as server:
        many = [await Stranger.connect(server.endpoints[0]) for _ in range(5)]
        assert [await admitted(one) for one in many] == [True] * 5


async def test_a_source_that_comes_back_too_fast_is_told_to_slow_down():
    async with serving(Recorder(), connections_per_source_max=4, accepts_per_second_per_source_max=1) as server:
        before, count = time.monotonic(), 0
        while await admitted(stranger := await Stranger.connect(server.endpoints[0], "127.0.0.2")):
            count += 1
            stranger.close()
            await asyncio.sleep(0)
        assert 4 <= count <= 5 + (time.monotonic() - before)
        code, reason = await refusal(await Stranger.connect(server.endpoints[0], "127.0.0.2"))
        assert code == Code.RATE_LIMITED
        assert "more than 1 connections a second" in reason


async def test_where_the_framing_has_no_words_the_refusal_is_a_reset():
    async with serving(Recorder(), "tcp://127.0.0.1:0?framing=raw", connections_max=1) as server:
        await (await Stranger.connect(server.endpoints[0])).send(b"hello")
        second = await Stranger.connect(server.endpoints[0])
        assert await second.read_to_end() == b""
        assert second.was_reset


def test_tokens_are_earned_with_time_and_never_beyond_the_places():
    admission = Admission(Limits(connections_per_source_max=2, accepts_per_second_per_source_max=4))

    def come_and_go(now: float) -> bool:
        if admission.admit("a", now) is not None:
            return False
        admission.leave("a")
        return True

    assert [come_and_go(0.0) for _ in range(3)] == [True, True, False]
    assert [come_and_go(0.25) for _ in range(2)] == [True, False]
    assert [come_and_go(100.0) for _ in range(3)] == [True, True, False]


def test_a_source_is_forgotten_when_nothing_needs_to_be_known_of_it():
    admission = Admission(Limits(connections_per_source_max=2, accepts_per_second_per_source_max=1))
    for number in range(1000):
        assert admission.admit(str(number), 0.0) is None
    for number in range(1, 1000):
        admission.leave(str(number))
    admission.forget_idle(0.5)
    assert len(admission._places) == 1000
    admission.forget_idle(2.0)
    assert list(admission._places) == ["0"]


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.7:50312", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:50312", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.7]:50312", "192.0.2.7"),
        ("[fe80::1%eth0]:50312", "fe80::/64"),
        ("127.0.0.1:50312", "this machine"),
        ("[::1]:50312", "this machine"),
        ("[::ffff:127.0.0.1]:50312", "this machine"),
        ("127.0.0.2:50312", "127.0.0.2"),
        ("somewhere else", "somewhere else"),
    ],
)
async def test_the_source_of_a_peer(peer: str, source: str):
    ours, theirs = socket.socketpair()
    with theirs:
        connection = kernel.SocketConnection(ours, "", peer)
        assert source_of(connection) == source
        connection.abort()
        await asyncio.sleep(0)


# --- descriptors ----------------------------------------------------------------------------------------------------


@pytest.fixture
def descriptors() -> Iterator[int]:
    """RLIMIT_NOFILE of this process, put back afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("soft", "connections"), [(64, 32), (256, 208), (1024, 921), (20_000, 10_000)])
def test_connections_max_leaves_some_of_the_descriptors(descriptors: int, soft: int, connections: int):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft > hard:
        pytest.skip("this machine allows fewer descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert connections_for_descriptors() == connections
    assert Limits().connections_max == connections


async def test_a_server_without_descriptors_rests_and_recovers(descriptors: int, caplog: pytest.LogCaptureFixture):
    async with serving(Recorder(), connections_max=10_000) as server:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = socket.socket()
        waiting.setblocking(False)
        holders = _take_all_descriptors(hard)
        began = time.monotonic()
        with pytest.raises(BlockingIOError):
            waiting.connect(server.endpoints[0].host_port())
        await until(lambda: len(caplog.records) >= 2)
        assert len(caplog.records) <= 1 + (time.monotonic() - began)
        assert "ulimit -n" in caplog.text
        for holder in holders:
            holder.close()
        stranger = Stranger(waiting)
        assert await admitted(stranger)
        stranger.close()


def _take_all_descriptors(hard: int) -> list[socket.socket]:
    """Lower the limit to what is in use, and use up what is left."""
    holders = [socket.socket()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (holders[0].fileno() + 8, hard))
    while True:
        try:
            holders.append(socket.socket())
        except OSError:
            return holders


def test_a_throttle_lets_one_record_a_second_through_and_counts_the_rest(caplog: pytest.LogCaptureFixture):
    now = [0.0]
    throttle = Throttle(logging.getLogger("throttled"), lambda: now[0])
    for at in (0.0, 0.1, 0.9, 1.0, 1.5, 2.5):
        now[0] = at
        throttle.record(logging.WARNING, "at %s", at)
    assert [record.getMessage() for record in caplog.records] == ["at 0.0", "at 1.0", "at 2.5"]
    assert [getattr(record, "left_out", 0) for record in caplog.records] == [0, 2, 1]
