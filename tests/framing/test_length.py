"""The length-field layout: what a layout may say, and what it means for each width, byte order and adjustment."""

import collections
import itertools

import pytest
from framing.streams import describe

from kernel.framing import EncodeError, FramingError, Length

WIDTHS = (1, 2, 4, 8)


def field(layout: Length, length: int) -> bytes:
    return length.to_bytes(layout.width, layout.endian, signed=layout.signed)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"offset": -1}, "offset"),
        ({"offset": 57}, "offset"),
        ({"offset": True}, "offset"),
        ({"width": 3}, "width"),
        ({"width": 4.0}, "width"),
        ({"endian": "middle"}, "endian"),
        ({"signed": 1}, "signed"),
        ({"adjust": 1 << 32}, "adjust"),
        ({"adjust": -(1 << 32)}, "adjust"),
        ({"strip": -1}, "strip"),
        ({"strip": 10, "width": 4, "frame_bytes_max": 5}, "strip"),
        ({"frame_bytes_max": -1}, "frame_bytes_max"),
        ({"frame_bytes_max": 1 << 41}, "frame_bytes_max"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused_by_the_name_of_the_option(options, named):
    with pytest.raises(ValueError, match=f"^{named} is ") as raised:
        Length(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("endian", ["big", "little"])
def test_decoding_undoes_encoding(engine, width, endian):
    combinations = itertools.product((0, 3, 56), (False, True), (-9, 0, 9), (None, 0, 1, 12))
    for offset, signed, adjust, strip in combinations:
        layout = Length(offset, width, endian, signed, adjust, strip, 100)
        messages = [bytes(range(size)) for size in (offset + 12, offset + 30, offset + 100)]
        encoded = engine.encode_length(layout, messages)
        wire = [m[:offset] + field(layout, len(m) - offset - adjust) + m[offset:] for m in messages]
        assert encoded == b"".join(wire)
        decoder = engine.decoder(layout)
        assert decoder.feed(encoded) == [frame[layout.strip_bytes :] for frame in wire]
        assert decoder.error is None


@pytest.mark.parametrize("size", [0, 1, 100])
def test_the_header_alone_is_what_encoding_puts_before_a_message(engine, size):
    layout = Length(width=2, frame_bytes_max=100)
    assert engine.length_header(layout, size) + bytes(size) == engine.encode_length(layout, [bytes(size)])


@pytest.mark.parametrize(
    ("layout", "size", "code", "numbers"),
    [
        (Length(frame_bytes_max=10), 11, "too_large", ["11", "10"]),
        (Length(offset=4, frame_bytes_max=10), 15, "too_large", ["15", "14"]),
        (Length(offset=4), 3, "bad_length", ["3", "4"]),
        (Length(width=1), 256, "bad_length", ["256", "1 unsigned"]),
        (Length(width=1, signed=True), 128, "bad_length", ["128", "1 signed"]),
        (Length(width=2, adjust=8), 7, "bad_length", ["-1", "2 unsigned"]),
        (Length(width=1, adjust=-8), 248, "bad_length", ["256", "1 unsigned"]),
    ],
)
def test_a_message_that_the_layout_cannot_carry_is_refused(engine, layout, size, code, numbers):
    small = bytes(layout.offset + max(0, layout.adjust))
    errors = []
    for attempt in (
        lambda: engine.encode_length(layout, [small, bytes(size)]),
        lambda: engine.encode_length(layout, [memoryview(bytes(size))]),
        lambda: engine.length_header(layout, size),
    ):
        with pytest.raises(EncodeError) as raised:
            attempt()
        errors.append(describe(raised.value))
    assert len(set(errors)) == 1
    assert errors[0][0] == code
    assert all(number in errors[0][1] for number in numbers)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("signed", [False, True])
def test_the_greatest_length_of_each_width_can_be_sent_or_is_over_the_limit(engine, width, signed):
    layout = Length(width=width, signed=signed, frame_bytes_max=1 << 40)
    greatest = min((1 << (8 * width - signed)) - 1, 1 << 40)
    assert engine.length_header(layout, greatest) == field(layout, greatest)
    with pytest.raises(EncodeError):
        engine.length_header(layout, greatest + 1)


def test_what_is_encoded_counts_bytes_not_items(engine):
    items = memoryview(b"\1\0\0\0\2\0\0\0").cast("I")
    assert engine.encode_length(Length(width=1), [items]) == b"\x08\1\0\0\0\2\0\0\0"


def test_what_is_encoded_may_be_any_sequence_of_any_buffers(engine):
    layout = Length(width=1)
    messages = [b"a", bytearray(b"b"), memoryview(b"c")]
    for sequence in (messages, tuple(messages), collections.deque(messages)):
        assert engine.encode_length(layout, sequence) == b"\1a\1b\1c"
    assert engine.encode_length(layout, ()) == b""


def test_what_is_no_buffer_can_be_neither_encoded_nor_fed(engine):
    for message in ("text", 5, None, [1, 2]):
        with pytest.raises(TypeError):
            engine.encode_length(Length(), [message])
        with pytest.raises(TypeError):
            engine.decoder(Length()).feed(message)
    with pytest.raises((TypeError, BufferError)):
        engine.encode_length(Length(), [memoryview(b"abcd")[::2]])


def test_encoding_a_moment_later_with_another_layout_uses_the_other_layout(engine):
    for layout in (Length(width=1), Length(width=2), Length(width=2, endian="little"), Length(width=1)):
        assert engine.encode_length(layout, [b"x"]) == field(layout, 1) + b"x"


@pytest.mark.parametrize(
    ("layout", "length", "code", "numbers"),
    [
        (Length(width=2, frame_bytes_max=10), 11, "too_large", ["11", "10", "frame_bytes_max"]),
        (Length(width=2, adjust=-4, frame_bytes_max=10), 15, "too_large", ["11", "10"]),
        (Length(width=8, adjust=100), (1 << 64) - 1, "too_large", [str((1 << 64) + 99)]),
        (Length(width=1, signed=True), -3, "negative_length", ["-3"]),
        (Length(width=8, signed=True), -(1 << 63), "negative_length", [str(-(1 << 63))]),
        (Length(width=1, adjust=-4), 3, "bad_length", ["3", "4"]),
        (Length(width=1, strip=9), 7, "bad_length", ["7", "8"]),
        (Length(width=1, adjust=20, frame_bytes_max=10), 0, "too_large", ["20", "10"]),
        (Length(width=4, signed=True, adjust=20, frame_bytes_max=10), -1, "negative_length", ["-1"]),
    ],
)
def test_a_length_that_breaks_a_rule_is_refused_from_the_header(engine, layout, length, code, numbers):
    whole, split = engine.decoder(layout), engine.decoder(layout)
    header = field(layout, length)
    assert whole.feed(header) == []
    for byte in header:
        assert split.feed(bytes([byte])) == []
    assert describe(whole.error) == describe(split.error)
    assert whole.error.code == code
    assert all(number in str(whole.error) for number in numbers)
    assert "\n" not in str(whole.error)
    assert isinstance(whole.error, FramingError)


def test_all_lengths_of_one_byte_are_judged_by_the_rules(engine):
    for signed, adjust, strip, limit in itertools.product((False, True), (-3, 0, 5), (None, 0, 4), (4, 40, 300)):
        layout = Length(width=1, signed=signed, adjust=adjust, strip=strip, frame_bytes_max=limit)
        for byte in range(256):
            length = int.from_bytes([byte], signed=signed)
            body = length + adjust
            decoder = engine.decoder(layout)
            frames = decoder.feed(bytes([byte]) + bytes(400))
            if length < 0:
                assert decoder.error.code == "negative_length"
            elif body < 0 or 1 + body < layout.strip_bytes:
                assert decoder.error.code == "bad_length"
            elif body > limit:
                assert decoder.error.code == "too_large"
            else:
                assert len(frames[0]) == 1 + body - layout.strip_bytes


def test_the_limit_can_be_moved_between_frames(engine):
    decoder = engine.decoder(Length(width=2, frame_bytes_max=4))
    assert decoder.frame_bytes_max == 4
    assert decoder.feed(engine.encode_length(Length(width=2), [b"abcd"])) == [b"abcd"]
    decoder.frame_bytes_max = 8
    assert decoder.frame_bytes_max == 8
    assert decoder.feed(engine.encode_length(Length(width=2), [b"abcdefgh"])) == [b"abcdefgh"]
    decoder.frame_bytes_max = 0
    assert decoder.feed(b"\0\0\0\1") == [b""]
    assert decoder.error.code == "too_large"
    for nonsense in (-1, (1 << 40) + 1):
        with pytest.raises(ValueError, match="frame_bytes_max"):
            decoder.frame_bytes_max = nonsense


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 3), ("offset", 1000), ("strip", -1), ("adjust", 1 << 40), ("frame_bytes_max", 1 << 60)],
)
def test_a_layout_that_was_tampered_with_is_refused_in_c(c_engine, name, value):
    layout = Length()
    object.__setattr__(layout, name, value)
    for attempt in (lambda: c_engine.decoder(layout), lambda: c_engine.encode_length(layout, [b"x"])):
        with pytest.raises(ValueError, match="Length would have refused"):
            attempt()
