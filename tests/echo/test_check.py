"""The verdict on what came back: right, wrong (and where), lost, late, doubled."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from kernel.plugins.echo.check import ByContent, Check, Display, Expect, InOrder
from kernel.plugins.echo.payload import of_bytes
from kernel.plugins.echo.report import Tally

TIMEOUT = 1000


def verbatim(part: bytes) -> bytes:
    return part


def in_order(expect: Expect = verbatim, *, boundaries: bool = True) -> InOrder:
    return InOrder(Tally(), expect, TIMEOUT, Display(), boundaries=boundaries)


def by_content(expect: Expect = verbatim) -> ByContent:
    return ByContent(Tally(), expect, TIMEOUT, Display())


@pytest.fixture(params=["in order", "by content"])
def check(request: pytest.FixtureRequest) -> Check:
    return in_order() if request.param == "in order" else by_content()


def counts(check: Check) -> tuple[int, int, int, int]:
    tally = check.tally
    return tally.sent, tally.received, tally.lost, tally.corrupt


class TestEither:
    def test_a_right_reply(self, check: Check) -> None:
        check.sent(of_bytes(b"hello"), 100)
        assert check.outstanding == 1
        check.received(b"hello", 150)
        assert counts(check) == (1, 1, 0, 0)
        assert check.outstanding == 0
        assert check.tally.round_trips.maximum == 50
        assert (check.tally.bytes_sent, check.tally.bytes_received) == (5, 5)
        assert check.tally.good

    def test_an_empty_message_is_a_message(self, check: Check) -> None:
        check.sent(of_bytes(b""), 0)
        check.received(b"", 1)
        assert counts(check) == (1, 1, 0, 0)

    @pytest.mark.parametrize(
        ("reply", "what"),
        [
            (b"heLlo", "message 1 differs at offset 2: 0x4c instead of 0x6c"),
            (b"hell", "message 1 has 4 bytes instead of 5: it differs at offset 4"),
            (b"hello!", "message 1 has 6 bytes instead of 5: it differs at offset 5"),
            (b"HELLO", "offset 0: 0x48 instead of 0x68 (the server answers in upper case: --expect upper)"),
        ],
    )
    def test_a_wrong_reply_is_explained(self, check: Check, reply: bytes, what: str) -> None:
        check.sent(of_bytes(b"hello"), 0)
        check.received(reply, 1)
        assert counts(check) == (1, 1, 0, 1)
        assert what in check.tally.error
        assert not check.tally.good

    def test_a_timeout_is_a_loss(self, check: Check) -> None:
        check.sent(of_bytes(b"hello"), 100)
        assert check.deadline == 100 + TIMEOUT
        check.expire(99 + TIMEOUT)
        assert check.outstanding == 1
        check.expire(100 + TIMEOUT)
        assert counts(check) == (1, 0, 1, 0)
        assert check.deadline is None
        assert "no reply to message 1" in check.tally.error

    def test_abandoned_messages_are_lost(self, check: Check) -> None:
        for text in (b"a", b"b"):
            check.sent(of_bytes(text), 0)
        check.received(b"a", 1)
        check.abandon()
        assert counts(check) == (2, 1, 1, 0)

    def test_what_nobody_asked_for_is_unexpected(self, check: Check) -> None:
        check.received(b"advertisement", 0)
        assert check.tally.unexpected == 1
        assert counts(check) == (0, 0, 0, 0)

    def test_the_first_error_is_the_one_that_is_told(self, check: Check) -> None:
        for reply in (b"1", b"2"):
            check.sent(of_bytes(b"x"), 0)
            check.received(reply, 1)
        assert "message 1" in check.tally.error


class TestInOrder:
    def test_pieces_are_compared_in_their_places(self) -> None:
        check = in_order()
        check.sent(of_bytes(b"hello world"), 0)
        check.piece(b"hello", 11, False, 1)
        assert check.outstanding == 1
        check.piece(b" w0rld", 11, True, 2)
        assert counts(check) == (1, 1, 0, 1)
        assert "offset 7" in check.tally.error

    @given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=10), st.data())
    def test_a_raw_stream_may_be_cut_anywhere(self, messages: list[bytes], data: st.DataObject) -> None:
        check = in_order(boundaries=False)
        for message in messages:
            check.sent(of_bytes(message), 0)
        stream = b"".join(messages)
        edges = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=5))})
        for start, end in pairwise(edges):
            check.received(stream[start:end], 1)
        assert counts(check) == (len(messages), len(messages), 0, 0)

    def test_a_raw_stream_out_of_step_cannot_go_on(self) -> None:
        check = in_order(boundaries=False)
        check.sent(of_bytes(b"abc"), 0)
        check.received(b"ab", 1)
        assert not check.broken
        check.received(b"X", 1)
        assert check.broken

    def test_what_follows_the_last_message_of_a_raw_stream_is_unexpected(self) -> None:
        check = in_order(boundaries=False)
        check.sent(of_bytes(b"abc"), 0)
        check.received(b"abcdef", 1)
        assert check.tally.unexpected == 1
        assert counts(check) == (1, 1, 0, 0)

    def test_messages_keep_their_boundaries(self) -> None:
        check = in_order()
        check.sent(of_bytes(b"hello"), 0)
        check.sent(of_bytes(b"feng"), 0)
        check.received(b"hellofeng", 1)
        assert check.tally.corrupt == 1

    def test_a_timeout_ends_the_wait_for_all_behind(self) -> None:
        check = in_order()
        check.sent(of_bytes(b"a"), 0)
        check.sent(of_bytes(b"b"), 500)
        check.expire(TIMEOUT)
        assert check.broken
        assert counts(check) == (2, 0, 2, 0)

    def test_a_long_message_that_moves_is_not_overdue(self) -> None:
        check = in_order()
        check.sent(of_bytes(b"hello"), 0)
        check.progress(TIMEOUT - 1)
        check.expire(TIMEOUT)
        check.piece(b"he", 5, False, 2 * TIMEOUT)
        check.expire(3 * TIMEOUT - 1)
        assert check.outstanding == 1
        check.expire(3 * TIMEOUT)
        assert counts(check) == (1, 0, 1, 0)

    def test_upper_and_any(self) -> None:
        upper, anything = in_order(bytes.upper), in_order(None)
        for check, reply in ((upper, b"HELLO"), (anything, b"hi")):
            check.sent(of_bytes(b"hello"), 0)
            check.received(reply, 1)
            assert counts(check) == (1, 1, 0, 0)

    def test_any_bytes_of_a_raw_stream_answer_when_any_will_do(self) -> None:
        check = in_order(None, boundaries=False)
        check.sent(of_bytes(b"hello"), 0)
        check.received(b"hi", 1)
        assert counts(check) == (1, 1, 0, 0)

    def test_replies_are_shown_with_their_ends(self) -> None:
        class Recorder(Display):
            def part(self, piece: bytes, last: bool) -> None:
                shown.append((piece, last))

            def answered(self, sequence: int, size: int, nanoseconds: int) -> None:
                shown.append((sequence, size, nanoseconds))

        shown: list[tuple[object, ...]] = []
        check = InOrder(Tally(), verbatim, TIMEOUT, Recorder(), boundaries=False)
        check.sent(of_bytes(b"ab"), 0)
        check.sent(of_bytes(b"cd"), 0)
        check.received(b"abc", 1)
        check.received(b"d", 2)
        assert shown == [(b"ab", True), (1, 2, 1), (b"c", False), (b"d", True), (2, 2, 2)]


class TestByContent:
    def test_replies_may_overtake_each_other(self) -> None:
        check = by_content()
        for text in (b"a", b"b", b"c"):
            check.sent(of_bytes(text), 0)
        for text in (b"c", b"a", b"b"):
            check.received(text, 1)
        assert counts(check) == (3, 3, 0, 0)

    def test_equal_messages_are_answered_in_turn(self) -> None:
        check = by_content()
        check.sent(of_bytes(b"same"), 0)
        check.sent(of_bytes(b"same"), 10)
        check.received(b"same", 20)
        assert check.deadline == 10 + TIMEOUT
        check.received(b"same", 20)
        assert counts(check) == (2, 2, 0, 0)

    def test_a_reply_that_comes_again_is_a_duplicate(self) -> None:
        check = by_content()
        check.sent(of_bytes(b"a"), 0)
        check.received(b"a", 1)
        check.received(b"a", 2)
        assert counts(check) == (1, 1, 0, 0)
        assert check.tally.duplicates == 1
        assert check.tally.good

    def test_a_reply_after_its_timeout_is_late_and_stays_lost(self) -> None:
        check = by_content()
        check.sent(of_bytes(b"a"), 0)
        check.expire(TIMEOUT)
        check.received(b"a", TIMEOUT + 1)
        check.received(b"a", TIMEOUT + 2)
        assert counts(check) == (1, 0, 1, 0)
        assert (check.tally.late, check.tally.duplicates) == (1, 1)

    def test_a_timeout_leaves_the_others_their_time(self) -> None:
        check = by_content()
        check.sent(of_bytes(b"a"), 0)
        check.sent(of_bytes(b"b"), 500)
        check.expire(TIMEOUT)
        assert not check.broken
        assert counts(check) == (2, 0, 1, 0)
        check.received(b"b", TIMEOUT + 1)
        assert counts(check) == (2, 1, 1, 0)

    def test_a_wrong_reply_among_many_is_not_held_against_any(self) -> None:
        check = by_content()
        for text in (b"a", b"b"):
            check.sent(of_bytes(text), 0)
        check.received(b"x", 1)
        assert counts(check) == (2, 0, 0, 1)
        check.received(b"a", 2)
        check.expire(TIMEOUT)
        assert counts(check) == (2, 1, 1, 1)

    def test_upper_and_any(self) -> None:
        upper, anything = by_content(bytes.upper), by_content(None)
        for check, reply in ((upper, b"HELLO"), (anything, b"hi")):
            check.sent(of_bytes(b"hello"), 0)
            check.received(reply, 1)
            assert counts(check) == (1, 1, 0, 0)
