"""What every decoder does, whatever its layout: the same frames wherever the bytes are cut."""

import pytest
from framing.streams import cut, flatten, outcome

from kernel.framing import Engine, Knl, Length

LENGTH = Length(width=2, frame_bytes_max=300)
KNL = Knl(frame_bytes_max=300)
MESSAGES = [b"", b"a", b"hello", bytes(range(256)), b"", b"x" * 300, b"last"]


def encoded(engine: Engine, layout: Length | Knl) -> bytes:
    if isinstance(layout, Length):
        return engine.encode_length(layout, MESSAGES)
    return b"".join(
        engine.encode_knl(kind, flags, channel, MESSAGES, frame_bytes_max=300)
        for kind, flags, channel in ((0, 0, 1), (0, 4, 1), (7, 8, 0xFFFFFFFF))
    )


def expected(layout: Length | Knl) -> list[object]:
    if isinstance(layout, Length):
        return list(MESSAGES)
    return [
        (kind, flags, channel, message)
        for kind, flags, channel in ((0, 0, 1), (0, 4, 1), (7, 8, 0xFFFFFFFF))
        for message in MESSAGES
    ]


@pytest.fixture(params=[LENGTH, KNL], ids=["length", "knl"])
def layout(request: pytest.FixtureRequest) -> Length | Knl:
    return request.param


@pytest.mark.parametrize("direct_bytes_min", [1, 8, 65536])
def test_frames_are_the_same_at_every_split_point(engine, layout, direct_bytes_min):
    data = encoded(engine, layout)
    for point in range(len(data) + 1):
        decoder = engine.decoder(layout, direct_bytes_min)
        assert outcome(decoder, cut(data, [point])) == (expected(layout), None, 0)


@pytest.mark.parametrize("direct_bytes_min", [1, 8, 65536])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 17, 100])
def test_frames_are_the_same_in_steps_of_any_size(engine, layout, step, direct_bytes_min):
    data = encoded(engine, layout)
    decoder = engine.decoder(layout, direct_bytes_min)
    assert outcome(decoder, cut(data, range(step, len(data), step))) == (expected(layout), None, 0)


def test_an_empty_chunk_changes_nothing(engine, layout):
    decoder = engine.decoder(layout)
    assert decoder.feed(b"") == []
    decoder.feed(encoded(engine, layout)[:5])
    pending = decoder.pending_bytes
    assert decoder.feed(b"") == []
    assert decoder.pending_bytes == pending


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_fed_and_encoded(engine, layout, kind):
    data = encoded(engine, layout)
    assert outcome(engine.decoder(layout), [kind(data)]) == (expected(layout), None, 0)


def test_what_was_fed_may_be_reused_at_once(engine, layout):
    data = encoded(engine, layout)
    buffer = bytearray(64)
    decoder = engine.decoder(layout)
    frames = []
    for start in range(0, len(data), len(buffer)):
        chunk = data[start : start + len(buffer)]
        buffer[: len(chunk)] = chunk
        frames += decoder.feed(memoryview(buffer)[: len(chunk)])
        buffer[:] = b"\xff" * len(buffer)
        buffer.append(0)  # fails while anybody still exports it
        buffer.pop()
    assert flatten(frames) == expected(layout)
