"""The histogram against the exact answer: same counts and sums, percentiles within half a bucket."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, strategies as st

from kernel.plugins.echo.histogram import Histogram

durations = st.lists(st.integers(0, 10**11), min_size=1, max_size=200)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations, st.floats(0, 100))
def test_a_percentile_is_within_half_a_bucket(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]
    assert filled(values).percentile(percent) == pytest.approx(exact, rel=1 / 256)


@given(durations)
def test_the_rest_is_exact(values: list[int]) -> None:
    histogram = filled(values)
    assert (histogram.count, histogram.minimum, histogram.maximum) == (len(values), min(values), max(values))
    assert histogram.mean == pytest.approx(statistics.fmean(values))
    assert histogram.deviation == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-6)


@given(durations, st.lists(st.integers(0, 10**9), max_size=50))
def test_merging_is_counting_both(ours: list[int], theirs: list[int]) -> None:
    merged = filled(ours)
    merged.merge(filled(theirs))
    both = filled(ours + theirs)
    assert (merged.count, merged.minimum, merged.maximum) == (both.count, both.minimum, both.maximum)
    assert merged.mean == both.mean
    assert [merged.percentile(p) for p in (1, 50, 99)] == [both.percentile(p) for p in (1, 50, 99)]


def test_merging_into_an_empty_one_takes_its_minimum() -> None:
    merged = Histogram()
    merged.merge(filled([7, 9]))
    assert merged.minimum == 7


def test_a_value_counted_many_times_weighs_as_much() -> None:
    histogram = Histogram()
    histogram.record(100, times=99)
    histogram.record(10_000)
    assert histogram.percentile(99) == 100
    assert histogram.mean == pytest.approx(199)


def test_beyond_its_range_it_counts_and_keeps_the_maximum() -> None:
    histogram = filled([1, 10**15])
    assert histogram.maximum == 10**15
    assert histogram.count == 2
    assert histogram.percentile(99) == pytest.approx(2**42, rel=1 / 256)


def test_nothing_counted_is_zero_everywhere() -> None:
    empty = Histogram()
    assert (empty.mean, empty.deviation, empty.percentile(50), empty.minimum) == (0.0, 0.0, 0, 0)
