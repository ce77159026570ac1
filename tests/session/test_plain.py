"""Plain framings: one channel a connection, and what the framing cannot say, the connection says."""

from __future__ import annotations

from typing import Any

import pytest
from session.worlds import EVERYTHING, Side

from kernel.errors import ChannelClosed, Code, UsageError
from kernel.framing import engine
from kernel.framing.entry import LengthFraming, LineFraming, RawFraming
from kernel.limits import Limits
from kernel.session.base import Closed, Event, Finished, Messages, Opened, OpenRequested, Ready, Stream, Writable
from kernel.session.plain import PlainSession

FRAMINGS = {
    "raw": RawFraming(),
    "line": LineFraming(),
    "length": LengthFraming(),
    "little": LengthFraming(width=2, endian="little"),
}


def side(
    engine_name: str, recv: Any, send: Any, *, client: bool = False, limits: Limits | None = None, **options: Any
) -> Side:
    """A session whose decoder is of the engine that the test wants."""
    decoder = recv.decoder()
    if isinstance(recv, LengthFraming):
        decoder = engine(engine_name).decoder(recv)
    session = PlainSession(
        client=client, decoder=decoder, encode=send.encoder(), limits=limits or Limits(), service="echo"
    )
    return Side(session, **options)


def stream_of(side: Side) -> Stream:
    return side.all_of(OpenRequested)[0].stream


def told(side: Side) -> list[str]:
    return [type(event).__name__ for event in side.events]


def eof(side: Side) -> None:
    side.handle(side.session.received_eof())


@pytest.fixture(params=list(FRAMINGS))
def framing(request: pytest.FixtureRequest) -> Any:
    return FRAMINGS[request.param]


# --- messages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", list(FRAMINGS))
@pytest.mark.parametrize("recv", list(FRAMINGS))
def test_receiving_and_sending_are_framed_apart(engine_name, recv, send):
    ours = side(engine_name, FRAMINGS[recv], FRAMINGS[send])
    theirs = side(engine_name, FRAMINGS[send], FRAMINGS[recv], client=True)
    stream = theirs.session.open("echo")
    for asking, answering, on in ((theirs, ours, stream), (ours, theirs, stream_of(ours))):
        asking.session.send(on, b"one")
        asking.session.send_many(on, [b"two", b"3"])
        asking.collect()
        answering.feed(bytes(asking.wire))
    expected = {"raw": [b"onetwo3"]}
    assert ours.received[stream_of(ours)] == expected.get(recv, [b"one", b"two", b"3"])
    assert theirs.received[stream] == expected.get(send, [b"one", b"two", b"3"])


def test_messages_are_whole_at_every_split_point(engine_name):
    for name in ("line", "length", "little"):
        framing = FRAMINGS[name]
        messages = [b"hello", b"", b"feng", bytes(300).replace(b"\0", b"x")]
        data = b"".join(bytes(buffer) for buffer in framing.encoder()(messages))
        for point in range(len(data) + 1):
            one = side(engine_name, framing, framing)
            one.feed(data[:point])
            one.feed(data[point:])
            assert one.received[stream_of(one)] == messages


def test_a_server_is_told_of_its_one_channel_at_once(engine_name, framing):
    one = side(engine_name, framing, framing)
    assert [type(event) for event in one.events] == [Ready, OpenRequested]
    assert stream_of(one).service == "echo"


def test_a_client_opens_once(engine_name, framing):
    one = side(engine_name, framing, framing, client=True)
    one.session.open("anything")
    one.collect()
    assert [type(event) for event in one.events] == [Ready, Opened]
    with pytest.raises(UsageError):
        one.session.open("another")


def test_a_client_that_has_not_opened_yet_does_not_read(engine_name, framing):
    """The greeting of a server that speaks first must not be lost."""
    one = side(engine_name, framing, framing, client=True)
    assert not one.session.wants_data
    one.session.open("")
    assert one.session.wants_data


def test_what_comes_before_the_channel_is_open_is_kept(engine_name, framing):
    one = side(engine_name, framing, framing, client=True)
    greeting = b"".join(bytes(buffer) for buffer in framing.encoder()([b"welcome"]))
    one.feed(greeting)
    assert one.all_of(Messages) == []
    stream = one.session.open("")
    one.collect()
    assert one.received[stream] == [b"welcome"]
    assert told(one) == ["Ready", "Opened", "Messages"]


def test_pieces_become_one_message(engine_name):
    one = side(engine_name, FRAMINGS["length"], FRAMINGS["length"])
    stream = stream_of(one)
    one.session.send_piece(stream, b"hel", 5, False)
    one.collect()
    assert not one.wire
    one.session.send_piece(stream, b"lo", 5, True)
    one.session.send(stream, b"!")
    one.collect()
    assert bytes(one.wire) == b"\0\0\0\5hello\0\0\0\1!"


def test_pieces_that_do_not_add_up_are_refused_and_change_nothing(engine_name):
    one = side(engine_name, FRAMINGS["length"], FRAMINGS["length"], limits=Limits(message_bytes_max=10))
    stream, session = stream_of(one), one.session
    for wrong in ((b"abcd", 3, True), (b"ab", 3, True), (b"abc", 3, False), (b"x", 11, False)):
        with pytest.raises(UsageError):
            session.send_piece(stream, *wrong)
    session.send_piece(stream, b"ab", 3, False)
    for call in (
        lambda: session.send(stream, b"x"),
        lambda: session.send_many(stream, [b"x"]),
        lambda: session.finish(stream),
        lambda: session.send_piece(stream, b"cd", 3, True),
    ):
        with pytest.raises(UsageError):
            call()
    session.send_piece(stream, b"c", 3, True)
    session.finish(stream)
    with pytest.raises(ChannelClosed):
        session.send_piece(stream, b"x", 1, True)
    one.collect()
    assert bytes(one.wire) == b"\0\0\0\3abc"


def test_empty_messages_are_not_free(engine_name, framing):
    one = side(engine_name, framing, framing)
    one.session.send_many(stream_of(one), [b""] * 100)
    assert stream_of(one).outgoing_bytes >= 1600
    one.session.send(stream_of(one), b"")
    while stream_of(one).outgoing:
        before = stream_of(one).outgoing_bytes
        one.collect(500)
        assert stream_of(one).outgoing_bytes < before
    assert stream_of(one).outgoing_bytes == 0


def test_room_is_told_when_all_has_left(engine_name, framing):
    one = side(engine_name, framing, framing)
    stream = stream_of(one)
    one.session.send_many(stream, [b"x" * 1000] * 10)
    stream.wants_writable = True
    while stream.outgoing_bytes:
        assert one.all_of(Writable) == []
        one.collect(3000)
    assert len(one.all_of(Writable)) == 1


def test_a_message_that_the_framing_cannot_carry_ends_the_channel(engine_name):
    one = side(engine_name, LineFraming(), LineFraming())
    one.session.send(stream_of(one), b"two\nlines")
    one.collect()
    assert one.ended is not None
    assert (one.ended.code, one.ended.abrupt) == (Code.INTERNAL, True)
    assert not one.wire


# --- back-pressure -------------------------------------------------------------------------------------------------


def test_reading_stops_at_the_credit_and_goes_on_when_it_is_consumed(engine_name, framing):
    one = side(engine_name, framing, framing, limits=Limits(channel_credit_bytes=1000))
    message = b"".join(bytes(buffer) for buffer in framing.encoder()([b"x" * 200]))
    fed = 0
    while one.session.wants_data:
        one.feed(message)
        fed += 1
    assert 3 <= fed <= 5
    one.consume()
    assert one.session.wants_data


def test_a_long_message_costs_its_whole_length_however_it_arrives(engine_name):
    """Else a peer that ends each message by a read of one byte could have us hold any number of them."""
    one = side(engine_name, FRAMINGS["length"], FRAMINGS["length"], limits=Limits(channel_credit_bytes=1000))
    one.feed((2000).to_bytes(4, "big") + bytes(1999))
    assert one.session.wants_data
    one.feed(b"\0")
    assert not one.session.wants_data
    one.consume()
    assert one.session.wants_data
    assert stream_of(one).held_bytes == 0


def test_short_messages_cost_more_than_their_bytes(engine_name):
    one = side(engine_name, LineFraming(), LineFraming(), limits=Limits(channel_credit_bytes=1000))
    one.feed(b"\n" * 100)
    assert not one.session.wants_data


# --- ends ----------------------------------------------------------------------------------------------------------


def test_half_close_goes_each_way(engine_name, framing):
    one = side(engine_name, framing, framing)
    stream = stream_of(one)
    eof(one)
    assert told(one)[-1] == "Finished"
    one.session.send(stream, b"answer")
    one.session.finish(stream)
    assert not one.session.write_finished
    one.collect()
    assert one.session.write_finished
    assert one.wire
    assert told(one)[-2:] == ["Closed", "Ended"]
    assert one.ended is not None
    assert (one.ended.code, one.ended.abrupt) == (Code.OK, False)


def test_finish_says_half_close_and_goes_on_receiving(engine_name, framing):
    one = side(engine_name, framing, framing)
    one.session.finish(stream_of(one))
    one.collect()
    assert one.session.write_finished
    assert one.ended is None
    one.feed(b"".join(bytes(buffer) for buffer in framing.encoder()([b"still"])))
    assert one.received[stream_of(one)] == [b"still"]
    eof(one)
    assert one.ended is not None


def test_after_finish_nothing_can_be_sent(engine_name, framing):
    one = side(engine_name, framing, framing)
    stream, session = stream_of(one), one.session
    for _ in range(2):
        session.finish(stream)
        for call in (
            lambda: session.send(stream, b"x"),
            lambda: session.send_many(stream, [b"x"]),
            lambda: session.send_piece(stream, b"x", 1, True),
        ):
            with pytest.raises(ChannelClosed):
                call()
        one.collect()


def test_release_inside_a_message_of_pieces_aborts(engine_name, framing):
    one = side(engine_name, framing, framing)
    one.session.send_piece(stream_of(one), b"half", 8, False)
    one.session.release(stream_of(one))
    one.collect()
    assert one.ended is not None
    assert (one.ended.code, one.ended.abrupt) == (Code.CANCELLED, True)


def test_release_ends_both_ways_once_all_has_left(engine_name, framing):
    one = side(engine_name, framing, framing)
    one.session.send_many(stream_of(one), [b"x" * 1000] * 5)
    one.session.release(stream_of(one))
    one.collect(2000)
    assert one.ended is None
    one.collect()
    assert one.ended is not None
    assert one.ended.code is Code.OK


@pytest.mark.parametrize("how", ["reset", "refuse", "close"])
def test_what_the_framing_cannot_say_aborts_the_connection(engine_name, framing, how):
    one = side(engine_name, framing, framing)
    stream, session = stream_of(one), one.session
    session.send(stream, b"never")
    stream.wants_writable = True
    if how == "reset":
        session.reset(stream, Code.INTERNAL, "so it is")
    elif how == "refuse":
        session.refuse(stream, Code.OVERLOADED, "so it is")
    else:
        session.close(Code.SHUTTING_DOWN, "so it is")
    one.collect()
    assert told(one)[2:] == ["Closed", "Ended"]
    assert one.ended is not None
    assert one.ended.abrupt
    assert not one.wire
    assert stream.outgoing_bytes == 0
    assert session.streams == []


def test_a_last_line_without_its_end_is_a_line(engine_name):
    one = side(engine_name, LineFraming(), LineFraming())
    one.feed(b"first\nsecond")
    eof(one)
    assert one.received[stream_of(one)] == [b"first", b"second"]
    assert told(one)[-1] == "Finished"
    one.consume()
    assert stream_of(one).held_bytes == 0


def test_eof_inside_a_message_is_told_as_such(engine_name):
    one = side(engine_name, FRAMINGS["length"], FRAMINGS["length"])
    one.feed(b"\0\0\0\5hel")
    eof(one)
    assert one.ended is not None
    assert one.ended.code is Code.PROTOCOL
    assert "inside a frame" in one.ended.reason


@pytest.mark.parametrize(
    ("framing", "data", "code"),
    [
        (LengthFraming(frame_bytes_max=100), b"\0\0\0\5hello\0\0\0\x65", Code.FRAME_TOO_LARGE),
        (LengthFraming(signed=True, width=1), b"\5hello\xff", Code.PROTOCOL),
        (LineFraming(line_bytes_max=5), b"hello\n123456", Code.FRAME_TOO_LARGE),
    ],
)
def test_what_is_no_message_ends_the_channel_after_those_that_were(engine_name, framing, data, code):
    one = side(engine_name, framing, framing)
    one.feed(data)
    assert one.received[stream_of(one)] == [b"hello"]
    assert told(one)[2:] == ["Messages", "Closed", "Ended"]
    assert one.ended is not None
    assert (one.ended.code, one.ended.by_peer, one.ended.abrupt) == (code, True, True)
    one.feed(b"more")
    eof(one)


def test_an_end_before_the_channel_is_open_is_told_behind_what_came(engine_name):
    one = side(engine_name, LineFraming(), LineFraming(), client=True)
    one.feed(b"hi\n")
    eof(one)
    stream = one.session.open("")
    one.collect()
    assert one.received[stream] == [b"hi"]
    assert told(one) == ["Ready", "Opened", "Messages", "Finished"]


def test_a_channel_that_was_never_open_is_not_closed(engine_name, framing):
    one = side(engine_name, framing, framing, client=True)
    one.session.close(Code.LOST, "gone")
    one.collect()
    assert told(one) == ["Ready", "Ended"]
    with pytest.raises(ChannelClosed):
        one.session.open("")


def test_there_is_no_ping_and_no_farewell(engine_name, framing):
    one = side(engine_name, framing, framing)
    with pytest.raises(UsageError):
        one.session.ping(b"")
    one.session.go_away(Code.SHUTTING_DOWN, "soon")
    one.collect()
    assert not one.wire
    assert one.ended is None


def test_after_the_end_everything_is_ignored(engine_name, framing):
    one = side(engine_name, framing, framing)
    stream, session = stream_of(one), one.session
    session.close(Code.OK, "")
    one.collect()
    one.feed(b"".join(bytes(buffer) for buffer in framing.encoder()([b"late"])))
    eof(one)
    session.accept(stream)
    session.finish(stream)
    session.release(stream)
    session.reset(stream, Code.INTERNAL, "")
    session.consumed(stream, 0)
    one.handle(session.tick(1e9))
    one.handle(session.messages([b"x"]))
    one.collect()
    session.send(stream, b"x")
    session.send_piece(stream, b"x", 1, True)
    one.collect()
    assert not one.wire
    assert stream.outgoing_bytes == 0
    assert told(one) == ["Ready", "OpenRequested", "Closed", "Ended"]


# --- transports that preserve messages -------------------------------------------------------------------------------


def whole_messages(*, client: bool = False, **limits: Any) -> Side:
    return Side(PlainSession(client=client, decoder=None, encode=list, limits=Limits(**limits), service="echo"))


def test_messages_of_the_transport_are_messages():
    one = whole_messages(channel_credit_bytes=1000)
    stream = stream_of(one)
    one.handle(one.session.messages([b"a", b"", b"b" * 500]))
    assert one.received[stream] == [b"a", b"", b"b" * 500]
    assert one.session.wants_data
    one.handle(one.session.messages([b""] * 40))
    assert not one.session.wants_data
    one.consume()
    assert one.session.wants_data
    one.session.send_many(stream, [b"x", b""])
    assert one.session.data_to_send(EVERYTHING) == [b"x", b""]


def test_messages_before_the_channel_is_open_are_kept_too():
    one = whole_messages(client=True)
    one.handle(one.session.messages([b"early"]))
    stream = one.session.open("")
    one.collect()
    assert one.received[stream] == [b"early"]


# --- silence -------------------------------------------------------------------------------------------------------


def silent_after(one: Side, *, moving: bool) -> float | None:
    """Seconds until the session gives up on a peer of whom nothing comes any more."""
    one.handle(one.session.tick(1000.0))
    if moving:
        one.feed(b"x\n")
        one.handle(one.session.tick(1001.0))
    for second in range(2, 2000):
        one.handle(one.session.tick(1000.0 + second))
        if one.ended is not None:
            assert one.ended.code is Code.IDLE
            return second
    return None


def test_a_server_gives_up_on_silence_and_a_client_never_does(engine_name):
    limits = Limits(first_byte_seconds_max=60, silence_seconds_max=600)
    line = LineFraming()
    assert silent_after(side(engine_name, line, line, limits=limits), moving=False) == 60
    assert 600 <= (silent_after(side(engine_name, line, line, limits=limits), moving=True) or 0) <= 602
    client = side(engine_name, line, line, client=True, limits=limits)
    client.session.open("")
    assert silent_after(client, moving=False) is None


def events_of(kind: type[Event], one: Side) -> list[Any]:
    return [event for event in one.events if isinstance(event, kind)]


def test_nothing_is_told_twice(engine_name, framing):
    one = side(engine_name, framing, framing)
    eof(one)
    one.session.release(stream_of(one))
    one.session.release(stream_of(one))
    one.collect()
    one.session.close(Code.OK, "")
    one.collect()
    assert [len(events_of(kind, one)) for kind in (Finished, Closed)] == [1, 1]


def test_a_message_that_is_refused_leaves_nothing_behind():
    framing = LineFraming()
    session = PlainSession(
        client=True,
        decoder=framing.decoder(),
        encode=framing.encoder(),
        limits=Limits(),
        check=framing.checker(),
    )
    stream = session.open("echo")
    session.send_piece(stream, b"no", 5, False)
    with pytest.raises(UsageError, match="what ends a line"):
        session.send_piece(stream, b"\nne", 5, True)
    with pytest.raises(UsageError, match="what ends a line"):
        session.send_many(stream, [b"fine", b"not\nfine"])
    session.send_piece(stream, b"go", 4, False)
    session.send_piece(stream, b"od", 4, True)
    assert session.data_to_send(1000) == [b"good\n"]
