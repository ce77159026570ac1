"""Charts: well-formed SVG, nothing drawn outside of the picture, labels that people can read."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from kernel.bench.plot import Bar, Chart, Panel, Series, bar_panels, byte_size, line_charts, quantity

pytestmark = pytest.mark.any_engine


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "0.02"), (3, "3"), (999, "999"), (1000, "1k"), (1_480_000, "1.5M"), (999_900, "1M"), (54_321, "54.3k")],
)
def test_quantity(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(("value", "text"), [(16, "16 B"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (1500, "1.5 KiB")])
def test_byte_size(value: int, text: str) -> None:
    assert byte_size(value) == text


def test_lines_stay_inside_and_labels_are_escaped() -> None:
    series = Series("a < b", [(1, 0.5), (10, 3), (5000, 700)], [(0.4, 0.6), (2, 4), (600, 900)])
    svg = line_charts("Title & more", [Chart("left", "x", "y", [series]), Chart("right", "x", "y", [series])], "note")
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"Title & more", "a < b", "note", "left, y", "right, y"} <= set(texts)
    xs = [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", svg)]
    ys = [float(y) for y in re.findall(r"[ML]-?[\d.]+ (-?[\d.]+)", svg)]
    assert min(xs) >= 0
    assert max(xs) <= 560
    assert min(ys) >= 46
    assert max(ys) <= float(root.attrib["height"])


def test_more_lies_higher_and_further_right() -> None:
    svg = line_charts("t", [Chart("c", "x", "y", [Series("s", [(1, 1), (100, 100)])])])
    (line,) = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" fill="none"', svg)
    x1, y1, x2, y2 = map(float, line)
    assert x1 < x2
    assert y1 > y2


def test_bars_are_as_long_as_their_values() -> None:
    panel = Panel("cell", [Bar("ours", 200.0, 190.0, 210.0, ours=True), Bar("peer", 100.0, 90.0, 110.0)])
    root = ElementTree.fromstring(bar_panels("t", [panel, panel]))
    widths = [float(e.attrib["width"]) for e in root.iter() if e.tag.endswith("rect") and "x" in e.attrib]
    assert widths == [pytest.approx(2 * widths[1], abs=0.2), widths[1]] * 2


def test_a_long_note_is_wrapped_inside_the_picture() -> None:
    note = "word " * 100
    root = ElementTree.fromstring(bar_panels("t", [Panel("cell", [Bar("ours", 2.0, 1.0, 3.0)])], note))
    lines = [e for e in root.iter() if e.tag.endswith("text") and (e.text or "").startswith("word")]
    assert len(lines) > 1
    assert " ".join(line.text or "" for line in lines) == note.strip()
    assert max(float(line.attrib["y"]) for line in lines) < float(root.attrib["height"])
