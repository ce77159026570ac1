"""The vectors in tests/vectors: every case, on each engine, cut anywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from framing.streams import cut, outcome
from framing.vectors import Case, cases, flat, layout_of

from kernel.framing import DecodeError, Engine, Length


@pytest.mark.parametrize("case", cases("length", "knl"))
def test_streams(engine: Engine, case: Case) -> None:
    frames, code = flat(case)
    ways = [[point] for point in range(len(case.data) + 1)] + [list(range(len(case.data)))]
    for points, direct_bytes_min in itertools.product(ways, (1, 65536)):
        decoder = engine.decoder(layout_of(case), direct_bytes_min)
        found, error, pending = outcome(decoder, cut(case.data, points))
        assert (found, error and error[0], pending) == (frames, code, case.pending)


@pytest.mark.parametrize("case", cases("packet"))
def test_packets(engine: Engine, case: Case) -> None:
    frames, code = flat(case)
    if code is None:
        assert [engine.parse_packet(case.data)] == frames
    else:
        with pytest.raises(DecodeError) as raised:
            engine.parse_packet(case.data)
        assert raised.value.code == code


@pytest.mark.parametrize(
    "case", [parameter for parameter in cases("length", "knl", "packet") if parameter.values[0].encode]
)
def test_encoding(engine: Engine, case: Case) -> None:
    encoded = b"".join(encode(engine, case, event) for event in case.events)
    assert encoded == case.data[: len(case.data) - case.pending]


def encode(engine: Engine, case: Case, event: tuple[Any, ...]) -> bytes:
    match event:
        case "message", message:
            layout = layout_of(case)
            assert isinstance(layout, Length)
            return engine.encode_length(layout, [message])
        case "frame", kind, flags, channel, payload:
            return engine.encode_knl(kind, flags, channel, [payload])
        case "packet", kind, connection, sequence, 0, 1, _, message:
            (packet,) = engine.pack_fragments(kind, connection, sequence, message, 1200)
            return packet
        case _:
            raise ValueError(f"{case.title}: {event} can't be encoded")


def test_there_are_vectors() -> None:
    assert len(cases("length", "knl", "packet")) > 50
