"""Channels: how they open and are refused, how each direction ends, and what comes too late."""

from __future__ import annotations

import gc
import weakref

import pytest
from session.worlds import (
    EVERYTHING,
    Lone,
    Pair,
    begin,
    code_payload,
    credit,
    data,
    finished,
    frame,
    open_payload,
)

from kernel.errors import ChannelClosed, Code, Refused, UsageError
from kernel.framing import knl
from kernel.limits import Limits
from kernel.session import fields
from kernel.session.base import Closed, Finished, GoingAway, Messages, Opened, OpenRequested, Piece, Pong, Writable


def fault(lone: Lone) -> str:
    """Check that the peer broke the protocol; returns the reason."""
    assert lone.ended is not None
    assert (lone.ended.code, lone.ended.by_peer) == (Code.PROTOCOL, True)
    return lone.ended.reason


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_message_goes_each_way(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open("echo")
    assert theirs.service == "echo"
    pair.client.session.send(ours, b"ping")
    pair.settle()
    pair.server.session.send(theirs, b"pong")
    pair.settle()
    assert pair.server.received[theirs] == [b"ping"]
    assert pair.client.received[ours] == [b"pong"]


def test_who_opens_may_send_at_once(engine_name):
    pair = Pair.of(engine_name)
    stream = pair.client.session.open("echo")
    pair.client.session.send_many(stream, [b"a", b"b"])
    pair.client.session.finish(stream)
    pair.settle()
    assert pair.server.received[pair.twin(stream)] == [b"a", b"b"]
    assert finished(pair.server, pair.twin(stream))


def test_what_comes_before_the_answer_waits_for_it(engine_name):
    lone = Lone(engine_name, accepts=False)
    stream = lone.opened()
    lone.brings(data(b"early"), data(b"bird"), data(flags=knl.FIN))
    assert lone.all_of(Messages) == []
    lone.session.accept(stream)
    lone.collect()
    assert lone.received[stream] == [b"early", b"bird"]
    assert finished(lone, stream)


@pytest.mark.parametrize("pieces", [True, False])
def test_a_long_message_right_behind_open_is_received_as_the_service_wants_it(engine_name, pieces):
    limits = Limits(message_bytes_max=100)
    lone = Lone(engine_name, limits=limits, pieces=pieces)
    answer = lone.brings(frame(knl.OPEN, 1, open_payload()), begin(1000, bytes(500)))
    if pieces:
        assert [event.message_bytes for event in lone.all_of(Piece)] == [1000]
    else:
        assert [event.code for event in lone.all_of(Closed)] == [Code.MESSAGE_TOO_LARGE]
        assert answer[-1][0] == knl.RESET


def test_a_fault_right_behind_open_is_found_after_accepting(engine_name):
    lone = Lone(engine_name)
    lone.brings(frame(knl.OPEN, 1, open_payload()), begin(4, b"12345"))
    fault(lone)


def test_what_waits_for_the_answer_is_within_the_credit(engine_name):
    lone = Lone(engine_name, accepts=False, limits=Limits(channel_credit_bytes=4096))
    lone.opened()
    lone.feed(b"".join(data(bytes(1008)) for _ in range(4)))
    assert lone.ended is None
    lone.feed(data())
    assert lone.ended is not None
    assert lone.ended.code is Code.FLOW_CONTROL


def test_a_refused_channel_costs_nothing(engine_name):
    lone = Lone(engine_name, accepts=False, limits=Limits(connection_credit_bytes=4096))
    for channel in range(1, 41, 2):
        stream = lone.opened(channel)
        lone.brings(data(bytes(1000), channel), data(bytes(1000), channel))
        lone.session.refuse(stream, Code.NO_SUCH_SERVICE, "not here")
        assert (knl.RESET, 0, channel, code_payload(Code.NO_SUCH_SERVICE, "not here")) in lone.frames()
    assert lone.ended is None
    assert lone.session.streams == []


def test_the_reason_of_a_refusal_reaches_who_asked(engine_name):
    pair = Pair.of(engine_name)
    pair.server.accepts = False
    stream = pair.client.session.open("nosuch")
    pair.settle()
    pair.server.session.refuse(pair.twin(stream), Code.NO_SUCH_SERVICE, "there is none")
    pair.settle()
    closed = pair.client.closed(stream)
    assert closed is not None
    assert (closed.code, closed.reason, stream.accepted) == (Code.NO_SUCH_SERVICE, "there is none", False)


def test_channels_count_up_on_each_side_and_are_never_used_twice(engine_name):
    pair = Pair.of(engine_name)
    first = [pair.open()[0].channel for _ in range(3)]
    for stream in list(pair.client.session.streams):
        pair.client.session.reset(stream, Code.CANCELLED, "")
    pair.settle()
    assert [*first, pair.open()[0].channel] == [1, 3, 5, 7]
    assert pair.server.session.open("back").channel == 2


@pytest.mark.parametrize("channel", [0, 2, 1])
def test_open_of_a_wrong_number_is_a_fault(engine_name, channel):
    lone = Lone(engine_name)
    lone.opened(1)
    lone.brings(frame(knl.OPEN, channel, open_payload()))
    fault(lone)


def test_numbers_may_be_left_out(engine_name):
    lone = Lone(engine_name)
    lone.opened(9)
    assert lone.brings(data(b"late", 3)) == []
    assert lone.ended is None
    lone.brings(frame(knl.OPEN, 3, open_payload()))
    fault(lone)


@pytest.mark.parametrize(
    "payload", [b"\x00", fields.pack({1: b"x" * 256}), fields.pack({1: b"x"}) * 2], ids=["cut", "too long", "twice"]
)
def test_open_that_cannot_be_read_is_a_fault(engine_name, payload):
    lone = Lone(engine_name)
    lone.brings(frame(knl.OPEN, 1, payload))
    fault(lone)


def test_a_service_name_from_the_peer_is_fit_for_a_log(engine_name):
    lone = Lone(engine_name)
    lone.brings(frame(knl.OPEN, 1, fields.pack({1: b"e\x1b[31m\xff\n"})))
    assert lone.all_of(OpenRequested)[0].stream.service.isprintable()


def test_unknown_fields_of_open_and_accept_are_skipped(engine_name):
    lone = Lone(engine_name)
    lone.brings(frame(knl.OPEN, 1, fields.pack({1: b"echo", 77: b"later"})))
    assert lone.all_of(OpenRequested)
    lone = Lone(engine_name, client=True)
    lone.session.open("echo")
    lone.brings(frame(knl.ACCEPT, 1, fields.pack({77: b"later"})))
    assert lone.all_of(Opened)


def test_only_so_many_channels_at_once(engine_name):
    lone = Lone(engine_name, limits=Limits(channels_max=2))
    lone.opened(1)
    lone.opened(3)
    ((kind, _, channel, payload),) = lone.brings(frame(knl.OPEN, 5, open_payload()))
    assert (kind, channel, payload[:2]) == (knl.RESET, 5, Code.TOO_MANY_CHANNELS.to_bytes(2, "big"))
    lone.brings(frame(knl.RESET, 1, code_payload(Code.OK)))
    assert lone.brings(frame(knl.OPEN, 7, open_payload())) == [(knl.ACCEPT, 0, 7, b"")]


def test_the_peers_limit_of_channels_is_known_before_asking(engine_name):
    pair = Pair.of(engine_name, client=Limits(), server=Limits(channels_max=1))
    stream, _ = pair.open()
    with pytest.raises(Refused) as caught:
        pair.client.session.open("echo")
    assert caught.value.code is Code.TOO_MANY_CHANNELS
    pair.client.session.reset(stream, Code.OK, "")
    pair.open()


def test_names_of_services_have_a_limit(engine_name):
    pair = Pair.of(engine_name)
    with pytest.raises(UsageError):
        pair.client.session.open("x" * 256)
    stream = pair.client.session.open("\udc80")
    pair.settle()
    assert pair.twin(stream).service == "\\udc80"


def test_the_side_that_was_asked_answers_before_it_sends(engine_name):
    for early in (data(b"x", 1), data(flags=knl.FIN), credit(100, 1)):
        lone = Lone(engine_name, client=True)
        lone.session.open("echo")
        lone.brings(early)
        fault(lone)


def test_accept_of_what_nobody_asked_for_is_a_fault(engine_name):
    for lone, channel in ((Lone(engine_name, client=True), 1), (Lone(engine_name), 1), (Lone(engine_name), 2)):
        if channel == 1 and not lone.session._client:
            lone.opened(1)
        lone.brings(frame(knl.ACCEPT, channel))
        fault(lone)
    lone = Lone(engine_name, client=True)
    lone.session.open("echo")
    lone.brings(frame(knl.ACCEPT, 1), frame(knl.ACCEPT, 1))
    fault(lone)


# --- ends ------------------------------------------------------------------------------------------------------------


def test_each_direction_ends_by_itself(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.client.session.send(ours, b"question")
    pair.client.session.finish(ours)
    pair.settle()
    assert finished(pair.server, theirs)
    assert pair.server.closed(theirs) is None
    with pytest.raises(ChannelClosed):
        pair.client.session.send(ours, b"more")
    pair.server.session.send(theirs, b"answer")
    pair.server.session.finish(theirs)
    pair.settle()
    assert pair.client.received[ours] == [b"answer"]
    for side, stream in ((pair.client, ours), (pair.server, theirs)):
        assert [event.code for event in side.of(stream) if isinstance(event, Closed)] == [Code.OK]
        assert side.session.streams == []


def test_finish_twice_is_finish_once(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.client.session.finish(ours)
    pair.client.session.finish(ours)
    pair.settle()
    pair.client.session.finish(ours)
    pair.settle()
    assert len([event for event in pair.server.of(theirs) if isinstance(event, Finished)]) == 1


def test_release_ends_both_directions_once_all_is_sent(engine_name):
    limits = Limits(channel_credit_bytes=4096)
    pair = Pair.of(engine_name, server=limits)
    ours, theirs = pair.open()
    messages = [bytes([n]) * 1000 for n in range(20)]
    pair.client.session.send_many(ours, messages)
    pair.client.session.release(ours)
    pair.settle(consume=False)
    assert pair.client.closed(ours) is None
    pair.settle()
    assert pair.server.received[theirs] == messages
    assert [event.code for event in (pair.client.closed(ours), pair.server.closed(theirs)) if event] == [Code.OK] * 2


def test_release_after_finish_ends_the_other_direction_too(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.client.session.finish(ours)
    pair.settle()
    pair.client.session.release(ours)
    pair.settle()
    assert pair.client.closed(ours)
    closed = pair.server.closed(theirs)
    assert closed is not None
    assert closed.code is Code.OK


def test_release_inside_a_message_of_pieces_resets_the_stream_alone(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.client.session.send_piece(ours, b"half", 8, False)
    pair.client.session.release(ours)
    pair.settle()
    closed = pair.server.closed(theirs)
    assert closed is not None
    assert closed.code is Code.CANCELLED
    assert (pair.client.ended, pair.server.ended) == (None, None)


def test_reset_drops_what_was_queued_and_tells_why(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.client.session.send(ours, b"never")
    pair.client.session.reset(ours, Code.INTERNAL, "so it is")
    pair.settle()
    closed = pair.server.closed(theirs)
    assert closed is not None
    assert (closed.code, closed.reason) == (Code.INTERNAL, "so it is")
    assert theirs not in pair.server.received
    pair.client.session.send(ours, b"after its end, which nobody has seen yet")
    assert ours.outgoing_bytes == 0


def test_a_stream_that_is_over_bears_every_call(engine_name):
    pair = Pair.of(engine_name)
    ours, _ = pair.open()
    session = pair.client.session
    session.reset(ours, Code.OK, "")
    session.reset(ours, Code.INTERNAL, "again")
    session.finish(ours)
    session.release(ours)
    session.consumed(ours, 0)
    session.accept(ours)
    session.refuse(ours, Code.REFUSED, "")
    pair.client.collect()
    assert len(pair.client.all_of(Closed)) == 1
    pair.settle()
    assert (pair.client.ended, pair.server.ended) == (None, None)


def test_nobody_hears_of_room_on_a_stream_that_is_over(engine_name):
    pair = Pair.of(engine_name)
    ours, _ = pair.open()
    pair.client.session.send(ours, b"x")
    ours.wants_writable = True
    pair.client.session.reset(ours, Code.OK, "")
    pair.client.collect()
    assert pair.client.all_of(Writable) == []


def test_reasons_are_cut_at_a_character_and_survive_any_text(engine_name):
    pair = Pair.of(engine_name)
    for reason in ("ä" * 400, "x" * 511 + "€", "\udcff" * 10, "\x1b]0;title\x07"):
        ours, theirs = pair.open()
        pair.client.session.reset(ours, Code.INTERNAL, reason)
        pair.settle()
        closed = pair.server.closed(theirs)
        assert closed is not None
        assert closed.reason.isprintable()
        assert len(closed.reason.encode()) <= 520
    assert pair.server.ended is None


def test_data_after_fin_is_a_fault(engine_name):
    for more in (data(b"x"), data(flags=knl.FIN)):
        lone = Lone(engine_name)
        lone.opened()
        lone.brings(data(flags=knl.FIN), more)
        fault(lone)


@pytest.mark.parametrize("late", [data(b"x"), data(flags=knl.FIN), credit(100, 1), frame(knl.RESET, 1, b"\0\0")])
def test_what_comes_too_late_is_ignored(engine_name, late):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.session.reset(stream, Code.CANCELLED, "")
    lone.frames()
    assert lone.brings(late) == []
    assert lone.ended is None


@pytest.mark.parametrize("late", [data(b"x", 3), credit(100, 3), frame(knl.RESET, 3, b"\0\0"), frame(knl.ACCEPT, 4)])
def test_a_frame_for_a_channel_that_never_was_is_a_fault(engine_name, late):
    lone = Lone(engine_name)
    lone.opened(1)
    lone.brings(late)
    fault(lone)


def test_a_reset_in_the_same_read_as_open_leaves_nothing(engine_name):
    lone = Lone(engine_name)
    lone.brings(frame(knl.OPEN, 1, open_payload()), data(b"x"), frame(knl.RESET, 1, code_payload(Code.CANCELLED)))
    assert [type(event) for event in lone.events[1:]] == [OpenRequested, Closed]
    assert lone.session.streams == []


def test_closed_streams_are_forgotten_at_once(engine_name):
    pair = Pair.of(engine_name)
    gone = []
    gc.disable()
    try:
        for how in ("finish", "release", "reset"):
            ours, theirs = pair.open()
            pair.client.session.send(ours, bytes(100))
            pair.settle()
            if how == "finish":
                pair.client.session.finish(ours)
                pair.server.session.finish(theirs)
            elif how == "release":
                pair.client.session.release(ours)
            else:
                pair.client.session.reset(ours, Code.OK, "")
            pair.settle()
            gone += [weakref.ref(ours), weakref.ref(theirs)]
            for side in (pair.client, pair.server):
                side.events.clear()
                side.received.clear()
                side._over.clear()
            del ours, theirs
        assert [stream() for stream in gone] == [None] * 6
    finally:
        gc.enable()


def test_streams_that_starve_are_forgotten_too(engine_name):
    """A peer that gives no credit and resets its channels leaves nothing behind in our queues."""
    lone = Lone(engine_name, peer=Limits(connection_credit_bytes=64))
    first = None
    for channel in range(1, 101, 2):
        stream = lone.opened(channel)
        lone.session.send(stream, bytes(100))
        lone.frames()
        lone.brings(frame(knl.RESET, channel, code_payload(Code.CANCELLED)))
        first = first or weakref.ref(stream)
        del stream
    lone.events.clear()
    lone._over.clear()
    assert first is not None
    assert first() is None


# --- the connection --------------------------------------------------------------------------------------------------


def test_ping_is_answered(engine_name):
    pair = Pair.of(engine_name)
    pair.client.session.ping(b"12345678")
    pair.settle()
    assert [event.payload for event in pair.client.all_of(Pong)] == [b"12345678"]
    with pytest.raises(UsageError):
        pair.client.session.ping(bytes(65))


@pytest.mark.parametrize(
    "wrong",
    [
        frame(knl.PING, 1, b"x"),
        frame(knl.PING, 0, bytes(65)),
        frame(knl.PONG, 1, b"x"),
        frame(knl.GOAWAY, 1, bytes(6)),
        frame(knl.GOAWAY, 0, bytes(5)),
        frame(knl.ERROR, 1, bytes(2)),
        frame(knl.ERROR, 0, b"\0"),
        frame(knl.RESET, 1, b"\0"),
        frame(knl.RESET, 0, b"\0\0"),
        frame(knl.OPEN, 3, bytes(1025)),
        frame(knl.INFO, 0, bytes(1025)),
        frame(knl.CREDIT, 1, b"\0\0\0"),
        frame(knl.DATA, 0, b"x"),
        frame(200, 0, b"x"),
    ],
    ids=lambda wrong: f"{wrong[1]}-{wrong[4:8].hex()}-{len(wrong)}",
)
def test_control_frames_of_the_wrong_shape_are_faults(engine_name, wrong):
    lone = Lone(engine_name)
    lone.opened(1)
    lone.brings(wrong)
    fault(lone)


def test_what_may_be_ignored_is_ignored(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened(1)
    answer = lone.brings(
        frame(200, 7, bytes(3000), knl.IGNORABLE),
        frame(knl.INFO, 0, b"\xff\x1b"),
        frame(knl.PONG, 0, b"never asked"),
        frame(knl.PING, 0, b"", 0xFF00),
        data(b"x", flags=0xFF00),
    )
    assert answer == [(knl.PONG, 0, 0, b"")]
    assert lone.received[stream] == [b"x"]
    assert lone.ended is None


def test_go_away_takes_no_new_channels_and_keeps_the_old(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    crossing = pair.client.session.open("echo")
    pair.client.session.send(crossing, b"crossing")
    pair.server.session.go_away(Code.SHUTTING_DOWN, "until tomorrow")
    pair.server.session.go_away(Code.SHUTTING_DOWN, "said once")
    pair.settle()
    assert [(event.code, event.reason) for event in pair.client.all_of(GoingAway)] == [
        (Code.SHUTTING_DOWN, "until tomorrow")
    ]
    closed = pair.client.closed(crossing)
    assert closed is not None
    assert (closed.code, crossing.accepted) == (Code.SHUTTING_DOWN, False)
    assert len(pair.server.all_of(OpenRequested)) == 1
    with pytest.raises(Refused) as caught:
        pair.client.session.open("echo")
    assert caught.value.code is Code.SHUTTING_DOWN
    pair.client.session.send(ours, b"still")
    pair.settle()
    assert pair.server.received[theirs] == [b"still"]


def test_who_goes_away_opens_nothing_either(engine_name):
    pair = Pair.of(engine_name)
    pair.client.session.go_away(Code.OK, "")
    with pytest.raises(Refused):
        pair.client.session.open("echo")


def test_close_tells_the_peer_why(engine_name):
    pair = Pair.of(engine_name)
    ours, theirs = pair.open()
    pair.server.session.close(Code.OVERLOADED, "too much")
    pair.settle()
    for side, stream, by_peer in ((pair.server, theirs, False), (pair.client, ours, True)):
        assert side.ended is not None
        assert (side.ended.code, side.ended.reason, side.ended.by_peer) == (Code.OVERLOADED, "too much", by_peer)
        closed = side.closed(stream)
        assert closed is not None
        assert closed.code is Code.OVERLOADED


def test_an_error_is_never_in_order(engine_name):
    lone = Lone(engine_name)
    lone.brings(frame(knl.ERROR, 0, code_payload(Code.OK, "odd")))
    assert lone.ended is not None
    assert (lone.ended.code, lone.ended.reason) == (Code.INTERNAL, "odd")


def test_a_code_of_a_later_version_is_an_internal_one(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened()
    lone.brings(frame(knl.RESET, 1, b"\xff\xffwho knows"))
    closed = lone.closed(stream)
    assert closed is not None
    assert (closed.code, closed.reason) == (Code.INTERNAL, "who knows")


def test_closing_in_order_is_no_error(engine_name):
    pair = Pair.of(engine_name)
    pair.client.session.close(Code.OK, "")
    pair.settle()
    pair.server.handle(pair.server.session.received_eof())
    assert pair.server.ended is not None
    assert pair.server.ended.code is Code.OK


def test_eof_with_open_channels_or_half_a_frame_is_a_loss(engine_name):
    lone = Lone(engine_name)
    stream = lone.opened(1)
    lone.handle(lone.session.received_eof())
    closed = lone.closed(stream)
    assert closed is not None
    assert closed.code is Code.LOST
    lone = Lone(engine_name)
    lone.feed(data(b"hello")[:10])
    lone.handle(lone.session.received_eof())
    assert lone.ended is not None
    assert lone.ended.code is Code.LOST


def test_after_the_end_everything_is_ignored(engine_name):
    lone = Lone(engine_name, accepts=False)
    stream = lone.opened(1)
    lone.session.close(Code.INTERNAL, "over")
    session = lone.session
    session.accept(stream)
    session.reset(stream, Code.OK, "")
    session.finish(stream)
    session.release(stream)
    session.consumed(stream, 0)
    session.ping(b"x")
    session.go_away(Code.OK, "")
    session.close(Code.OK, "")
    last = lone.frames()
    assert [kind for kind, *_ in last] == [knl.ERROR]
    lone.feed(frame(knl.PING))
    lone.handle(session.tick(1e9))
    lone.handle(session.received_eof())
    session.send(stream, b"x")
    assert lone.frames() == []


def test_a_silent_peer_is_asked_and_given_up(engine_name):
    lone = Lone(engine_name, limits=Limits(ping_interval_seconds=15, idle_seconds_max=45))
    said = {}
    for now in range(1000, 1100):
        lone.handle(lone.session.tick(float(now)))
        for kind, *_ in lone.frames():
            said.setdefault(kind, now - 1000)
    assert lone.ended is not None
    assert lone.ended.code is Code.IDLE
    assert 14 <= said[knl.PING] <= 16
    assert 43 <= said[knl.ERROR] <= 45


def test_a_peer_that_answers_lives_on(engine_name):
    pair = Pair.of(engine_name)
    for now in range(1000, 1200):
        for side in (pair.client, pair.server):
            side.handle(side.session.tick(float(now)))
        pair.settle()
    assert (pair.client.ended, pair.server.ended) == (None, None)


# --- what a peer cannot make us do -----------------------------------------------------------------------------------


def test_control_frames_are_rate_limited(engine_name):
    lone = Lone(engine_name, limits=Limits(control_frames_per_second_max=100))
    lone.handle(lone.session.tick(0.0))
    for second in range(1, 5):
        lone.brings(*[frame(knl.PING)] * 90)
        lone.handle(lone.session.tick(float(second)))
    assert lone.ended is None
    lone.brings(*[frame(knl.PING)] * 201)
    assert lone.ended is not None
    assert lone.ended.code is Code.RATE_LIMITED


@pytest.mark.parametrize("credit_bytes", [256, 1 << 20])
def test_credit_for_what_was_consumed_counts_as_no_control_frame(engine_name, credit_bytes):
    limits = Limits(channel_credit_bytes=credit_bytes, connection_credit_bytes=credit_bytes)
    pair = Pair.of(engine_name, client=Limits(control_frames_per_second_max=20), server=limits)
    ours, theirs = pair.open()
    messages = [bytes(credit_bytes // 2 - 16)] * 60
    pair.client.session.send_many(ours, messages)
    pair.settle()
    assert pair.client.ended is None
    assert pair.server.received[theirs] == messages


def test_answers_that_nobody_reads_do_not_pile_up(engine_name):
    lone = Lone(engine_name, limits=Limits(control_frames_per_second_max=1_000_000))
    for _ in range(100):
        lone.feed(frame(knl.PING, 0, bytes(64)) * 1000)
    assert lone.ended is not None
    assert lone.ended.code is Code.SLOW_READER
    assert sum(map(len, lone.session.data_to_send(EVERYTHING))) < 200_000
