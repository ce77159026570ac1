"""KNL/1 frames: runs, limits, checksums. What the bytes are is said by tests/vectors/knl.txt."""

import struct
import zlib

import pytest
from framing.streams import describe, flatten

from kernel.framing import EncodeError, Knl, knl


def test_frames_with_the_same_header_but_for_their_length_are_one_run(engine):
    encoded = engine.encode_knl(knl.DATA, knl.MORE, 7, [b"a", b"", b"ccc"])
    assert engine.decoder(Knl()).feed(encoded) == [(knl.DATA, knl.MORE, 7, [b"a", b"", b"ccc"], 4)]


@pytest.mark.parametrize("other", [(1, 0, 1), (0, 1, 1), (0, 0, 2)])
def test_another_type_or_flags_or_channel_begins_another_run(engine, other):
    first, second = engine.encode_knl(0, 0, 1, [b"a", b"b"]), engine.encode_knl(*other, [b"c"])
    assert engine.decoder(Knl()).feed(first + second + first) == [
        (0, 0, 1, [b"a", b"b"], 2),
        (*other, [b"c"], 1),
        (0, 0, 1, [b"a", b"b"], 2),
    ]


def test_a_frame_that_straddles_two_reads_goes_into_the_run_that_follows_it(engine):
    encoded = engine.encode_knl(0, 4, 1, [b"first", b"second", b"third"])
    decoder = engine.decoder(Knl())
    assert decoder.feed(encoded[:10]) == []
    assert decoder.feed(encoded[10:]) == [(0, 4, 1, [b"first", b"second", b"third"], 16)]


def test_many_frames_keep_their_order(engine):
    payloads = [str(number).encode() for number in range(5000)]
    encoded = b"".join(engine.encode_knl(0, 0, number % 3, [payload]) for number, payload in enumerate(payloads))
    frames = flatten(engine.decoder(Knl()).feed(encoded))
    assert [frame[3] for frame in frames] == payloads
    assert [frame[2] for frame in frames] == [number % 3 for number in range(5000)]


@pytest.mark.parametrize("flags", [0, knl.CHECKSUM])
def test_payloads_of_one_size_have_each_their_own_checksum(engine, flags):
    payloads = [b"one", b"two", b"six", b"ten"]
    encoded = engine.encode_knl(0, flags, 1, payloads)
    assert encoded == b"".join(engine.knl_header(0, flags, 1, payload) + payload for payload in payloads)
    assert engine.decoder(Knl()).feed(encoded) == [(0, flags, 1, payloads, 12)]


@pytest.mark.parametrize("flags", [0, knl.CHECKSUM])
def test_the_header_alone_is_what_encoding_puts_before_a_payload(engine, flags):
    for payload in (b"", b"hello", bytes(70000)):
        encoded = engine.encode_knl(0, flags, 1, [payload], frame_bytes_max=1 << 20)
        assert engine.knl_header(0, flags, 1, payload) + payload == encoded
        assert engine.knl_header(0, flags, 1, memoryview(payload)) + payload == encoded


def test_the_limit_of_encoding_may_be_given_by_position_too(engine):
    assert engine.encode_knl(0, 0, 1, [b"ab"], 2) == engine.encode_knl(0, 0, 1, [b"ab"], frame_bytes_max=2)
    for arguments, keywords in (((0, 0, 1), {}), ((0, 0, 1, [], 2, 3), {}), ((0, 0, 1, []), {"limit": 2})):
        with pytest.raises(TypeError):
            engine.encode_knl(*arguments, **keywords)


def test_a_payload_over_the_limit_is_not_sent(engine):
    with pytest.raises(EncodeError) as raised:
        engine.encode_knl(0, 0, 1, [b"ab", b"abc"], frame_bytes_max=2)
    assert describe(raised.value) == ("too_large", "a message has 3 bytes, the limit is 2 (frame_bytes_max)")
    with pytest.raises(EncodeError, match="65537 bytes, the limit is 65536"):
        engine.encode_knl(0, 0, 1, [bytes(65537)])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((256, 0, 0), "type is 256, it must be from 0 to 255"),
        ((0, 65536, 0), "flags is 65536, it must be from 0 to 65535"),
        ((0, 0, 1 << 32), "channel is 4294967296, it must be from 0 to 4294967295"),
        ((-1, 0, 0), "type is -1, it must be from 0 to 255"),
        ((0, 0, 1 << 70), f"channel is {1 << 70}, it must be from 0 to 4294967295"),
    ],
)
def test_a_number_that_its_field_cannot_hold_is_refused(engine, numbers, message):
    for attempt in (lambda: engine.encode_knl(*numbers, [b""]), lambda: engine.knl_header(*numbers, b"")):
        with pytest.raises(ValueError, match=f"^{message}$"):
            attempt()


def test_every_damaged_bit_of_a_header_is_noticed(engine):
    encoded = engine.encode_knl(0, 0, 1, [b"hello"])
    for bit in range(8 * knl.HEADER_BYTES):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        decoder = engine.decoder(Knl())
        decoder.feed(damaged + bytes(65536))
        assert decoder.error.code in ("bad_version", "bad_checksum")


def test_every_damaged_bit_under_the_checksum_flag_is_noticed(engine):
    encoded = engine.encode_knl(0, knl.CHECKSUM, 1, [b"hello"])
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        decoder = engine.decoder(Knl(65536))
        assert decoder.feed(damaged + bytes(65536)) == []
        # a damaged length may also be a large one: refused, or waited for
        assert decoder.error is None or decoder.error.code in ("bad_version", "bad_checksum", "too_large")


def test_an_error_names_both_checksums(engine):
    encoded = bytearray(engine.encode_knl(0, knl.CHECKSUM, 1, [b"hello"]))
    (good,) = struct.unpack_from(">I", encoded, 12)
    encoded[-1] ^= 1
    decoder = engine.decoder(Knl())
    decoder.feed(encoded)
    computed = zlib.crc32(encoded[16:], zlib.crc32(encoded[:12]))
    assert f"{good:#010x}" in str(decoder.error)
    assert f"{computed:#010x}" in str(decoder.error)


def test_the_limit_can_be_moved_between_frames(engine):
    decoder = engine.decoder(Knl(frame_bytes_max=4))
    assert decoder.frame_bytes_max == 4
    assert decoder.feed(engine.encode_knl(0, 0, 1, [b"abcd"])) == [(0, 0, 1, [b"abcd"], 4)]
    decoder.frame_bytes_max = 8
    assert decoder.feed(engine.encode_knl(0, 0, 1, [b"abcdefgh"])) == [(0, 0, 1, [b"abcdefgh"], 8)]
    decoder.feed(engine.encode_knl(0, 0, 1, [b"abcdefghi"]))
    assert decoder.error.code == "too_large"
    for nonsense in (-1, 1 << 32):
        with pytest.raises(ValueError, match="frame_bytes_max"):
            decoder.frame_bytes_max = nonsense
        with pytest.raises(ValueError, match="frame_bytes_max"):
            Knl(nonsense)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 12, 16, 63, 64, 65, 79, 80, 127, 128, 129, 1000, 65537])
def test_crc32_is_zlibs(engine, size):
    data = bytes(byte * 7 & 0xFF for byte in range(size))
    assert engine.crc32(data) == zlib.crc32(data)
    assert engine.crc32(data, 0xDEADBEEF) == zlib.crc32(data, 0xDEADBEEF)
    assert engine.crc32(memoryview(data)[1:]) == zlib.crc32(data[1:])
    assert engine.crc32(data[size // 2 :], engine.crc32(data[: size // 2])) == zlib.crc32(data)
