"""The small parts of the datagram protocol, each on its own."""

import contextlib
import random

import pytest
from hypothesis import given, strategies as st

from kernel.datagram import packets
from kernel.datagram.counters import SessionCounters
from kernel.datagram.flow import ReceiveWindow, SendWindow
from kernel.datagram.liveness import Liveness, Verdict
from kernel.datagram.packets import Hello, PacketError, ahead
from kernel.datagram.peers import PeerTable
from kernel.datagram.reassembly import WINDOW_MESSAGES, Reassembler, ReassemblyBudget, SequenceWindow
from kernel.datagram.timers import Timers
from kernel.errors import Code
from kernel.framing import engine, knl

U32 = st.integers(0, 0xFFFFFFFF)


@given(U32, st.integers(-0x80000000, 0x7FFFFFFF))
def test_sequence_numbers_wrap_around(sequence: int, distance: int):
    assert ahead(sequence + distance & 0xFFFFFFFF, sequence) == distance


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_reason_is_cut_between_characters_or_left_out(reason: str, room: int):
    payload = packets.pack_reason(Code.IDLE, reason, room)
    assert len(payload) <= max(room, 2)
    assert len(payload) <= 2 + packets.REASON_BYTES_MAX
    assert (
        payload == b"\x00\x0e"
        or len(payload) == 2 + len(reason.encode())
        or len(payload) > packets.REASON_BYTES_MAX - 2
    )
    assert reason.startswith(payload[2:].decode())


def test_an_unknown_code_and_control_characters_do_no_harm():
    assert packets.unpack_reason(b"\xff\xff\x1b[2J") == (Code.INTERNAL, "\\x1b[2J")
    with pytest.raises(PacketError):
        packets.unpack_reason(b"\x01")


@given(st.text(max_size=60), st.integers(0, 1 << 32 - 1), st.integers(512, 65507), U32)
def test_hello_is_read_back(service: str, message_bytes: int, packet_bytes: int, window_bytes: int):
    hello = Hello.unpack(Hello(service, message_bytes, packet_bytes, window_bytes).pack())
    assert (hello.message_bytes_max, hello.packet_bytes_max, hello.window_bytes) == (
        message_bytes,
        packet_bytes,
        window_bytes,
    )
    assert hello.service == service or not service.isprintable()


@given(st.binary(max_size=60))
def test_a_broken_hello_is_a_packet_error(payload: bytes):
    with contextlib.suppress(PacketError):
        Hello.unpack(payload)


@given(st.integers(0xF0000000, 0xFFFFFFFF), st.lists(st.integers(-WINDOW_MESSAGES, WINDOW_MESSAGES), max_size=200))
def test_the_window_takes_each_number_once(start: int, steps: list[int]):
    window = SequenceWindow()
    for sequence in (0x70000000, 0xE0000000, start):  # far on, so that what lies before has not been seen
        window.add(sequence)
    position, newest, seen = 0, 0, {0}
    for step in steps:
        position += step
        sequence = start + position & 0xFFFFFFFF
        is_known = position in seen or position <= newest - WINDOW_MESSAGES
        assert (sequence in window) is is_known
        if not is_known:
            window.add(sequence)
            seen.add(position)
            newest = max(newest, position)


def test_a_new_window_knows_nothing_from_zero_on():
    window = SequenceWindow()
    assert 0 not in window
    assert 5 not in window
    assert 0xFFFFFFFF in window


def fragments(sequence: int, message: bytes, packet_bytes_max: int = 124) -> list[tuple[int, int, int, int, bytes]]:
    made = engine().pack_fragments(packets.Kind.DATA, 1, sequence, message, packet_bytes_max)
    return [engine().parse_packet(packet)[2:] for packet in made]


def make_reassembler(
    budget_bytes: int = 10_000, message_bytes: int = 1000, budget: ReassemblyBudget | None = None
) -> Reassembler:
    budget = budget or ReassemblyBudget(budget_bytes)
    return Reassembler(message_bytes, budget, engine(), SessionCounters())


@given(st.lists(st.binary(max_size=1000), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_messages_come_out_whole_and_once_in_any_order(messages: list[bytes], rng: random.Random):
    made = [fragment for sequence, message in enumerate(messages) for fragment in fragments(sequence, message)]
    made += rng.sample(made, len(made) // 2)
    rng.shuffle(made)
    reassembler = make_reassembler()
    out = [message for fragment in made if (message := reassembler.add(*fragment)) is not None]
    assert sorted(out) == sorted(messages)
    assert reassembler.delivered == len(messages)


def test_a_message_over_the_limit_is_rejected_from_its_first_fragment():
    reassembler = make_reassembler()
    for fragment in fragments(0, bytes(1001)) + fragments(1, bytes(1001), 2000):
        assert reassembler.add(*fragment) is None
    assert not reassembler.unfinished_messages
    assert reassembler._counters.rejected == 12


def test_a_contradiction_kills_the_message_for_good():
    reassembler = make_reassembler()
    good = fragments(0, b"a" * 250)
    reassembler.add(*good[0])
    reassembler.add(*fragments(0, b"b" * 251)[1])
    assert all(reassembler.add(*fragment) is None for fragment in good)
    assert not reassembler.unfinished_messages
    assert reassembler.add(*fragments(1, b"next")[0]) == b"next"


def test_unfinished_messages_expire_and_give_their_memory_back():
    budget = ReassemblyBudget(10_000)
    reassembler = make_reassembler(budget=budget)
    reassembler.add(*fragments(0, bytes(500))[0])
    assert budget.held_bytes == 500
    for _ in range(4):
        reassembler.expire(3)
    assert budget.held_bytes == 0


def test_who_holds_most_loses_first():
    budget = ReassemblyBudget(10_000)
    modest, *greedy = [make_reassembler(budget=budget) for _ in range(7)]
    modest.add(*fragments(0, bytes(300))[0])
    for sequence in range(50):
        for reassembler in greedy:
            reassembler.add(*fragments(sequence, bytes(1000))[0])
            assert budget.held_bytes <= 10_000
    assert modest.unfinished_messages == 1
    assert modest.add(*fragments(0, bytes(300))[2]) is None
    assert modest.add(*fragments(0, bytes(300))[1]) == bytes(300)
    assert budget.shed_messages


def test_a_million_unfinished_messages_stay_within_the_budget():
    budget = ReassemblyBudget(1 << 20)
    peers = [make_reassembler(budget=budget, message_bytes=1 << 16) for _ in range(50)]
    header = (0, 2, 60_000, bytes(30_000))
    for n in range(20_000):
        peers[n % 50].add(n, *header)
        assert budget.held_bytes <= 1 << 20
    assert budget.held_bytes == sum(peer.unfinished_messages * 60_000 for peer in peers)
    for peer in peers:
        peer.clear()
    assert budget.held_bytes == 0


def test_the_send_window_closes_and_opens():
    window = SendWindow(1000)
    for sequence in range(10):
        window.sent(sequence, 0, 100)
    assert window.room_bytes == 0
    assert window.received(2, 4, 0, 1000)
    assert window.room_bytes == 500
    assert not window.received(1, 9, 0, 5000), "an overtaken receipt changes nothing"
    assert window.room_bytes == 500
    window.received(3, 4, 0, 600)
    assert window.room_bytes == 100
    window.reset()
    assert window.room_bytes == 600
    window.received(4, 9, 0, 1000)
    assert window.room_bytes == 1000


def test_the_send_window_counts_fragments_and_wraps():
    window = SendWindow(1000)
    for sequence in (0xFFFFFFFF, 0):
        for index in range(3):
            window.sent(sequence, index, 100)
    window.received(1, 0xFFFFFFFF, 1, 1000)
    assert window.room_bytes == 600
    window.received(2, 0, 0, 1000)
    assert window.room_bytes == 800


def test_a_receipt_is_due_each_quarter_of_the_window():
    window = ReceiveWindow(1000, 5000)
    window.received(0, 0, 249)
    assert not window.due
    window.received(1, 0, 1)
    assert window.due
    assert packets.unpack_receipt(window.report(5000)) == (1, 0, 1000)
    assert not window.due
    window.received(0, 7, 250)
    assert packets.unpack_receipt(window.report(300)) == (1, 0, 300), "the furthest one counts"


def test_a_window_that_the_service_closed_is_reopened():
    window = ReceiveWindow(1000, 5000)
    window.report(-5)
    assert window.announced_bytes == 0
    assert window.is_narrow
    window.reopen(499)
    assert not window.due
    window.reopen(500)
    assert window.due


def test_a_silent_peer_is_asked_and_given_up_within_the_limit():
    liveness = Liveness(15.0, 45.0)
    assert liveness.probe_seconds == 5.0
    liveness.heard = True
    verdicts = [liveness.probe() for _ in range(9)]
    assert verdicts == [Verdict.HEARD] * 3 + [Verdict.ASK] * 5 + [Verdict.GONE]
    # It may have been silent for all of the interval in which it was heard, so for 9 x 5 s at most.


def test_any_sign_of_life_counts():
    liveness = Liveness(15.0, 45.0)
    for _ in range(50):
        liveness.probe()
        liveness.heard = True
        assert liveness.probe() is Verdict.HEARD


def test_a_timer_starts_with_the_tick_after_it_was_armed():
    timers = Timers()
    assert timers.deadline is None
    timers.arm("a", 2.0)
    assert timers.deadline == 0.0
    assert timers.tick(100.0) == []
    assert timers.deadline == 102.0
    assert timers.tick(101.9) == []
    timers.arm("b", 0.5)
    assert timers.tick(102.0) == ["a"]
    timers.cancel("b")
    assert timers.deadline is None


def test_the_peer_silent_longest_is_forgotten_first():
    table: PeerTable[str] = PeerTable(2, 10.0)
    assert table.add("a", "A", 0.0) is None
    assert table.add("b", "B", 1.0) is None
    assert table.heard("a", 2.0) == "A"
    assert table.add("c", "C", 3.0) == "B"
    assert table.heard("b", 3.0) is None
    assert table.deadline == 12.0
    assert table.take_idle(12.0) == ["A"]
    assert list(table) == ["C"]
    table.remove("c", "X")
    assert len(table) == 1, "another one has taken its place"
    table.remove("c", "C")
    assert table.deadline is None


@pytest.mark.parametrize("kind", packets.Kind)
def test_control_packets_are_packets_of_the_framing(kind: packets.Kind):
    packet = packets.control(kind | knl.FROM_SERVER, 3, b"payload", 5)
    assert engine().parse_packet(packet) == (kind | 0x80, 3, 5, 0, 1, 7, b"payload")
    assert packets.is_ours(packet)
    assert packets.connection_of(packet) == 3
    assert packet[3] == kind | 0x80
