"""What came of a run, as numbers, as two lines for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .histogram import Histogram

PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(slots=True)
class Tally:
    """What was counted so far.

    Attributes:
        sent: messages that were sent.
        received: replies that came in time, right or wrong.
        lost: messages that got no reply in time, or none at all.
        corrupt: replies that were not what was expected.
        late, duplicates, unexpected: what else arrived: after its time-out, once more, without having been asked for.
        bytes_sent, bytes_received: the payload of all of them.
        round_trips: from the call that sent a message to the last byte of its reply, in nanoseconds.
        seconds: how long the run took.
        error: the first thing that went wrong, in one line; empty when nothing did.
    """

    sent: int = 0
    received: int = 0
    lost: int = 0
    corrupt: int = 0
    late: int = 0
    duplicates: int = 0
    unexpected: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    round_trips: Histogram = field(default_factory=Histogram)
    seconds: float = 0.0
    error: str = ""

    @property
    def good(self) -> bool:
        """Everything came back as it should."""
        return not (self.lost or self.corrupt or self.error)

    def blame(self, error: str) -> None:
        """Remember what went wrong, unless something did before."""
        self.error = self.error or error


def lines(tally: Tally) -> str:
    """The summary in the form that ping made familiar."""
    loss = 100 * tally.lost / tally.sent if tally.sent else 0.0
    counts = [f"{tally.sent:,} sent", f"{tally.received:,} received", f"{tally.lost:,} lost ({loss:.3g}%)"]
    counts.append(f"{tally.corrupt:,} corrupt")
    oddities = {"late": tally.late, "duplicates": tally.duplicates, "unexpected": tally.unexpected}
    counts.extend(f"{count:,} {name}" for name, count in oddities.items() if count)
    first = f"{', '.join(counts)} in {tally.seconds:.3f} s"
    return f"{first}\n{_round_trip_line(tally.round_trips)}" if tally.round_trips.count else first


def _round_trip_line(times: Histogram) -> str:
    if times.count == 1:
        return f"round trip {times.maximum / 1e6:.3f} ms"
    moments = (times.minimum, times.mean, times.maximum, times.deviation)
    percentiles = [times.percentile(percent) for percent in PERCENTILES]
    return f"round trip min/avg/max/mdev = {_milliseconds(moments)} ms, p50/p90/p99 = {_milliseconds(percentiles)} ms"


def _milliseconds(nanoseconds: tuple[float, ...] | list[int]) -> str:
    return "/".join(f"{value / 1e6:.3f}" for value in nanoseconds)


def as_json(tally: Tally) -> dict[str, Any]:
    """The same for programs; times are milliseconds, null when there is none."""
    return {
        "sent": tally.sent,
        "received": tally.received,
        "lost": tally.lost,
        "loss_percent": 100 * tally.lost / tally.sent if tally.sent else 0.0,
        "corrupt": tally.corrupt,
        "late": tally.late,
        "duplicates": tally.duplicates,
        "unexpected": tally.unexpected,
        "bytes_sent": tally.bytes_sent,
        "bytes_received": tally.bytes_received,
        "seconds": tally.seconds,
        "round_trip_ms": round_trip_ms(tally.round_trips),
        "error": tally.error or None,
    }


def round_trip_ms(times: Histogram, percentiles: tuple[float, ...] = PERCENTILES) -> dict[str, float | None]:
    """The figures of a histogram in milliseconds, under the names that ping gave them."""
    values = {"min": times.minimum, "avg": times.mean, "max": times.maximum, "mdev": times.deviation}
    values |= {f"p{percent:g}": times.percentile(percent) for percent in percentiles}
    return {name: value / 1e6 if times.count else None for name, value in values.items()}
