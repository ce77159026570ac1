"""`kernel bench framing`: it runs, says what it measured, and measures the real thing. Nothing is timed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from kernel import framing
from kernel.bench import framing as measuring
from kernel.bench.timing import interleaved, ratios
from kernel.cli import bench as command

CASES = [
    measuring.Case("decode", "length", 64, 65536),
    measuring.Case("decode", "length", measuring.MIXED, 65536),
    measuring.Case("decode", "length", 262144, 1024),
    measuring.Case("decode", "knl", 64, measuring.WHOLE),
    measuring.Case("encode", "length", 64, measuring.WHOLE),
]


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "cases", lambda *_: CASES)


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(command.bench, ["framing", "--quick", *arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.mark.usefixtures("few_cases")
class TestCommand:
    def test_table_names_each_group_and_the_machine(self) -> None:
        shown = run()
        assert all(case.group in shown for case in CASES)
        assert "cores" in shown

    def test_json_has_every_case_and_contestant(self) -> None:
        report = json.loads(run("--json"))
        assert [(r["operation"], r["message_bytes"]) for r in report["results"]] == [
            (case.operation, case.message) for case in CASES
        ]
        assert all(set(r["frames_per_second"]) == set(measuring.contestants()) for r in report["results"])
        assert report["machine"]["versions"]["transport-kernel"]

    def test_plot_is_a_picture_with_a_line_for_each_contestant(self, tmp_path: Path) -> None:
        run("--plot", str(tmp_path / "out.svg"))
        texts = [e.text for e in ElementTree.parse(tmp_path / "out.svg").iter() if e.tag.endswith("text")]
        assert {"Python engine", "memcpy (the limit)"} <= set(texts)

    def test_plot_into_no_directory_is_told_before_measuring(self) -> None:
        outcome = CliRunner().invoke(command.bench, ["framing", "--plot", "nowhere/out.svg"])
        assert outcome.exit_code == 2
        assert "there is no directory nowhere" in outcome.output


@pytest.mark.parametrize("case", [c for c in CASES if c.operation == "decode"], ids=lambda c: f"{c.layout}-{c.message}")
@pytest.mark.parametrize("engine", ["c", "python"])
def test_what_is_timed_decodes_every_message(
    case: measuring.Case, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bytes] = []
    corpus = measuring.Corpus(case)
    try:
        original = framing.engine(engine)
    except framing.EngineUnavailableError:
        pytest.skip("no C engine here")
    recorder = Recorder(original.decoder(corpus.layout), got)
    monkeypatch.setattr(framing.Engine, "decoder", lambda *_: recorder)
    run = measuring.engine_maker(engine)(corpus)
    assert run is not None
    run()
    assert got == corpus.messages


class Recorder:
    """A decoder that also keeps what it gives out."""

    def __init__(self, decoder: object, got: list[bytes]) -> None:
        self.decoder = decoder
        self.got = got

    def wanted(self) -> memoryview | None:
        return self.decoder.wanted()  # type: ignore[attr-defined]

    def feed(self, data: bytes) -> None:
        self.got += payloads(self.decoder.feed(data))  # type: ignore[attr-defined]

    def filled(self, nbytes: int) -> None:
        self.got += payloads(self.decoder.filled(nbytes))  # type: ignore[attr-defined]


def payloads(frames: list[bytes] | list[framing.Run]) -> Iterator[bytes]:
    for frame in frames:
        if isinstance(frame, bytes):
            yield frame
        else:
            yield from frame[3]


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    samples = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, 0)
    assert calls[-4:] == ["a", "b", "a", "b"]
    assert {name: len(times) for name, times in samples.items()} == {"a": 2, "b": 2}


def test_ratios_are_taken_within_each_round() -> None:
    spread = ratios([2.0, 40.0, 6.0], [1.0, 10.0, 3.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("speedups", "expected"), [((9.0, 5.0, 2.0), None), ((9.0, 1.05, 0.9), 256), ((1.0, 5.0, 1.0), 1024)]
)
def test_where_c_stops_paying(speedups: tuple[float, ...], expected: int | None) -> None:
    results = [
        measuring.Result(measuring.Case("decode", "length", size, 65536), 1, size, {"c": [1.0], "python": [speedup]})
        for size, speedup in zip((64, 256, 1024), speedups, strict=True)
    ]
    assert measuring.stops_paying(results) == expected
