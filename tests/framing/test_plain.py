"""Framings without a length: raw and lines."""

import pytest
from framing.streams import cut, outcome

from kernel.framing import EncodeError, LineDecoder, RawDecoder, encode_lines

TEXT = b"first\nsecond\r\n\n\r\nlast one\n"
LINES = [b"first", b"second", b"", b"", b"last one"]


def test_a_raw_chunk_is_a_message():
    decoder = RawDecoder()
    assert decoder.feed(b"hello") == [b"hello"]
    assert decoder.feed(memoryview(b"world")) == [b"world"]
    assert decoder.feed(b"") == []
    assert decoder.finish() == []
    assert (decoder.error, decoder.pending_bytes, decoder.wanted()) == (None, 0, None)


def test_lines_are_the_same_at_every_split_point():
    for point in range(len(TEXT) + 1):
        assert outcome(LineDecoder(), cut(TEXT, [point])) == (LINES, None, 0)
    assert outcome(LineDecoder(), cut(TEXT, range(len(TEXT)))) == (LINES, None, 0)


def test_a_delimiter_of_several_bytes_may_be_cut_too():
    text, delimiter = b"a--b-c---d--", b"--"
    for point in range(len(text) + 1):
        assert outcome(LineDecoder(10, delimiter), cut(text, [point])) == ([b"a", b"b-c", b"-d"], None, 0)


def test_a_carriage_return_belongs_to_the_line_with_any_other_delimiter():
    assert LineDecoder(10, b";").feed(b"a\r;b;") == [b"a\r", b"b"]


def test_the_last_line_needs_no_end():
    decoder = LineDecoder()
    assert decoder.feed(b"one\ntwo\r") == [b"one"]
    assert decoder.pending_bytes == 4
    assert decoder.finish() == [b"two"]
    assert (decoder.pending_bytes, decoder.error, decoder.finish()) == (0, None, [])


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n"])
def test_a_line_that_is_too_long_is_the_same_error_at_every_split_point(delimiter):
    text = delimiter.join([b"ok", b"12345", b"123456", b"more", b""])
    error = ("too_large", "no end of line within 5 bytes (line_bytes_max)")
    for point in range(len(text) + 1):
        decoder = LineDecoder(5, delimiter)
        assert outcome(decoder, cut(text, [point])) == ([b"ok", b"12345"], error, 0)
        with pytest.raises(ValueError, match="no end of line"):
            decoder.feed(b"")


def test_an_endless_line_is_noticed_without_its_end():
    decoder = LineDecoder(100)
    assert decoder.feed(b"x" * 100) == []
    assert decoder.error is None
    assert decoder.feed(b"x") == []
    assert decoder.error.code == "too_large"
    assert decoder.pending_bytes == 0


@pytest.mark.parametrize("decoder", [RawDecoder(), LineDecoder()])
def test_nothing_is_lent_so_nothing_can_be_filled(decoder):
    assert decoder.wanted() is None
    with pytest.raises(ValueError, match="without a view"):
        decoder.filled(1)


def test_lines_are_encoded_with_their_end():
    assert encode_lines([b"a", memoryview(b""), b"b"]) == b"a\n\nb\n"
    assert encode_lines([]) == b""
    assert encode_lines([b"a\n"], b"--") == b"a\n--"


@pytest.mark.parametrize(("message", "delimiter"), [(b"a\nb", b"\n"), (b"\n", b"\n"), (b"a--", b"--"), (b"-", b"--")])
def test_a_message_that_would_be_two_lines_is_refused(message, delimiter):
    with pytest.raises(EncodeError) as raised:
        encode_lines([b"fine", message], delimiter)
    assert raised.value.code == "bad_delimiter"


def test_an_empty_delimiter_is_refused():
    with pytest.raises(ValueError, match="delimiter is empty"):
        LineDecoder(10, b"")
