"""Messages and the credit that pays for them: cut into frames, put together again, never more than was allowed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from session.worlds import EVERYTHING, Lone, Pair, begin, credit, data, decode, finished

from kernel.errors import Code, UsageError
from kernel.framing import knl
from kernel.limits import KIB, MIB, Limits
from kernel.session.base import Messages, Piece, Writable

TINY = Limits(channel_credit_bytes=64, connection_credit_bytes=64)
SMALL = Limits(frame_bytes_max=1024, channel_credit_bytes=4 * KIB, connection_credit_bytes=8 * KIB)


def pattern(nbytes: int, seed: int = 0) -> bytes:
    block = bytes((at + seed) % 251 for at in range(251))
    return (block * (nbytes // 251 + 1))[:nbytes]


def windows(pair: Pair) -> dict[str, int]:
    """What the connection's windows hold when all is consumed: the credit, and what is not worth a CREDIT frame yet."""
    client, server = pair.client.session, pair.server.session
    return {
        "client sends": client.account.send_credit_bytes + server.account.ungranted_bytes,
        "server grants": server.account.receive_credit_bytes + server.account.ungranted_bytes,
        "server sends": server.account.send_credit_bytes + client.account.ungranted_bytes,
        "client grants": client.account.receive_credit_bytes + client.account.ungranted_bytes,
    }


# --- cutting and putting together --------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), SMALL, TINY], ids=["default", "small", "tiny"])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1023, 1024, 1025, 8192, 65_536, 65_537, 200_000])
def test_messages_of_every_size_arrive_byte_exact(engine_name, limits, size):
    if limits is TINY and size > 10_000:
        pytest.skip("thousands of frames")
    pair = Pair.of(engine_name, server=limits)
    ours, theirs = pair.open()
    messages = [pattern(size, 1), b"between", pattern(size, 2), b"", pattern(size, 3)]
    pair.client.session.send_many(ours, messages)
    pair.settle()
    assert pair.server.received[theirs] == messages
    pair.server.session.send(theirs, messages[0])
    pair.settle()
    assert pair.client.received[ours] == messages[:1]


def test_messages_arrive_whole_however_the_bytes_are_cut(engine_name):
    sent = [b"a", pattern(5000), b"", pattern(1024), pattern(1025)]
    source = Pair.of(engine_name, server=SMALL)
    ours, _ = source.open()
    source.client.session.send_many(ours, sent)
    source.client.session.finish(ours)
    source.client.collect()
    wire = bytes(source.client.wire)
    assert len(wire) > 4000
    for step in (1, 2, 3, 5, 16, 17, 100, 1000, 1039, 1040, 1041):
        lone = Lone(engine_name, limits=SMALL)
        stream = lone.opened(1)
        for start in range(0, len(wire), step):
            lone.feed(wire[start : start + step])
        lone.consume()
        assert lone.received[stream] == sent[:1] + lone.received[stream][1:]
        assert lone.ended is None


def test_a_large_frame_is_received_into_its_own_buffer(engine_name):
    limits = Limits(frame_bytes_max=4 * MIB, channel_credit_bytes=16 * MIB, connection_credit_bytes=16 * MIB)
    lone = Lone(engine_name, limits=limits)
    stream = lone.opened(1)
    message = pattern(3 * MIB)
    wire = data(message)
    lone.feed(wire[:MIB])
    assert lone.session.wanted() is not None
    lone.feed(wire[MIB:])
    assert lone.received[stream] == [message]


def test_a_message_within_a_frame_is_one_frame_and_a_longer_one_announces_its_length(engine_name):
    lone = Lone(engine_name, peer=SMALL)
    stream = lone.opened()
    lone.session.send_many(stream, [pattern(1024), pattern(1025)])
    short, first, second = lone.frames()
    assert short == (knl.DATA, 0, 1, pattern(1024))
    assert first[:3] == (knl.DATA, knl.BEGIN | knl.MORE, 1)
    assert second[:3] == (knl.DATA, 0, 1)
    assert first[3][:8] == (1025).to_bytes(8, "big")
    assert first[3][8:] + second[3] == pattern(1025)


def test_pieces_are_sent_as_they_come_and_make_one_message(engine_name):
    pair = Pair.of(engine_name, server=SMALL)
    ours, theirs = pair.open()
    whole = pattern(10_000)
    for start in range(0, 10_000, 2500):
        pair.client.session.send_piece(ours, whole[start : start + 2500], 10_000, start == 7500)
        pair.settle()
    pair.client.session.send(ours, b"after")
    pair.settle()
    assert pair.server.received[theirs] == [whole, b"after"]


def test_pieces_of_nothing_count_too(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    session = pair.client.session
    session.send_piece(ours, b"", 3, False)
    session.send_piece(ours, b"abc", 3, True)
    session.send_piece(ours, b"", 0, True)
    pair.settle()
    assert pair.server.received[theirs] == [b"abc", b""]


def test_pieces_that_do_not_add_up_are_refused_and_change_nothing(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    session = pair.client.session
    for wrong in ((b"abcd", 3, True), (b"ab", 3, True), (b"abc", 3, False)):
        with pytest.raises(UsageError):
            session.send_piece(ours, *wrong)
    session.send_piece(ours, b"ab", 3, False)
    for call in (
        lambda: session.send(ours, b"x"),
        lambda: session.send_many(ours, [b"x"]),
        lambda: session.finish(ours),
        lambda: session.send_piece(ours, b"cd", 3, True),
    ):
        with pytest.raises(UsageError):
            call()
    session.send_piece(ours, b"c", 3, True)
    pair.settle()
    assert pair.server.received[theirs] == [b"abc"]


def test_pieces_are_received_as_they_come_where_they_are_wanted(engine_name):
    pair = Pair.of(engine_name, server=Limits(message_bytes_max=1000), pieces=True)
    ours, theirs = pair.open()
    whole = pattern(300_000)
    pair.client.session.send_many(ours, [b"short", whole])
    pair.settle()
    assert pair.server.received[theirs] == [b"short", whole]
    pieces = pair.server.all_of(Piece)
    assert len(pieces) > 4
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_client_can_ask_for_pieces_too(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open(pieces=True)
    pair.server.session.send(theirs, pattern(100_000))
    pair.settle()
    assert pair.client.received[ours] == [pattern(100_000)]
    assert pair.client.all_of(Piece)


@pytest.mark.parametrize(
    "frames",
    [
        [data(b"x", flags=knl.MORE)],
        [begin(4, b"ab"), begin(4, b"cd", flags=0)],
        [data(b"1234567", flags=knl.BEGIN)],
        [begin(4, b"12345")],
        [begin(4, b"1234")],
        [begin(4, b"12", flags=0)],
        [begin(4, b"12"), data(b"345")],
        [begin(4, b"12"), data(b"3")],
        [begin(4, b"12"), data(b"34", flags=knl.MORE)],
        [begin(4, b"12"), data(flags=knl.FIN)],
        [data(b"x", flags=knl.FIN)],
    ],
    ids=[
        "goes on without a beginning", "begins inside another", "no room for a length", "too much at once",
        "complete and yet more", "incomplete and no more", "too much in the end", "too little in the end",
        "more after the end", "fin inside", "fin with data",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [False, True])
def test_frames_that_make_no_message_are_a_fault(engine_name, frames, pieces):
    lone = Lone(engine_name, pieces=pieces)
    lone.opened()
    lone.brings(*frames)
    assert lone.ended is not None
    assert lone.ended.code is Code.PROTOCOL
    assert len(lone.ended.reason) < 200


def test_a_long_message_right_behind_open_gets_its_credit_back(engine_name):
    pair = Pair.of(engine_name, server=TINY)
    stream = pair.client.session.open("echo")
    pair.client.session.send(stream, pattern(200))
    pair.settle()
    assert pair.server.received[pair.twin(stream)] == [pattern(200)]


def test_a_run_of_frames_may_end_one_message_and_bring_others(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.brings(begin(6, b"lo"), data(b"ng", flags=knl.MORE), data(b"er"), data(b"a"), data(b"b"))
    lone.brings(begin(1, b"c", flags=0))
    assert lone.received[stream] == [b"longer", b"a", b"b", b"c"]


def test_an_announced_message_that_is_empty(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.brings(begin(0, b"", flags=0), begin(2, b""), data(flags=knl.MORE), data(b"ab"))
    assert lone.received[stream] == [b"", b"ab"]


# --- limits --------------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit_resets_its_stream_and_no_other(engine_name):
    pair = Pair.of(engine_name, server=Limits(message_bytes_max=100_000))
    ours, theirs = pair.open()
    others, their_others = pair.open()
    pair.client.session.send(ours, bytes(100_000))
    pair.client.session.send(ours, bytes(100_001))
    pair.client.session.send(others, b"fine")
    pair.settle()
    assert len(pair.server.received[theirs]) == 1
    assert pair.server.received[their_others] == [b"fine"]
    closed = pair.client.closed(ours)
    assert closed is not None
    assert closed.code is Code.MESSAGE_TOO_LARGE
    assert "message_bytes_max" in closed.reason
    assert len(set(windows(pair).values())) == 1


def test_a_frame_over_the_limit_is_refused_from_its_header_alone(engine_name):
    lone = Lone(engine_name, limits=SMALL)
    lone.opened()
    lone.feed(data(bytes(1025))[:16])
    assert lone.ended is not None
    assert lone.ended.code is Code.FRAME_TOO_LARGE


def test_unfinished_messages_of_a_connection_have_a_limit_together(engine_name):
    lone = Lone(engine_name, limits=Limits(message_bytes_max=MIB, assembly_bytes_max=2 * MIB))
    streams = [lone.opened(channel) for channel in (1, 3, 5)]
    for stream in streams:
        lone.brings(begin(MIB, b"x", stream.channel))
    assert [lone.closed(stream) and lone.closed(stream).code for stream in streams] == [None, None, Code.OVERLOADED]
    lone.session.reset(streams[0], Code.OK, "")
    another = lone.opened(7)
    lone.brings(begin(MIB, b"x", 7))
    assert lone.closed(another) is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_an_announced_length_alone_costs_no_memory(engine_name):
    lone = Lone(engine_name, limits=Limits(assembly_bytes_max=64 * MIB * 16))
    before = resident_bytes()
    for channel in range(1, 129, 2):
        lone.opened(channel)
        lone.brings(begin(16 * MIB, b"x", channel))
    assert lone.ended is None
    assert resident_bytes() - before < 8 * MIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_long_messages_that_nobody_reads_hold_the_peer_back(engine_name):
    """They cost the windows only a frame each: what holds the peer back is their own sum."""
    limits = Limits(message_bytes_max=MIB, assembly_bytes_max=2 * MIB, connection_credit_bytes=MIB)
    pair = Pair.of(engine_name, server=limits)
    streams = [pair.open() for _ in range(32)]
    for at, (ours, _) in enumerate(streams):
        pair.client.session.send(ours, pattern(MIB, at))
        pair.settle(consume=False)
    held = sum(len(message) for messages in pair.server.received.values() for message in messages)
    assert held <= 5 * MIB
    pair.settle()
    assert [pair.server.received[theirs] for _, theirs in streams] == [[pattern(MIB, at)] for at in range(32)]
    assert set(windows(pair).values()) == {MIB}


def test_many_long_messages_at_once_wait_for_each_other(engine_name):
    """The receiver says how much it puts together at a time; a sender that heeds it is never refused."""
    limits = Limits(message_bytes_max=100_000, assembly_bytes_max=250_000)
    pair = Pair.of(engine_name, server=limits)
    streams = [pair.open() for _ in range(20)]
    for at, (ours, _) in enumerate(streams):
        pair.client.session.send_many(ours, [pattern(90_000 + at, at), b"short"])
    pair.settle()
    for at, (_, theirs) in enumerate(streams):
        assert pair.server.received[theirs] == [pattern(90_000 + at, at), b"short"]


def test_a_long_message_that_is_given_up_makes_room_for_others(engine_name):
    pair = Pair.of(engine_name, server=Limits(message_bytes_max=100_000, assembly_bytes_max=100_000))
    halted, _ = pair.open()
    waiting, theirs = pair.open()
    pair.client.session.send_piece(halted, bytes(50_000), 100_000, False)
    pair.settle()
    pair.client.session.send(waiting, pattern(100_000))
    pair.settle()
    assert theirs not in pair.server.received
    pair.client.session.reset(halted, Code.CANCELLED, "")
    pair.settle()
    assert pair.server.received[theirs] == [pattern(100_000)]


def test_pieces_without_a_limit_keep_nobody_waiting(engine_name):
    limits = Limits(message_bytes_max=100_000, assembly_bytes_max=100_000)
    pair = Pair.of(engine_name, server=limits, pieces=True)
    endless, _ = pair.open()
    other, theirs = pair.open()
    pair.client.session.send_piece(endless, bytes(200_000), 1 << 50, False)
    pair.client.session.send(other, pattern(100_000))
    pair.settle()
    assert pair.server.received[theirs] == [pattern(100_000)]


# --- credit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel_bytes", "connection_bytes", "limit"), [(1000, 10_000, "channel 1"), (10_000, 1000, "connection")]
)
def test_more_than_the_credit_is_a_fault(engine_name, channel_bytes, connection_bytes, limit):
    limits = Limits(channel_credit_bytes=channel_bytes, connection_credit_bytes=connection_bytes)
    lone = Lone(engine_name, limits=limits)
    lone.opened()
    lone.brings(data(bytes(1000 - 16)))
    assert lone.ended is None
    lone.brings(data())
    assert lone.ended is not None
    assert lone.ended.code is Code.FLOW_CONTROL
    assert limit in lone.ended.reason


def test_fin_is_free(engine_name):
    lone = Lone(engine_name, limits=Limits(channel_credit_bytes=1000))
    stream = lone.opened()
    lone.brings(data(bytes(1000 - 16)), data(flags=knl.FIN))
    assert lone.ended is None
    assert finished(lone, stream)


def test_empty_messages_cost_their_header(engine_name):
    lone = Lone(engine_name, peer=Limits(channel_credit_bytes=160))
    stream = lone.opened()
    lone.session.send_many(stream, [b""] * 100)
    assert len(lone.frames()) == 10
    assert stream.outgoing_bytes > 0
    assert len(lone.brings(credit(16, 1))) == 1


def test_sending_stops_at_the_channels_credit_and_others_go_on(engine_name):
    pair = Pair.of(engine_name, server=SMALL)
    blocked, blocked_theirs = pair.open()
    free, free_theirs = pair.open()
    pair.client.session.send(blocked, bytes(6000))
    pair.client.session.send_many(blocked, [bytes(500)] * 20)
    pair.settle(consume=False)
    pair.client.session.send(free, b"through")
    pair.settle(consume=False)
    assert pair.server.received[free_theirs] == [b"through"]
    pair.settle()
    assert len(pair.server.received[blocked_theirs]) == 21


def test_who_waits_longest_for_the_connections_credit_is_served_first(engine_name):
    limits = Limits(connection_credit_bytes=4096, channel_credit_bytes=1 << 20)
    lone = Lone(engine_name, peer=limits)
    large, small = lone.opened(1), lone.opened(3)
    lone.session.send_many(large, [bytes(2000)] * 4)
    lone.frames()
    for _ in range(20):
        lone.session.send_many(small, [bytes(500)] * 4)
        answer = lone.brings(credit(2048))
        if any(channel == 1 for _, _, channel, _ in answer):
            return
    pytest.fail("the large message starves")


@pytest.mark.parametrize("size", [1, 100, 500, 900, 1000, 1008])
def test_nothing_stalls_whatever_the_sizes_are(engine_name, size):
    """Credit is given back in halves of the window: a frame must never need more than the half that is left."""
    limits = Limits(channel_credit_bytes=1024, connection_credit_bytes=1024)
    pair = Pair.of(engine_name, server=limits)
    ours, theirs = pair.open()
    sizes = [*range(1, 40), size, 33, size, size]
    for seed, nbytes in enumerate(sizes):
        pair.client.session.send(ours, pattern(nbytes, seed))
        pair.settle()
    assert [len(message) for message in pair.server.received[theirs]] == sizes


@pytest.mark.parametrize("wrong", [credit(0), credit(0, 1), credit(2**31 - 1), credit(2**31 - 1, 1)])
def test_credit_of_nothing_or_too_much_is_a_fault(engine_name, wrong):
    lone = Lone(engine_name)
    lone.opened()
    lone.brings(wrong)
    assert lone.ended is not None
    assert lone.ended.code is Code.FLOW_CONTROL


@pytest.mark.parametrize("how", ["consume", "reset", "their reset", "release", "late"])
def test_credit_is_neither_leaked_nor_given_twice(engine_name, how):
    pair = Pair.of(engine_name, server=SMALL)
    start = windows(pair)
    for round_ in range(20):
        ours, theirs = pair.open()
        pair.client.session.send(ours, pattern(3000, round_))
        pair.client.session.send_many(ours, [b"x" * 100] * 5)
        if how == "late":
            pair.client.session.finish(ours)
            pair.client.collect()
            pair.server.session.reset(theirs, Code.CANCELLED, "")
        pair.settle(consume=how in ("consume", "late"))
        if how == "reset":
            pair.client.session.reset(ours, Code.CANCELLED, "")
        elif how == "their reset":
            pair.server.session.reset(theirs, Code.CANCELLED, "")
        else:
            pair.client.session.release(ours)
        pair.settle()
    assert windows(pair) == start
    assert pair.client.session.streams == pair.server.session.streams == []


def test_room_is_told_when_all_has_left(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.session.send_many(stream, [bytes(10_000)] * 10)
    stream.wants_writable = True
    while stream.outgoing_bytes:
        assert lone.all_of(Writable) == []
        lone.collect(20_000)
    assert len(lone.all_of(Writable)) == 1
    lone.session.send(stream, b"x")
    lone.collect()
    assert len(lone.all_of(Writable)) == 1


# --- order ---------------------------------------------------------------------------------------------------------


def test_control_frames_overtake_what_waits(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.session.send(stream, bytes(8 * MIB))
    lone.collect(100_000)
    lone.wire.clear()
    lone.session.ping(b"now")
    (first, *_) = lone.session.data_to_send(100_000)
    assert decode(bytes(first))[0][:1] == (knl.PING,)


def test_streams_take_turns(engine_name):
    lone = Lone(engine_name, peer=Limits(channel_credit_bytes=16 * MIB, connection_credit_bytes=64 * MIB))
    streams = [lone.opened(channel) for channel in (1, 3, 5)]
    for stream in streams:
        lone.session.send(stream, bytes(4 * MIB))
    chunks = itertools.takewhile(bool, iter(lambda: lone.session.data_to_send(64 * KIB), []))
    order = [decode(b"".join(chunk))[0][2] for chunk in itertools.islice(chunks, 30)]
    assert {channel: order.count(channel) for channel in (1, 3, 5)} == {1: 10, 3: 10, 5: 10}


def test_a_short_message_gets_through_beside_a_long_one(engine_name):
    pair = Pair.of(engine_name)
    long, _ = pair.open()
    short, theirs = pair.open()
    pair.client.session.send(long, bytes(16 * MIB))
    pair.client.collect(256 * KIB)
    pair.client.session.send(short, b"hello")
    pair.client.collect(256 * KIB)
    pair.move(pair.client, EVERYTHING)
    assert pair.server.received == {theirs: [b"hello"]}


def test_messages_of_one_read_come_as_one_event(engine_name):
    pair = Pair.of(engine_name)
    ours, _ = pair.open()
    pair.client.session.send_many(ours, [b"x"] * 1000)
    pair.settle()
    assert [len(event.messages) for event in pair.server.all_of(Messages)] == [1000]
