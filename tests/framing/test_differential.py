"""Both engines agree: same frames, same errors in the same words, the same bytes left over.

Each property takes a source of randomness, so that hypothesis can shrink what it finds. `fuzz/differential.py` runs
the same inputs by the million.
"""

import random

from framing.differential import decode, encode, make_input, make_packet, parse
from hypothesis import given, settings, strategies as st

from kernel import framing

PYTHON = framing.engine("python")


sources = st.randoms(use_true_random=False)


@given(sources)
@settings(max_examples=400, deadline=None)
def test_decoding(c_engine: framing.Engine, source: random.Random) -> None:
    case = make_input(source)
    assert decode(c_engine, case) == decode(PYTHON, case)


@given(sources)
@settings(max_examples=200, deadline=None)
def test_where_the_bytes_are_cut_does_not_matter(c_engine: framing.Engine, source: random.Random) -> None:
    case = make_input(source)
    found = decode(c_engine, case)
    case.points = []
    assert decode(c_engine, case) == found


@given(sources, st.lists(st.binary(max_size=320), max_size=5))
@settings(max_examples=150, deadline=None)
def test_encoding(c_engine: framing.Engine, source: random.Random, messages: list[bytes]) -> None:
    layout = make_input(source).layout
    assert encode(c_engine, layout, messages) == encode(PYTHON, layout, messages)


@given(sources)
@settings(max_examples=200, deadline=None)
def test_packets(c_engine: framing.Engine, source: random.Random) -> None:
    packet = make_packet(source)
    assert parse(c_engine, packet) == parse(PYTHON, packet)


@given(st.binary(max_size=300), st.integers(0, 0xFFFFFFFF))
@settings(max_examples=200, deadline=None)
def test_checksums(c_engine: framing.Engine, data: bytes, value: int) -> None:
    assert c_engine.crc32(data, value) == PYTHON.crc32(data, value)


@given(st.binary(max_size=500), st.integers(25, 600), st.integers(0, 255), st.integers(0, (1 << 64) - 1))
@settings(max_examples=200, deadline=None)
def test_fragments(c_engine: framing.Engine, message: bytes, packet_bytes_max: int, kind: int, connection: int) -> None:
    packets = c_engine.pack_fragments(kind, connection, 5, message, packet_bytes_max)
    assert packets == PYTHON.pack_fragments(kind, connection, 5, message, packet_bytes_max)


def test_the_same_seed_makes_the_same_input() -> None:
    assert make_input(random.Random(7)) == make_input(random.Random(7))
