"""Messages over a channel that loses, doubles and reorders datagrams: in order, whole and once."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings, strategies as st

from kernel.plugins.chat.reliable import DATAGRAM_BYTES, WINDOW_MESSAGES, Reliable

GIVE_UP_SECONDS = 15.0


class Weather:
    """Two ends, a clock, and what happens to datagrams between them."""

    def __init__(self, seed: int, loss: float, doubled: float, delay: float) -> None:
        self.ends = (Reliable(GIVE_UP_SECONDS), Reliable(GIVE_UP_SECONDS))
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])
        self.now = 0.0
        self.datagrams = 0
        self._random = random.Random(seed)
        self._loss, self._doubled, self._delay = loss, doubled, delay
        self._air: list[tuple[float, int, int, bytes]] = []

    def flush(self) -> None:
        for side, end in enumerate(self.ends):
            end.tick(self.now)
            for datagram in end.data_to_send(self.now):
                self.datagrams += 1
                copies = 1 + (self._random.random() < self._doubled)
                for _ in range(copies):
                    if self._random.random() >= self._loss:
                        due = self.now + 0.01 + self._random.random() * self._delay
                        heapq.heappush(self._air, (due, self._random.getrandbits(32), 1 - side, datagram))

    def run(self, seconds: float = 600.0) -> None:
        """Until nothing is under way."""
        self.flush()
        while self.now < seconds:
            deadlines = [end.deadline for end in self.ends if end.deadline is not None and not end.lost]
            moments = [*deadlines, *([self._air[0][0]] if self._air else [])]
            if not moments:
                return
            self.now = max(self.now, min(moments))
            while self._air and self._air[0][0] <= self.now:
                _, _, side, datagram = heapq.heappop(self._air)
                self.arrived[side].extend(self.ends[side].received(datagram, self.now))
            self.flush()
        raise AssertionError("it never came to rest")


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    doubled=st.floats(0, 0.3),
    delay=st.floats(0, 0.3),
    counts=st.tuples(st.integers(0, 400), st.integers(0, 400)),
    size=st.integers(1, 1500),
)
def test_everything_arrives_once_and_in_order(
    seed: int, loss: float, doubled: float, delay: float, counts: tuple[int, int], size: int
) -> None:
    weather = Weather(seed, loss, doubled, delay)
    sent = [[b"%d " % number + b"x" * (number * 7 % size) for number in range(count)] for count in counts]
    for end, messages in zip(weather.ends, sent, strict=True):
        half = len(messages) // 2
        end.send(messages[:half])
    weather.flush()
    for end, messages in zip(weather.ends, sent, strict=True):
        end.send(messages[len(messages) // 2 :])
    weather.run()
    if not any(end.lost for end in weather.ends):
        assert list(weather.arrived) == [sent[1], sent[0]]
        assert [(end.unacknowledged, end.pending_bytes) for end in weather.ends] == [(0, 0), (0, 0)]
    for arrived, messages in zip(weather.arrived, reversed(sent), strict=True):
        assert arrived == messages[: len(arrived)]


def test_in_good_weather_messages_share_datagrams_and_nothing_is_sent_twice() -> None:
    weather = Weather(1, 0, 0, 0)
    weather.ends[0].send([b"x" * 99] * 100)
    weather.run()
    assert len(weather.arrived[1]) == 100
    assert weather.datagrams <= 100 * 100 // DATAGRAM_BYTES + 1 + 15


def test_a_hole_is_filled_without_waiting_for_a_timeout() -> None:
    one, other = Reliable(GIVE_UP_SECONDS), Reliable(GIVE_UP_SECONDS)
    one.send([b"%d" % number + b"x" * 600 for number in range(6)])
    datagrams = one.data_to_send(0.0)
    assert len(datagrams) == 6
    for datagram in datagrams[1:]:
        assert other.received(datagram, 0.1) == []
        [reply] = other.data_to_send(0.1)
        one.received(reply, 0.2)
    [again] = one.data_to_send(0.2)
    assert len(other.received(again, 0.3)) == 6


def test_who_hears_nothing_gives_up_and_knows_what_may_be_missing() -> None:
    end = Reliable(GIVE_UP_SECONDS)
    end.send([b"x"] * 3)
    now, sent = 0.0, 0
    while not end.lost:
        end.tick(now)
        sent += len(end.data_to_send(now))
        now = end.deadline if end.deadline is not None else now
    assert GIVE_UP_SECONDS <= now < GIVE_UP_SECONDS + 5
    assert end.unacknowledged == 3
    assert sent <= 12


def test_an_idle_end_has_nothing_to_do_however_long() -> None:
    weather = Weather(1, 0, 0, 0)
    weather.ends[0].send([b"x"])
    weather.run()
    weather.now += 1000
    weather.ends[0].send([b"y"])
    weather.run(2000)
    assert weather.arrived[1] == [b"x", b"y"]
    assert not weather.ends[0].lost


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\n",
        b"1\nx",
        b"a b\nx",
        b"1 -1\nx",
        b"0 1\nx",
        b"1 2\nx",
        b"1 99999999999999999999\nx",
        b"1 1 z\nx",
        b"\xff 1\nx",
    ],
)
def test_what_makes_no_sense_changes_nothing(datagram: bytes) -> None:
    end = Reliable(GIVE_UP_SECONDS)
    assert end.received(datagram, 0.0) == []
    assert end.data_to_send(0.0) == []


def test_whoever_ignores_the_window_fills_no_memory() -> None:
    end = Reliable(GIVE_UP_SECONDS)
    for number in range(2, 10_000):
        assert end.received(b"%d 1\nx" % number, 0.0) == []
    assert len(end.received(b"1 1\nx", 0.0)) == WINDOW_MESSAGES


def test_what_comes_out_of_order_is_bounded_in_bytes_too() -> None:
    end = Reliable(GIVE_UP_SECONDS)
    large = b"x" * 60_000
    for number in range(2, WINDOW_MESSAGES + 1):
        assert end.received(b"%d 1\n%s" % (number, large), 0.0) == []
    [acknowledgement] = end.data_to_send(0.0)
    kept = acknowledgement.split()[2].split(b",")
    assert len(kept) * len(large) <= 256 * 1024
    assert len(end.received(b"1 1\n" + large, 0.0)) == len(kept) + 1  # what was dropped comes again
    for number in range(len(kept) + 2, WINDOW_MESSAGES + 1):
        assert end.received(b"%d 1\n%s" % (number, large), 0.0) == [large]
