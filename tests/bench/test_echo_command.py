"""`kernel bench echo`: the command runs, and says what it measured. Nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernel.bench import echo as measuring, load as loading
from kernel.bench.load import Load, Target
from kernel.cli import bench as command
from kernel.errors import StartError, UsageError

try:
    loading.installed_program()
except UsageError:
    needs_program = pytest.mark.skip(reason="installed without a C compiler")
else:
    needs_program = pytest.mark.skipif(False, reason="the load generator is there")


@pytest.fixture(autouse=True)
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "STREAM_CELLS", {"16 B x 4": Load(16, 4), "70 kB x 2": Load(70_000, 2)})
    monkeypatch.setattr(measuring, "DATAGRAM_CELLS", {"64 B x 4": Load(64, 4)})


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(command.bench, ["echo", "--seconds", "0.05", *arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@needs_program
def test_every_listener_and_cell_is_measured() -> None:
    report = json.loads(run("--rounds", "2", "--json"))
    places = [(r["transport"], r["framing"], r["cell"]) for r in report["results"]]
    assert sorted(places) == sorted((x.transport, x.framing, cell) for x in measuring.LISTENERS for cell in x.cells)
    assert all(len(r["samples"]) == 2 for r in report["results"])
    assert [one["error"] for r in report["results"] for one in r["samples"] if one["error"]] == []


@needs_program
def test_table_of_one_transport() -> None:
    shown = run("--transport", "unix", "--rounds", "1", "--loop", "asyncio")
    assert "unix       knl" in shown
    assert "tcp  " not in shown
    assert "cores" in shown


def test_a_combination_that_does_not_exist_is_told() -> None:
    outcome = CliRunner().invoke(command.bench, ["echo", "--transport", "udp", "--framing", "knl"])
    assert outcome.exit_code == 2
    assert "udp with raw" in " ".join(outcome.output.split())


def test_a_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    listener = measuring.Listener("tcp", "nonsense")
    with pytest.raises(StartError, match=r"did not start: .*nonsense"), measuring.serving([listener], "auto"):
        pass


@needs_program
def test_a_sample_that_fails_says_why() -> None:
    target = Target(f"tcp://127.0.0.1:{1}", "length", 1)
    got = loading.sample(loading.installed_program(), target, Load(16), 0.01, 0.01, None)
    assert "Connection refused" in got.error


def test_without_the_program_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PROGRAM", "bench/no-such-program")
    with pytest.raises(UsageError, match="kernel echo ENDPOINT --load"):
        loading.installed_program()
