"""The base of decoders written in Python: what it finds for them, wherever the bytes are cut."""

import random

import pytest

from kernel.framing import SimpleDecoder
from kernel.testing.work import work_of_feeding

FRAME_BYTES = 2000


class Lines(SimpleDecoder):
    """Ends with a delimiter, of any length."""

    def __init__(self, delimiter: bytes) -> None:
        super().__init__()
        self.delimiter = delimiter

    def cut(self, data, start):
        end = self.find(self.delimiter, start)
        return None if end < 0 else (bytes(data[start:end]), end + len(self.delimiter))


class Blocks(SimpleDecoder):
    """`type:text;;`: two searches a frame, of which the first one goes on to be found."""

    def cut(self, data, start):
        colon = self.find(b":", start)
        end = -1 if colon < 0 else self.find(b";;", colon + 1)
        return None if end < 0 else (bytes(data[start:colon] + b"=" + data[colon + 1 : end]), end + 2)


@pytest.mark.parametrize("delimiter", [b"\n", b"--", b"aab"])
def test_a_delimiter_is_found_wherever_the_bytes_are_cut(delimiter):
    chance = random.Random(1)
    for _ in range(300):
        stream = bytes(chance.choices(b"ab-\n", k=40))
        expected = stream.split(delimiter)[:-1]
        for at in range(len(stream)):
            decoder = Lines(delimiter)
            assert decoder.feed(stream[:at]) + decoder.feed(stream[at:]) == expected
        decoder = Lines(delimiter)
        assert [line for byte in stream for line in decoder.feed(bytes([byte]))] == expected


def test_what_was_found_before_is_found_again():
    stream = b"a:one:1;;b:;;c:;three;;"
    expected = [b"a=one:1", b"b=", b"c=;three"]
    for at in range(len(stream)):
        for to in range(at, len(stream)):
            decoder = Blocks()
            assert decoder.feed(stream[:at]) + decoder.feed(stream[at:to]) + decoder.feed(stream[to:]) == expected


@pytest.mark.parametrize("decoder", [Lines(b"\n"), Lines(b"--"), Blocks()])
def test_no_byte_is_searched_twice(decoder):
    def costs(count):
        work = work_of_feeding(decoder, [b"x"] * count)
        return work / count

    assert decoder.feed(b"x:") == []
    assert costs(FRAME_BYTES) < 1.5 * costs(10) < 200
