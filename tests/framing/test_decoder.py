"""What every decoder does, whatever its layout: the same frames wherever the bytes are cut."""

import pickle

import pytest
from framing.streams import cut, flatten, outcome

from kernel.framing import (
    DecodeError,
    Engine,
    Knl,
    Length,
    errors,
    truncated,
)

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
    assert decoder.feed(memoryview(bytearray())) == []
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


def corrupt(engine, layout):
    """Good frames, a corrupt header, and a good frame after it."""
    good = encoded(engine, layout)
    bad = b"\xff\xff" if isinstance(layout, Length) else b"\xff" * 16
    return good + bad + good


def test_the_frames_before_a_corrupt_one_come_out_and_none_after_it(engine, layout):
    data = corrupt(engine, layout)
    whole = outcome(engine.decoder(layout), [data])
    assert whole[0] == expected(layout)
    assert whole[1] is not None
    for point in range(len(data) + 1):
        assert outcome(engine.decoder(layout, 1), cut(data, [point])) == whole


def test_an_error_is_final(engine, layout):
    decoder = engine.decoder(layout)
    decoder.feed(corrupt(engine, layout))
    error = decoder.error
    for attempt in (lambda: decoder.feed(b"more"), lambda: decoder.feed(b""), lambda: decoder.filled(0)):
        with pytest.raises(DecodeError) as raised:
            attempt()
        assert raised.value is error
    assert (decoder.wanted(), decoder.pending_bytes, decoder.finish()) == (None, 0, [])
    assert decoder.error is error


def test_a_stream_may_end_between_two_frames_only(engine, layout):
    data = encoded(engine, layout)
    decoder = engine.decoder(layout)
    decoder.feed(data)
    assert decoder.finish() == []
    assert decoder.error is None
    decoder.feed(data[:-1])
    pending = decoder.pending_bytes
    assert pending > 0
    assert decoder.finish() == []
    assert decoder.error.code == "truncated"
    assert str(pending) in str(decoder.error)
    assert str(decoder.error) == str(truncated(pending))
    assert decoder.pending_bytes == 0


def test_pending_bytes_are_those_of_the_unfinished_frame(engine, layout):
    header_bytes = 2 if isinstance(layout, Length) else 16
    data = encoded(engine, layout)
    decoder = engine.decoder(layout)
    completed = 0
    for arrived in range(1, len(data) + 1):
        for frame in flatten(decoder.feed(data[arrived - 1 : arrived])):
            completed += header_bytes + len(frame if isinstance(frame, bytes) else frame[-1])
        assert decoder.pending_bytes == arrived - completed


def test_errors_survive_pickling(engine, layout):
    decoder = engine.decoder(layout)
    decoder.feed(corrupt(engine, layout))
    error = pickle.loads(pickle.dumps(decoder.error))
    assert (type(error), error.code, str(error)) == (DecodeError, decoder.error.code, str(decoder.error))


def test_a_decoder_cannot_be_entered_twice(c_engine, monkeypatch):
    decoder = c_engine.decoder(Knl())
    seen = []

    def enter_again(*_):
        for attempt in (lambda: decoder.feed(b"x"), lambda: decoder.filled(0), decoder.finish):
            with pytest.raises((RuntimeError, ValueError)) as raised:
                attempt()
            seen.append(raised.value)
        assert decoder.wanted() is None
        raise KeyError("from within")

    monkeypatch.setattr(errors, "bad_version", enter_again)
    with pytest.raises(KeyError, match="from within"):
        decoder.feed(b"\xff" * 16)
    assert "in use" in str(seen[0])
    with pytest.raises(RuntimeError, match="broke off in the middle"):
        decoder.feed(b"x")
