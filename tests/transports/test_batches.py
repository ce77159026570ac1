"""Batches of datagrams: the one system call and the calls one by one are the same to whoever uses them."""

from __future__ import annotations

import errno
import os
import random
import select
import socket

import pytest

from kernel import datagram_batches
from kernel.batches import BATCH, _OneByOne
from kernel.framing import engine


@pytest.fixture(params=["batch", "one by one"])
def make(request):
    if request.param == "batch" and engine().name != "c":
        pytest.skip("the C engine has batches")
    return datagram_batches if request.param == "batch" else _OneByOne


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def pair(request):
    """A bound socket, and one that is connected to it."""
    host = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    with (
        socket.socket(request.param, socket.SOCK_DGRAM) as bound,
        socket.socket(request.param, socket.SOCK_DGRAM) as to,
    ):
        try:
            bound.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        to.connect(bound.getsockname())
        bound.setblocking(False)
        to.setblocking(False)
        yield bound, to


def send_all(batches, packets, address=None):
    at = 0
    while at < len(packets):
        at += batches.send(packets, at, address)


def arrived(sock):
    assert select.select([sock], [], [], 30)[0]


async def test_datagrams_come_with_their_sources_and_answers_go_back(make, pair):
    bound, to = pair
    server, client = make(bound, connected=False), make(to, connected=True)
    packets = [b"", b"x", bytearray(b"yy"), memoryview(b"z" * 60_000)]
    send_all(client, packets)
    arrived(bound)
    received = server.receive()
    assert received == [(bytes(packet), to.getsockname()) for packet in packets]
    assert len({id(source) for _, source in received}) == 1 or make is _OneByOne
    send_all(server, [packet for packet, _ in received], received[0][1])
    arrived(to)
    assert client.receive() == [bytes(packet) for packet in packets]


SO_NO_CHECK = 11
"""A socket that sends without checksums cannot have its packets cut by the system: it refuses runs (EINVAL)."""


def _mixtures():
    rng = random.Random(7)
    yield "all alike", [1024] * (BATCH + 20)
    yield "the last one shorter", [1200] * 9 + [300] + [1200] * 2 + [1200, 1]
    yield "more than one message holds", [9000] * 8
    yield "none alike", list(range(1, 40))
    yield "empty ones between", [5, 5, 0, 0, 5, 5]
    yield "at random", [rng.choice([0, 1, 100, 100, 100, 700, 700, 1400]) for _ in range(150)]


@pytest.mark.parametrize("refused", [False, True], ids=["segments", "segments refused"])
@pytest.mark.parametrize("sizes", [pytest.param(sizes, id=name) for name, sizes in _mixtures()])
async def test_runs_of_packets_arrive_as_they_were_given(make, pair, sizes, refused):
    bound, to = pair
    server, client = make(bound, connected=False), make(to, connected=True)
    if refused:
        to.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    packets = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    received, at = [], 0
    while at < len(packets):
        at += client.send(packets, at, None)
        while len(received) < at:
            arrived(bound)
            received += [data for data, _ in server.receive()]
    assert received == packets


@pytest.mark.skipif(engine().name != "c", reason="cuts no segments")
async def test_a_target_that_cannot_be_takes_no_segments_from_the_others(pair):
    bound, to = pair
    if not _keeps_runs(bound):
        pytest.skip("the system gives runs out one by one")
    server = datagram_batches(to, connected=False)
    nowhere = (to.getsockname()[0], 0, *to.getsockname()[2:])
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        server.send([b"x" * 100] * 4, 0, nowhere)
    assert server.send([b"x" * 100] * 4, 0, bound.getsockname()) == 4
    arrived(bound)
    assert len(bound.recv(1000)) == 400


UDP_GRO = 104


def _keeps_runs(sock):
    """From now on, if true, what arrives in one run is read as one."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


async def test_sources_are_told_apart(make, pair):
    bound, first = pair
    server = make(bound, connected=False)
    with socket.socket(first.family, socket.SOCK_DGRAM) as second:
        second.connect(bound.getsockname())
        for sock, data in ((first, b"1"), (second, b"2"), (second, b"3"), (first, b"4")):
            sock.send(data)
        arrived(bound)
        one, two = first.getsockname(), second.getsockname()
        assert server.receive() == [(b"1", one), (b"2", two), (b"3", two), (b"4", one)]
        for target, data in ((two, b"a"), (one, b"b"), (two, b"c")):
            send_all(server, [data], target)
        assert (second.recv(9), second.recv(9), first.recv(9)) == (b"a", b"c", b"b")


async def test_a_batch_has_its_end_and_nothing_is_told_as_such(make, pair):
    bound, to = pair
    server = make(bound, connected=False)
    with pytest.raises(BlockingIOError):
        server.receive()
    for n in range(BATCH + 10):
        to.send(b"%d" % n)
    arrived(bound)
    received = [*server.receive(), *server.receive()]
    assert [data for data, _ in received] == [b"%d" % n for n in range(BATCH + 10)]


async def test_what_cannot_be_sent_is_told_where_it_stands(make, pair):
    _, to = pair
    client = make(to, connected=True)
    packets = [b"fine", bytes(70_000), b"behind"]
    at = client.send(packets, 0, None)
    assert at == 1
    with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
        client.send(packets, 1, None)
    assert client.send(packets, 2, None) == 1


async def test_news_that_nobody_listens_come_as_an_error(make):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.connect(address)
        to.setblocking(False)
        client = make(to, connected=True)
        client.send([b"anybody?"], 0, None)
        arrived(to)
        with pytest.raises(ConnectionRefusedError):
            client.receive()


async def test_bad_arguments_are_refused():
    native = pytest.importorskip("kernel.framing.native", exc_type=ImportError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="BATCH_BYTES"):
            native.make_batches(sock.fileno(), bytearray(10), False)
        batches = datagram_batches(sock, connected=False)
        if engine().name == "c":
            with pytest.raises(ValueError, match="no numeric address"):
                batches.send([b"x"], 0, ("example.org", 1))
            with pytest.raises(TypeError):
                batches.send((b"x",), 0, None)
