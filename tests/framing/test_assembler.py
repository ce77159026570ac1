"""A message out of many payloads."""

import pytest

from kernel.framing import DecodeError


def test_a_message_is_whole_when_its_bytes_have_come(engine):
    assembler = engine.assembler(10, 100)
    assert assembler.missing_bytes == 10
    assert assembler.add(b"hello") is None
    assert assembler.add(b"") is None
    assert assembler.add(memoryview(b"wor")) is None
    assert assembler.missing_bytes == 2
    assert assembler.add(bytearray(b"ld")) == b"helloworld"
    assert assembler.missing_bytes == 0


def test_an_empty_message_is_whole_with_its_first_payload(engine):
    assert engine.assembler(0, 0).add(b"") == b""


def test_a_message_over_the_limit_is_refused_before_its_bytes_come(engine):
    with pytest.raises(DecodeError) as raised:
        engine.assembler(101, 100)
    assert raised.value.code == "too_large"
    assert str(raised.value) == "a message announces 101 bytes, the limit is 100 (message_bytes_max)"
    with pytest.raises(DecodeError):
        engine.assembler((1 << 64) - 1, 1 << 40)


def test_more_bytes_than_announced_are_an_error(engine):
    assembler = engine.assembler(10, 100)
    assembler.add(b"hello")
    with pytest.raises(DecodeError) as raised:
        assembler.add(b"worlds")
    assert raised.value.code == "bad_length"
    assert str(raised.value) == "11 bytes have arrived of a message that announced 10"


def test_a_negative_length_is_a_mistake(engine):
    with pytest.raises(ValueError, match="total_bytes is -1"):
        engine.assembler(-1, 10)


def test_what_is_no_buffer_is_refused(engine):
    with pytest.raises(TypeError):
        engine.assembler(3, 3).add("abc")
