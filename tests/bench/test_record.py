"""What goes into docs/performance.md comes from a report, and every place in the document has its table."""

from __future__ import annotations

import re

import pytest

from benchmarks import echo, record, report
from benchmarks.echo import Plan
from benchmarks.report import Report, markdown
from benchmarks.servers import SERVERS

pytestmark = pytest.mark.any_engine

ROWS = [["target", "wanted"], ["a / b", "1.0"]]


def small_report() -> Report:
    return Report(
        "echo", {"cpu": "x", "cores": 2, "system": "y", "python": "z", "versions": {}}, 0.5, {"tcp-rate": ROWS}
    )


def test_a_table_is_put_between_its_marks_and_the_rest_stays() -> None:
    document = (
        "before\n<!-- table echo-tcp-rate -->\nold\n<!-- end -->\nafter\n<!-- table scale-idle -->\n<!-- end -->\n"
    )
    once = record.filled(document, small_report())
    assert once.startswith(f"before\n<!-- table echo-tcp-rate -->\n\n{markdown(ROWS)}\n\n<!-- end -->\nafter\n")
    assert once.endswith("<!-- table scale-idle -->\n<!-- end -->\n")
    assert record.filled(once, small_report()) == once


def test_notes_say_how_quiet_it_was() -> None:
    document = "<!-- table echo-notes -->\n<!-- end -->"
    assert "others used 50% of the machine" in record.filled(document, small_report())


def test_a_place_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        record.filled("<!-- table echo-nothing -->\n<!-- end -->", small_report())


def test_the_document_has_places_for_what_is_measured_only() -> None:
    places = re.findall(r"<!-- table (\w+)-([\w-]+) -->", (record.DOCS / "performance.md").read_text())
    plan = Plan(("tcp", "unix", "udp"), 1, 1, 1, short=False)
    of_echo = {*echo.Results(plan, SERVERS, []).report(0.0).tables, "notes"}
    assert {part for part, _ in places} == set(record.PARTS)
    assert {name for part, name in places if part == "echo"} <= of_echo


def test_markdown_and_text_have_the_same_cells() -> None:
    assert markdown(ROWS) == "| target | wanted |\n| --- | ---: |\n| a / b | 1.0 |"
    assert report.aligned(ROWS) == "target  wanted\na / b      1.0"
