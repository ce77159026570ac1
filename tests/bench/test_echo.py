"""The harness: what it makes of samples, and one small run of it against real servers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import servers
from benchmarks.echo import Measured, Plan, Results
from benchmarks.servers import SERVERS
from benchmarks.targets import TARGETS, verdicts
from kernel.bench.load import Sample

ROOT = Path(__file__).parents[2]
PLAN = Plan(("tcp",), 3, 0.1, 0.1, short=True)


def results_of(rates: dict[str, Sequence[float]], error: str = "") -> Results:
    measured = [
        Measured(server, "tcp", cell, number, Sample(rate, 1.0, error="" if rate else error))
        for server, series in rates.items()
        for number, rate in enumerate(series)
        for cell in PLAN.cells("tcp")
    ]
    return Results(PLAN, SERVERS, measured)


def test_every_target_names_servers_and_cells_that_exist() -> None:
    by_name = {server.name: server for server in SERVERS}
    for target in TARGETS:
        assert target.transport in by_name[target.server].transports
        assert target.transport in by_name[target.peer].transports
        assert set(target.cells) <= set(Plan(("tcp",), 1, 1, 1, short=False).cells(target.transport))


def test_verdicts_take_the_ratio_round_by_round() -> None:
    series = {
        (servers.OURS, "tcp", "16 B x 128"): [Sample(3.0, server_us=1.0), Sample(30.0, server_us=4.0)],
        (servers.UVLOOP_PROTOCOL, "tcp", "16 B x 128"): [Sample(2.0, server_us=2.0), Sample(20.0, server_us=8.0)],
    }
    found = {verdict.target.ratio: verdict for verdict in verdicts(series)}
    assert {ratio: verdict.measured.median for ratio, verdict in found.items()} == {1.0: 1.5, 1.5: 1.5}
    assert all(verdict.by_cost.median == 2.0 for verdict in found.values())
    assert all(verdict.met for verdict in found.values())


def test_table_shows_medians_and_misses() -> None:
    text = results_of({servers.OURS: [2.0e6, 2.1e6, 1.9e6], servers.UVLOOP_PROTOCOL: [2.0e6] * 3}).report(0.0).text()
    assert "2M ±2%" in text
    assert text.count("missed") == 3, "1.5 times in two cells, 3 times in one"


def test_a_server_that_failed_is_named_and_judged_no_further() -> None:
    results = results_of({servers.OURS: [2.0, 0.0, 2.0], servers.UVLOOP_PROTOCOL: [1.0] * 3}, error="fell over")
    assert f"Failed: {servers.OURS} on tcp, 16 B x 128: fell over" in results.report(0.0).text()
    assert results.verdicts == []


def test_picture_and_json_have_what_was_measured(tmp_path: Path) -> None:
    results_of({servers.OURS: [2.0, 3.0, 4.0]}).report(0.0).write(tmp_path)
    ElementTree.parse(tmp_path / "echo-tcp.svg")
    values = json.loads((tmp_path / "echo.json").read_text())["messages_per_second"]
    assert [(v["server"], v["cell"], v["median"]) for v in values] == [
        (servers.OURS, cell, 3.0) for cell in PLAN.cells("tcp")
    ]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_small_run_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.echo", "--rounds", "1", "--seconds", "0.02", "--transport", "tcp"]
    command += ["--server", "C epoll (the limit)", "--server", servers.ASYNCIO_STREAMS]
    command += ["--out", str(tmp_path)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads((tmp_path / "echo.json").read_text())
    assert len(found["samples"]) == 2 * 6
    assert not any(one["sample"]["error"] for one in found["samples"])
    ElementTree.parse(tmp_path / "echo-tcp.svg")


def test_unknown_server_is_told() -> None:
    command = [sys.executable, "-m", "benchmarks.echo", "--server", "nobody"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 2
    assert "no server is called nobody" in outcome.stderr
