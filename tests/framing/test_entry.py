"""The framings that a listener can ask for by name."""

import dataclasses
import importlib.metadata

import pytest

from kernel.framing import EncodeError
from kernel.framing.entry import JOIN_BYTES_MAX, KnlFraming, LengthFraming, LineFraming, RawFraming

PLAIN = [LengthFraming(), LengthFraming(offset=2, width=2, strip=0), RawFraming(), LineFraming()]
LONG = b"x" * (JOIN_BYTES_MAX + 1)


def test_each_entry_point_is_a_framing_of_its_name():
    framings = {point.name: point.load() for point in importlib.metadata.entry_points(group="kernel.framings")}
    assert {"knl", "raw", "line", "length"} <= framings.keys()
    for name, framing in framings.items():
        assert framing.name == name
        assert framing.channels == (name == "knl")
        assert dataclasses.is_dataclass(framing)
        assert framing().decoder().feed(b"") == []


def test_options_are_fields_with_defaults():
    assert {field.name for field in dataclasses.fields(LengthFraming)} == {
        "offset",
        "width",
        "endian",
        "signed",
        "adjust",
        "strip",
        "frame_bytes_max",
    }
    assert LengthFraming(width=1).decoder().feed(b"\2hi") == [b"hi"]
    assert LineFraming(delimiter=";").decoder().feed(b"a;b;") == [b"a", b"b"]
    assert KnlFraming(frame_bytes_max=4).decoder().frame_bytes_max == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthFraming(width=3),
        lambda: KnlFraming(frame_bytes_max=-1),
        lambda: LineFraming(delimiter=""),
        lambda: LineFraming(line_bytes_max=0),
    ],
)
def test_a_wrong_option_is_refused_when_the_framing_is_made(make):
    with pytest.raises(ValueError, match=" is "):
        make()


@pytest.mark.parametrize("framing", PLAIN, ids=lambda framing: framing.name)
def test_short_messages_are_joined(framing):
    assert len(framing.encoder()([b"aaaa", b"bbbb", b"cccc"])) == 1


@pytest.mark.parametrize("framing", PLAIN[:3], ids=lambda framing: framing.name)
def test_long_messages_go_by_reference(framing):
    messages = [b"aaaa", b"bbbb", LONG, LONG, b"cccc"]
    buffers = framing.encoder()(messages)
    assert b"".join(buffers) == b"".join(buffer for message in messages for buffer in framing.encoder()([message]))
    assert sum(memoryview(buffer).obj is LONG for buffer in buffers) == 2
    assert len(buffers) <= 6


@pytest.mark.parametrize("framing", PLAIN, ids=lambda framing: framing.name)
def test_what_is_encoded_can_be_decoded(framing):
    messages = [b"aaaa", b"", LONG, b"cccc"] if framing != PLAIN[1] else [b"aaaa", LONG]
    decoder = framing.decoder()
    frames = [frame for buffer in framing.encoder()(messages) for frame in decoder.feed(buffer)]
    if framing.name == "raw":
        assert b"".join(frames) == b"".join(messages)
    elif framing == PLAIN[1]:
        assert frames == [m[:2] + (len(m) - 2).to_bytes(2) + m[2:] for m in messages]
    else:
        assert frames == messages


def test_a_message_over_the_limit_is_refused_short_or_long():
    for size in (10, JOIN_BYTES_MAX + 1):
        with pytest.raises(EncodeError, match="the limit is 9"):
            LengthFraming(frame_bytes_max=9).encoder()([b"fine", bytes(size)])
