"""Durations counted in buckets of a fixed number, so that a day's run costs as much memory as a second's.

Strategy, that of HdrHistogram (Gil Tene): each power of two is divided into `_HALF` buckets of equal width, so a bucket
is never wider than 1/`_HALF` of the values it holds, whatever their size. Values are whole nanoseconds.

Invariant: a percentile is at most 0.4 % away from the true one (half a bucket); minimum, maximum and sums are exact.
"""

from __future__ import annotations

import math
from array import array

_BITS = 8
_HALF = 1 << (_BITS - 1)
_VALUE_BITS_MAX = 42  # 73 minutes
_VALUE_MAX = (1 << _VALUE_BITS_MAX) - 1


def _bucket(value: int) -> int:
    """Where a value is counted: its highest `_BITS` bits, and how many were cut off below them."""
    shift = value.bit_length() - _BITS
    return shift * _HALF + (value >> shift) if shift > 0 else value


def _middle(bucket: int) -> int:
    """The value in the middle of a bucket."""
    if bucket < 2 * _HALF:
        return bucket
    shift = bucket // _HALF - 1
    return ((bucket - shift * _HALF) << shift) + (1 << shift >> 1)


class Histogram:
    """Counts durations in nanoseconds; longer ones than 73 minutes are counted as that, only the maximum tells."""

    __slots__ = ("_counts", "_sum", "_sum_of_squares", "count", "maximum", "minimum")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (_bucket(_VALUE_MAX) + 1)))
        self._sum = 0
        self._sum_of_squares = 0
        self.count = 0
        self.minimum = 0
        self.maximum = 0

    def record(self, value: int, times: int = 1) -> None:
        """Count a duration that occurred so many times."""
        self._counts[_bucket(value) if value < _VALUE_MAX else -1] += times
        self._sum += value * times
        self._sum_of_squares += value * value * times
        if value < self.minimum or not self.count:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        self.count += times

    def merge(self, other: Histogram) -> None:
        """Count what the other one counted."""
        if not other.count:
            return
        self._counts = array("Q", map(int.__add__, self._counts, other._counts))
        self._sum += other._sum
        self._sum_of_squares += other._sum_of_squares
        self.minimum = min(self.minimum, other.minimum) if self.count else other.minimum
        self.maximum = max(self.maximum, other.maximum)
        self.count += other.count

    @property
    def mean(self) -> float:
        """The average; 0 when nothing was counted."""
        return self._sum / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of all that was counted, which ping calls `mdev`."""
        if not self.count:
            return 0.0
        return math.sqrt(max(self._sum_of_squares * self.count - self._sum**2, 0)) / self.count

    def percentile(self, percent: float) -> int:
        """The value below or at which so many percent of the durations lie; 0 when nothing was counted."""
        rank = max(math.ceil(self.count * percent / 100), 1)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(max(_middle(bucket), self.minimum), self.maximum)
        return self.maximum
