"""The summary as people read it, and as programs do."""

from __future__ import annotations

import json
from typing import get_args, get_type_hints

from documents import ROOT, blocks

from kernel.options import describe
from kernel.plugins.echo import EchoOptions, load
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


def test_the_page_shows_every_figure_and_every_option() -> None:
    shown, loaded = (json.loads(block) for block in blocks("docs/echo.md", "json"))
    report = as_json(Tally())
    assert [*shown] == ["endpoint", *report]
    assert [*shown["round_trip_ms"]] == [*report["round_trip_ms"]]
    plan = load.LoadPlan("tcp://h:1", "echo", 1, 1, 1, 1.0, 1.0, False, load.ignore_interval)
    report = load.as_json(plan, load.Figures())
    assert [*loaded] == ["endpoint", *report]
    assert [*loaded["latency_ms"]] == [*report["latency_ms"]]
    page = (ROOT / "docs" / "echo.md").read_text()
    for option in describe(EchoOptions):
        assert f"\n| `{option.name}` | `{option.default}` |" in page
    for mode in get_args(get_type_hints(EchoOptions)["mode"]):
        assert f"\n| `{mode}` |" in page
