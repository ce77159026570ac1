"""The framing comparison: the others frame as we do, and the report says what was measured. Nothing is timed here."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import framing as comparison, reference_extension
from kernel import framing
from kernel.bench.framing import Case, Result

pytestmark = pytest.mark.any_engine

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


@needs_compiler
def test_reference_extension_frames_as_we_do() -> None:
    chance = random.Random(7)
    messages = [chance.randbytes(chance.choice([0, 1, 16, 300, 70_000])) for _ in range(200)]
    reference = reference_extension.load()
    stream = reference.encode(messages)
    assert stream == framing.engine("python").encode_length(framing.Length(), messages)
    for step in (1000, 65536, len(stream)):
        decoder = reference.Decoder()
        got = [m for start in range(0, len(stream), step) for m in decoder.feed(stream[start : start + step])]
        assert got == messages
    decoder = reference.Decoder()
    head = reference.encode([b"", b"ab", b""])
    assert [m for byte in head for m in decoder.feed(bytes([byte]))] == [b"", b"ab", b""]


def test_a_target_is_judged_at_its_messages_only() -> None:
    results = [
        Result(Case("decode", "length", size, 65536), 1, size, {"c": [1.0, 1.0], "python": [speed, speed]})
        for size, speed in ((16, 7.0), (64, 5.0), (256, 4.5))
    ]
    judged = {(row.target.ratio, row.case.message): row.met for row in comparison.rows(results, busy=False)}
    assert judged == {(6.0, 16): True, (6.0, 64): False, (4.0, 256): True}
    assert [row[-1] for row in comparison.target_rows(list(comparison.rows(results, busy=False)))] == [
        "",
        "",
        "missed",
        "",
    ]


def test_busy_thread_ends() -> None:
    with comparison.busy_thread():
        pass


def test_pytest_benchmark_file_runs() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_framing.py", "--benchmark-disable", "-k", "knl"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stdout
    assert "passed" in outcome.stdout


@needs_compiler
def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = Case("decode", "length", 64, 65536), Case("encode", "length", 64, 0)
    monkeypatch.setattr(comparison, "DECODING", small[:1])
    monkeypatch.setattr(comparison, "ENCODING", small[1:])
    monkeypatch.setattr(comparison, "BUSY", small[:1])
    monkeypatch.setattr(comparison, "BUSY_SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(sys, "argv", ["framing", "--rounds", "1", "--out", str(tmp_path)])
    comparison.main()
    assert "beside a busy thread" in capsys.readouterr().out
    report = json.loads((tmp_path / "framing.json").read_text())
    assert [r["operation"] for r in report["quiet"]] == ["decode", "encode"]
