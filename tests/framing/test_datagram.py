"""Messages in datagrams. What the bytes are is said by tests/vectors/packet.txt."""

import itertools
import random

import pytest

from kernel.framing import DecodeError, EncodeError, FragmentTable

HEADER_BYTES = 24


def fragments(engine, message, packet_bytes_max, sequence=1):
    """Each fragment as FragmentTable.add takes it."""
    packets = engine.pack_fragments(0, 9, sequence, message, packet_bytes_max)
    assert all(len(packet) <= packet_bytes_max for packet in packets)
    return [engine.parse_packet(packet)[2:] for packet in packets]


@pytest.fixture
def table(engine):
    return FragmentTable(engine=engine)


@pytest.mark.parametrize("room", [1, 2, 3, 7, 100, 1176])
def test_a_message_of_any_size_comes_together_in_any_order(engine, room):
    for size in {*range(40), room, room + 1, 10 * room, 10 * room - 1}:
        message = bytes(byte & 0xFF for byte in range(size))
        parts = fragments(engine, message, HEADER_BYTES + room)
        assert len(parts) == max(1, -(-size // room))
        random.Random(size).shuffle(parts)
        table = FragmentTable(engine=engine)
        assert [table.add(*part) for part in parts] == [None] * (len(parts) - 1) + [message]
        assert (len(table), table.memory_bytes, table.completed) == (0, 0, 1)


def test_every_order_of_five_fragments(engine):
    parts = fragments(engine, b"0123456789abc", HEADER_BYTES + 3)
    for order in itertools.permutations(parts):
        table = FragmentTable(engine=engine)
        assert [table.add(*part) for part in order][-1] == b"0123456789abc"


def test_a_fragment_may_be_any_buffer(engine, table):
    for sequence, index, count, size, payload in fragments(engine, b"hello", HEADER_BYTES + 2)[:2]:
        assert table.add(sequence, index, count, size, memoryview(bytearray(payload))) is None
    assert engine.parse_packet(memoryview(engine.pack_fragments(1, 2, 3, b"x", 100)[0])) == (1, 2, 3, 0, 1, 1, b"x")


def test_a_fragment_that_comes_twice_counts_once(engine, table):
    first, second = fragments(engine, b"hello", HEADER_BYTES + 3)
    assert table.add(*first) is None
    assert table.add(*first) is None
    assert table.duplicates == 1
    assert table.add(*second) == b"hello"


@pytest.mark.parametrize("conflict", [(1, 3, 5, b"l"), (1, 2, 4, b"lo")])
def test_a_fragment_that_contradicts_the_first_kills_the_message(engine, table, conflict):
    first, second = fragments(engine, b"hello", HEADER_BYTES + 3)
    table.add(*first)
    assert table.add(1, *conflict) is None
    assert (table.conflicts, len(table), table.memory_bytes) == (1, 0, 0)
    assert table.add(*second) is None


@pytest.mark.parametrize(
    ("index", "count", "size", "payload"),
    [(0, 0, 0, b""), (2, 2, 5, b"lo"), (0, 2, 5, b"he"), (0, 4, 5, b"he"), (0, 2, 0, b""), (0, 3, 2, b"h")],
)
def test_a_fragment_that_cannot_be_one_is_refused_and_leaves_no_trace(table, index, count, size, payload):
    with pytest.raises(DecodeError) as raised:
        table.add(1, index, count, size, payload)
    assert raised.value.code == "bad_fragment"
    assert (len(table), table.memory_bytes) == (0, 0)


def test_a_fragment_of_the_wrong_size_does_not_harm_the_message(engine, table):
    first, second = fragments(engine, b"hello", HEADER_BYTES + 3)
    table.add(*first)
    with pytest.raises(DecodeError, match="fragment 1 of 2 of a message of 5 bytes can't have 3 bytes"):
        table.add(1, 1, 2, 5, b"lol")
    assert table.add(*second) == b"hello"


def test_a_message_over_the_limit_is_refused(engine):
    table = FragmentTable(message_bytes_max=4, memory_bytes_max=4, engine=engine)
    with pytest.raises(DecodeError, match="a message announces 5 bytes, the limit is 4"):
        table.add(1, 0, 2, 5, b"hel")


def test_the_oldest_message_goes_when_there_are_too_many(engine):
    table = FragmentTable(messages_max=2, engine=engine)
    halves = [fragments(engine, b"hello", HEADER_BYTES + 3, sequence) for sequence in range(3)]
    for first, _ in halves:
        table.add(*first)
    assert (len(table), table.evicted) == (2, 1)
    assert [table.add(*second) for _, second in reversed(halves[1:])] == [b"hello", b"hello"]
    assert table.add(*halves[0][1]) is None


def test_the_oldest_messages_go_when_they_announce_too_many_bytes(engine):
    table = FragmentTable(message_bytes_max=100, memory_bytes_max=100, engine=engine)
    table.add(1, 0, 2, 30, bytes(15))
    table.add(2, 0, 2, 40, bytes(20))
    table.add(3, 0, 2, 30, bytes(15))
    assert (len(table), table.memory_bytes, table.evicted) == (3, 100, 0)
    table.add(4, 0, 2, 31, bytes(16))
    assert (len(table), table.memory_bytes, table.evicted) == (2, 61, 2)


def test_a_message_of_one_fragment_takes_no_place(engine):
    table = FragmentTable(messages_max=1, engine=engine)
    table.add(1, 0, 2, 5, b"hel")
    assert table.add(2, 0, 1, 2, b"hi") == b"hi"
    assert (len(table), table.evicted) == (1, 0)


def test_messages_grow_old_tick_by_tick(table):
    table.add(1, 0, 2, 5, b"hel")
    assert table.tick(2) == 0
    table.add(2, 0, 2, 5, b"hel")
    assert table.tick(2) == 0
    assert table.tick(2) == 1
    assert (len(table), table.evicted) == (1, 1)
    assert table.add(2, 1, 2, 5, b"lo") == b"hello"


@pytest.mark.parametrize("limits", [{"messages_max": 0}, {"message_bytes_max": 10, "memory_bytes_max": 9}])
def test_limits_that_could_hold_no_message_are_refused(limits):
    with pytest.raises(ValueError, match="it must be at least"):
        FragmentTable(**limits)


def test_a_message_of_too_many_packets_is_not_sent(engine):
    assert len(engine.pack_fragments(0, 0, 0, bytes(65535), 25)) == 65535
    with pytest.raises(EncodeError, match="65536 bytes, the limit is 65535"):
        engine.pack_fragments(0, 0, 0, bytes(65536), 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((256, 0, 0, b"", 1200), "kind is 256"),
        ((0, 1 << 64, 0, b"", 1200), "connection is"),
        ((0, 0, -1, b"", 1200), "sequence is -1"),
        ((0, 0, 0, b"", 24), "packet_bytes_max is 24, it must be over 24"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        engine.pack_fragments(*arguments)


def test_a_reassembly_is_taken_only_when_whole(engine):
    reassembly = engine.reassembly(2, 5)
    assert reassembly.place(1, b"lo") == 1
    with pytest.raises(ValueError, match="1 fragments are missing"):
        reassembly.take()
    assert reassembly.place(1, b"lo") == -1
    assert reassembly.place(0, b"hel") == 0
    assert reassembly.take() == b"hello"
    assert reassembly.place(0, b"HEL") == -1
    assert reassembly.take() == b"hello"
    with pytest.raises(DecodeError, match="a message of 0 bytes can't come in 2 fragments"):
        engine.reassembly(2, 0)
