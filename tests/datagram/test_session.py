"""Two sessions of the datagram protocol, back to back over a simulated network."""

import random
from collections import Counter

import pytest
from datagram.simulation import Side, Simulation, Weather
from hypothesis import assume, given, settings, strategies as st

from kernel.datagram import packets
from kernel.datagram.packets import Hello, Kind
from kernel.datagram.reassembly import ReassemblyBudget
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.framing import engine, knl
from kernel.limits import KIB, MIB, Limits
from kernel.session import base
from kernel.session.datagram import WINDOW_BYTES_DEFAULT as WINDOW_BYTES, DatagramSession

STORM = Weather(loss=0.1, duplicate=0.05, delay_seconds_max=0.05)
SIZES = (0, 1, 2, 100, 1175, 1176, 1177, 2352, 2353, 10_000, 65_507)


def echo(side: Side, event: base.Event) -> None:
    """A service: sends back what it gets, and finishes with the peer."""
    if isinstance(event, base.Messages):
        side.session.send_many(event.stream, event.messages)
    if isinstance(event, base.Finished):
        side.session.finish(event.stream)


def over(side: Side | None) -> base.Ended | None:
    ended = side.told(base.Ended) if side else []
    return ended[0] if ended else None


def make_messages(rng: random.Random, number: int) -> list[bytes]:
    """All different, so that a message that comes twice is seen; sizes around the borders of a packet."""
    return [rng.randbytes(max(0, rng.choice(SIZES) - 4)) + n.to_bytes(4, "big") for n in range(number)]


# --- on a good network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, MIB])
def test_a_message_arrives_as_it_was_sent(size: int):
    sim = Simulation()
    sim.on_server_event = echo
    stream = sim.open()
    message = random.Random(size).randbytes(size)
    sim.client.session.send(stream, message)
    sim.run(lambda: bool(sim.client.received))
    assert sim.client.received == [message]


def test_the_server_is_asked_for_the_service_by_name():
    sim = Simulation()
    sim.open("a name in ünicode")
    assert sim.server is not None
    assert sim.server.told(base.OpenRequested)[0].stream.service == "a name in ünicode"
    assert [type(event) for event in sim.client.events] == [base.Ready, base.Opened]


def test_nothing_gets_lost_without_loss():
    sim = Simulation(weather=Weather(delay_seconds_max=0.0001))
    sim.on_server_event = echo
    stream = sim.open()
    messages = make_messages(random.Random(1), 300)
    sim.client.session.send_many(stream, messages)
    sim.run(lambda: len(sim.client.received) == 300, seconds=60)
    assert sorted(sim.client.received) == sorted(messages)


def test_both_sides_finish_and_the_end_is_in_order():
    sim = Simulation()
    sim.on_server_event = echo
    stream = sim.open()
    sim.client.session.send(stream, b"last words")
    sim.client.session.finish(stream)
    sim.run(lambda: over(sim.client) is not None and over(sim.server) is not None)
    assert sim.client.received == [b"last words"]
    for side in sim.sides():
        assert side.told(base.Finished)
        assert side.told(base.Closed)[0].code is Code.OK
        assert over(side).code is Code.OK
        assert side.session.deadline is None
        assert side.session.streams == []


def test_half_close_lets_the_other_direction_go_on():
    sim = Simulation()
    stream = sim.open()
    sim.client.session.finish(stream)
    sim.run(lambda: bool(sim.server.told(base.Finished)))
    sim.server.session.send(sim.server.stream, b"still here")
    sim.run(lambda: bool(sim.client.received))
    assert sim.client.received == [b"still here"]
    with pytest.raises(ChannelClosed):
        sim.client.session.send(stream, b"too late")


def test_release_ends_both_directions_after_the_last_message():
    sim = Simulation()
    stream = sim.open()
    sim.client.session.send(stream, b"bye")
    sim.client.session.release(stream)
    sim.run(lambda: over(sim.client) is not None and over(sim.server) is not None)
    assert sim.server.received == [b"bye"]
    assert over(sim.client).code is over(sim.server).code is Code.OK


def test_a_refusal_tells_why():
    def refuse(side: Side, event: base.Event) -> None:
        if isinstance(event, base.OpenRequested):
            side.session.refuse(event.stream, Code.NO_SUCH_SERVICE, "no 'x' here")

    sim = Simulation()
    sim.server_accepts = False
    sim.on_server_event = refuse
    sim.run(lambda: bool(sim.client.told(base.Ready)))
    sim.client.session.open("x")
    sim.run(lambda: over(sim.client) is not None)
    closed = sim.client.told(base.Closed)[0]
    assert (closed.code, closed.reason) == (Code.NO_SUCH_SERVICE, "no 'x' here")
    assert over(sim.client).by_peer
    assert not over(sim.server).by_peer


def test_a_reset_reaches_the_peer():
    sim = Simulation()
    stream = sim.open()
    sim.server.session.reset(sim.server.stream, Code.FORBIDDEN, "go away")
    sim.run(lambda: over(sim.client) is not None)
    assert (over(sim.client).code, over(sim.client).reason) == (Code.FORBIDDEN, "go away")
    with pytest.raises(ChannelClosed):
        sim.client.session.send(stream, b"?")


def test_closing_the_session_is_not_taken_for_the_end_of_the_channel():
    sim = Simulation()
    sim.open()
    sim.client.session.close(Code.OK, "")
    sim.run(lambda: over(sim.server) is not None)
    assert over(sim.server).code is Code.LOST


def test_closing_the_session_after_the_last_message_ends_in_order():
    sim = Simulation()
    stream = sim.open()
    sim.client.session.finish(stream)
    sim.client.session.close(Code.OK, "")
    sim.run(lambda: over(sim.server) is not None)
    assert over(sim.client).code is over(sim.server).code is Code.OK
    sim = Simulation()
    stream = sim.open()
    sim.client.session.send(stream, b"not out yet")
    sim.client.session.finish(stream)
    sim.client.session.close(Code.OK, "")
    sim.run(lambda: over(sim.server) is not None)
    assert over(sim.server).code is Code.LOST


def test_going_away_is_told():
    sim = Simulation()
    sim.open()
    sim.server.session.go_away(Code.SHUTTING_DOWN, "back soon")
    sim.run(lambda: bool(sim.client.told(base.GoingAway)))
    assert sim.client.told(base.GoingAway)[0].reason == "back soon"


def test_a_ping_is_answered():
    sim = Simulation()
    sim.open()
    sim.client.session.ping(b"are you there")
    sim.run(lambda: bool(sim.client.told(base.Pong)))
    assert sim.client.told(base.Pong)[0].payload == b"are you there"


def test_writable_is_told_once_when_all_is_out():
    sim = Simulation()
    stream = sim.open()
    stream.wants_writable = True
    sim.client.session.send(stream, bytes(MIB))
    sim.run(lambda: bool(sim.client.told(base.Writable)))
    assert stream.outgoing_bytes == 0
    sim.client.session.send(stream, b"x")
    sim.run(lambda: len(sim.server.received) == 2)
    assert len(sim.client.told(base.Writable)) == 1


def test_pieces_become_one_message_which_comes_whole_also_to_who_asked_for_pieces():
    sim = Simulation()
    stream = sim.open()
    sim.server.stream.pieces = True
    for n, piece in enumerate((b"one ", b"two ", b"three")):
        sim.client.session.send_piece(stream, piece, 13, last=n == 2)
    sim.run(lambda: bool(sim.server.received))
    assert sim.server.received == [b"one two three"]


# --- misuse ----------------------------------------------------------------------------------------------------


def test_a_channel_is_opened_after_the_handshake_and_once():
    sim = Simulation()
    with pytest.raises(UsageError, match="wait for Ready"):
        sim.client.session.open("echo")
    stream = sim.open()
    with pytest.raises(UsageError, match="carries one channel"):
        sim.client.session.open("echo")
    with pytest.raises(UsageError, match="the limit is 1048576"):
        sim.client.session.send(stream, bytes(MIB + 1))
    with pytest.raises(UsageError, match="must add up"):
        sim.client.session.send_piece(stream, b"12345", 4, last=True)
    sim.client.session.send(stream, b"as if nothing had happened")
    sim.run(lambda: bool(sim.server.received))


def test_the_peers_limit_holds_also_for_what_was_queued_before_it_was_known():
    sim = Simulation(limits=Limits(message_bytes_max=1000))
    sim.run(lambda: bool(sim.client.told(base.Ready)))
    stream = sim.client.session.open("echo")
    sim.client.session.send(stream, bytes(1001))
    sim.run(lambda: over(sim.client) is not None)
    assert over(sim.client).code is Code.MESSAGE_TOO_LARGE


# --- on a bad network ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    loss=st.floats(0, 0.3),
    duplicate=st.floats(0, 0.3),
    delay=st.floats(0, 0.1),
    packet_bytes_max=st.sampled_from([512, 1200, 9000]),
    engine_name=st.sampled_from(["python", None]),
)
def test_a_message_arrives_whole_and_once_or_not_at_all(seed, loss, duplicate, delay, packet_bytes_max, engine_name):
    weather = Weather(loss, duplicate, delay)
    sim = Simulation(seed, weather, packet_bytes_max=packet_bytes_max, engine_name=engine_name)
    sim.on_server_event = echo
    stream = sim.open()
    assume(not over(sim.client))  # the handshake has a test of its own
    messages = make_messages(sim.random, 40)
    sim.client.session.send_many(stream, messages)
    sim.client.session.finish(stream)
    sim.run(lambda: over(sim.client) is not None and over(sim.server) is not None)
    for side in sim.sides():
        counted = Counter(side.received)
        assert counted <= Counter(messages)
        assert set(counted.values()) <= {1}
    assert set(sim.client.received) <= set(sim.server.received)
    assert over(sim.client).code in (Code.OK, Code.IDLE)


@pytest.mark.parametrize("seed", range(20))
def test_the_handshake_gets_through_a_storm(seed: int):
    sim = Simulation(seed, Weather(loss=0.3, duplicate=0.3, delay_seconds_max=0.3))
    sim.open()
    assert len(sim.server.told(base.OpenRequested)) == 1
    assert sim.now < 1010


@pytest.mark.parametrize("seed", range(20))
def test_the_end_is_in_order_also_in_a_storm(seed: int):
    sim = Simulation(seed, STORM)
    sim.on_server_event = echo
    stream = sim.open()
    sim.client.session.finish(stream)
    sim.run(lambda: over(sim.client) is not None and over(sim.server) is not None, seconds=30)
    assert over(sim.client).code is over(sim.server).code is Code.OK


def test_finish_waits_for_stragglers():
    sim = Simulation(5, Weather(delay_seconds_max=0.15))
    stream = sim.open()
    messages = [b"%d" % n for n in range(50)]
    sim.client.session.send_many(stream, messages)
    sim.client.session.finish(stream)
    sim.run(lambda: bool(sim.server.told(base.Finished)))
    assert sorted(sim.server.received) == sorted(messages)


def test_nobody_answers():
    sim = Simulation(weather=Weather(loss=1.0))
    sim.run()
    ended = over(sim.client)
    assert ended.code is Code.HANDSHAKE_TIMEOUT
    assert "no answer within 10 s" in ended.reason
    assert sim.now == pytest.approx(1010, abs=0.1)
    assert 5 <= len(sim.packets_sent(Kind.INIT)) <= 10
    sim = Simulation()
    sim.run(lambda: bool(sim.client.told(base.Ready)))
    sim.weather.loss = 1.0
    sim.client.session.open("echo")
    sim.run()
    assert over(sim.client).code is Code.HANDSHAKE_TIMEOUT


def test_a_vanished_peer_is_noticed_in_time():
    sim = Simulation()
    sim.open()
    sim.run(seconds=100.0)
    assert over(sim.client) is None, "pings keep an idle connection alive"
    heard_at = sim.now
    sim.weather.loss = 1.0
    sim.run(lambda: over(sim.client) is not None and over(sim.server) is not None)
    assert sim.now - heard_at <= 45.0
    assert over(sim.client).code is Code.IDLE


def test_an_idle_connection_survives_a_storm():
    sim = Simulation(3, STORM)
    sim.open()
    sim.run(seconds=3600.0)
    assert over(sim.client) is None
    assert over(sim.server) is None


def test_an_expired_cookie_is_replaced_on_the_way():
    sim = Simulation()
    sim.run(lambda: bool(sim.client.told(base.Ready)))
    sim.now += 100.0
    sim.client.session.open("echo")
    sim.run(lambda: bool(sim.client.told(base.Opened)), seconds=5.0)
    assert sim.client.told(base.Opened)
    assert sim.gate.counters.bad_cookies == 1


def test_a_restarted_server_tells_its_old_client():
    sim = Simulation()
    stream = sim.open()
    sim.server = None
    sim.client.session.send(stream, b"anybody there?")
    sim.run(lambda: over(sim.client) is not None, seconds=1.0)
    assert over(sim.client).code is Code.LOST
    assert over(sim.client).reason == "unknown connection"


# --- flow ------------------------------------------------------------------------------------------------------


def test_no_more_is_on_its_way_than_the_window():
    sim = Simulation()
    stream = sim.open()
    sim.weather.loss = 1.0
    sent = len(sim.sent)
    sim.client.session.send(stream, bytes(MIB))
    sim.flush()
    assert sum(len(packet) for _, packet in sim.sent[sent:]) <= WINDOW_BYTES + 1200


def test_lost_receipts_do_not_stop_the_flow():
    sim = Simulation(weather=Weather(loss=0.5), seed=2)
    stream = sim.open()
    messages = [n.to_bytes(2, "big") * 500 for n in range(1000)]
    sim.client.session.send_many(stream, messages)
    sim.run(lambda: not stream.outgoing, seconds=60)
    assert not stream.outgoing
    assert len(sim.server.received) > 300


def test_a_service_that_does_not_read_holds_its_peer_back_and_loses_nothing():
    sim = Simulation(weather=Weather(delay_seconds_max=0.0), limits=Limits(channel_credit_bytes=300 * KIB))
    stream = sim.open()
    sim.server.consumes = False
    messages = [n.to_bytes(2, "big") * 5000 for n in range(200)]
    sim.client.session.send_many(stream, messages)
    sim.run(seconds=20.0)
    held = sim.server.stream.held_bytes
    assert 300 * KIB <= held <= 300 * KIB + WINDOW_BYTES + 12 * KIB
    assert stream.outgoing_bytes > 0
    sim.server.consumes = True
    sim.server.session.consumed(sim.server.stream, held)
    sim.run(lambda: len(sim.server.received) == 200, seconds=20.0)
    assert sorted(sim.server.received) == sorted(messages)
    assert sim.server.session.counters.overrun == 0


def test_a_peer_that_ignores_the_window_loses_its_messages_and_we_stay_small():
    sim = Simulation(limits=Limits(channel_credit_bytes=64 * KIB))
    sim.open()
    server = sim.server
    server.consumes = False
    connection = packets.connection_of(sim.packets_sent(Kind.CONNECT)[0])
    for n in range(1000):
        for packet in engine().pack_fragments(Kind.DATA, connection, n, bytes(1000), 1200):
            server.handle(server.session.messages([packet]))
    assert server.stream.held_bytes <= 64 * KIB + WINDOW_BYTES + 2000
    assert server.session.counters.overrun + len(server.received) == 1000


# --- hostile peers ---------------------------------------------------------------------------------------------


def control(sim: Simulation, kind: int, payload: bytes = b"", sequence: int = 0) -> bytes:
    connection = packets.connection_of(sim.packets_sent(Kind.INIT)[0])
    return packets.control(kind, connection, payload, sequence)


def test_packets_of_our_own_direction_change_nothing():
    sim = Simulation()
    sim.open()
    sim.flush()
    before = len(sim.sent)
    for kind in Kind:
        sim.server.handle(sim.server.session.messages([control(sim, kind | knl.FROM_SERVER, bytes(40))]))
        sim.client.handle(sim.client.session.messages([control(sim, kind, bytes(40))]))
    sim.flush()
    assert len(sim.sent) == before
    assert sim.server.session.counters.own_direction == sim.client.session.counters.own_direction == len(Kind)
    assert over(sim.client) is None


def test_packets_of_another_connection_change_nothing():
    sim = Simulation()
    sim.open()
    before = len(sim.sent)
    for kind in Kind:
        sim.server.handle(sim.server.session.messages([packets.control(kind, 1, bytes(40))]))
    sim.flush()
    assert len(sim.sent) == before
    assert sim.server.session.counters.foreign == len(Kind)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60), st.integers(0, 3)), max_size=30))
def test_no_packet_breaks_a_session_and_no_answer_is_longer(forged: list[tuple[int, bytes, int]]):
    sim = Simulation()
    sim.open()
    server = sim.server
    server.on_event = echo
    for kind, payload, sequence in forged:
        packet = control(sim, kind, payload, sequence)
        server.handle(server.session.messages([packet]))
        answered = sum(map(len, server.session.data_to_send(1 << 20)))
        assert answered <= 300


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans())
def test_noise_is_counted_and_changes_nothing(noise: list[bytes], client: bool):
    sim = Simulation()
    sim.open()
    side = sim.client if client else sim.server
    assert side.session.messages(noise) == []
    assert side.session.counters.malformed == len(noise)
    assert side.session.data_to_send(1 << 20) == []


def test_a_flood_of_requests_has_one_answer_a_batch():
    sim = Simulation()
    sim.open()
    flood = [control(sim, Kind.PING, bytes(64), 1)] * 500 + sim.packets_sent(Kind.CONNECT) * 500
    sim.server.handle(sim.server.session.messages(flood))
    assert len(sim.server.session.data_to_send(1 << 20)) <= 3


def test_a_message_of_zero_bytes_is_a_message_and_is_not_free():
    sim = Simulation()
    stream = sim.open()
    sim.server.consumes = False
    sim.client.session.send_many(stream, [b""] * 100)
    sim.run(lambda: len(sim.server.received) == 100)
    assert sim.server.received == [b""] * 100
    assert sim.server.stream.held_bytes == 2400


def test_a_broken_connect_is_not_a_connection():
    session = DatagramSession(client=False, limits=Limits())
    session.started()
    for payload in (b"", bytes(16), bytes(16) + b"\x00\x01\x00\xff", bytes(16) + Hello("x", 1, 0, 0).pack()):
        assert session.messages([packets.control(Kind.CONNECT, 7, payload)]) == []
    assert session.streams == []
    assert session.counters.malformed == 4


def test_unfinished_messages_of_all_peers_share_one_budget():
    budget = ReassemblyBudget(4 * MIB)
    sessions = []
    for n in range(40):
        session = DatagramSession(client=False, limits=Limits(), budget=budget)
        session.started()
        hello = Hello("sink", MIB, 1200, WINDOW_BYTES).pack()
        session.messages([packets.control(Kind.CONNECT, n, bytes(16) + hello)])
        session.accept(session.streams[0])
        sessions.append(session)
    for sequence in range(50):
        for n, session in enumerate(sessions):
            first = engine().pack_fragments(Kind.DATA, n, sequence, bytes(200_000), 1200)[0]
            session.messages([first])
            assert budget.held_bytes <= 4 * MIB
    for session in sessions:
        session.close(Code.OK, "")
    assert budget.held_bytes == 0


def test_unfinished_messages_are_dropped_after_some_time():
    sim = Simulation()
    stream = sim.open()
    sim.client.session.send(stream, bytes(100_000))
    sim.weather.loss = 0.5
    sim.flush()
    sim.weather.loss = 0.0
    sim.run(seconds=1.0)
    budget = sim.server.session._reassembler._budget
    assert budget.held_bytes == 100_000
    sim.run(seconds=20.0)
    assert budget.held_bytes == 0
    assert sim.server.received == []
