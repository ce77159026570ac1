"""The scale curves: points are measured, shown and drawn. Nothing is timed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks import scale
from benchmarks.report import aligned
from benchmarks.scale import CURVES, LIMIT, Point
from kernel.bench.timing import Spread

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


def test_curves_name_servers_that_exist_and_quick_points_of_theirs() -> None:
    for curve in CURVES:
        assert [scale.server_named(name).name for name in curve.servers] == list(curve.servers)
        assert set(scale.QUICK_POINTS[curve.name]) <= set(curve.points)
    assert [scale.server_named(name).name for name in scale.IDLE_SERVERS] == list(scale.IDLE_SERVERS)


@needs_compiler
def test_each_point_is_measured() -> None:
    curve = replace(CURVES[0], servers=(LIMIT,))
    points = list(scale.measure(curve, [1, 50], rounds=1, seconds=0.02))
    assert [(point.server, point.at) for point in points] == [(LIMIT, 1), (LIMIT, 50)]
    assert all(point.messages_per_second.median > 0 for point in points)


@needs_compiler
def test_idle_connections_cost_memory() -> None:
    assert 100 < scale.idle_memory(scale.server_named("asyncio Protocol"), 300) < 100_000


def test_table_and_picture_have_every_point() -> None:
    points = [
        Point("connections", server, at, Spread(at * 1e3, at * 9e2, at * 11e2), Spread(50.0, 40.0, 60.0))
        for server in ("a", "b")
        for at in (1, 5000)
    ]
    shown = aligned(scale.curve_rows(CURVES[0], points[:-1]))
    assert "5M" in shown
    assert "b, messages/s" in shown
    texts = [e.text for e in ElementTree.fromstring(scale.picture(CURVES[0], points, "here")).iter()]
    assert {"a", "b", "Throughput, messages/s", "5k"} <= set(texts)
