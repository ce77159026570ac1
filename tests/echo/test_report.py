"""The summary as people read it, and as programs do."""

from __future__ import annotations

import json

from kernel.plugins.echo.report import Tally, as_json, lines


def test_the_summary_reads_like_ping() -> None:
    tally = Tally(sent=4, received=3, lost=1, seconds=1.5)
    for value in (1_000_000, 2_000_000, 3_000_000):
        tally.round_trips.record(value)
    first, second = lines(tally).splitlines()
    assert first == "4 sent, 3 received, 1 lost (25%), 0 corrupt in 1.500 s"
    assert second.startswith("round trip min/avg/max/mdev = 1.000/2.000/3.000/0.816 ms, p50/p90/p99 = 2.")


def test_oddities_are_told_only_when_there_are_any() -> None:
    assert lines(Tally(sent=1, received=1, late=2, duplicates=3)).startswith(
        "1 sent, 1 received, 0 lost (0%), 0 corrupt, 2 late, 3 duplicates in"
    )


def test_without_a_reply_there_are_no_times() -> None:
    assert lines(Tally()) == "0 sent, 0 received, 0 lost (0%), 0 corrupt in 0.000 s"
    assert as_json(Tally())["round_trip_ms"] == dict.fromkeys(("min", "avg", "max", "mdev", "p50", "p90", "p99"))


def test_json_has_every_count() -> None:
    tally = Tally(sent=2, received=1, lost=1, error="no reply to message 2 within 1 s")
    tally.round_trips.record(2_000_000)
    report = json.loads(json.dumps(as_json(tally)))
    assert report["loss_percent"] == 50
    assert report["round_trip_ms"]["avg"] == 2
    assert report["error"] == "no reply to message 2 within 1 s"
    assert {name: report[name] for name in ("sent", "received", "lost", "corrupt")} == {
        "sent": 2,
        "received": 1,
        "lost": 1,
        "corrupt": 0,
    }
