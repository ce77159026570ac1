"""The regression guard: what it counts is exact, and what it finds is a regression."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from benchmarks.guard import __main__ as guard

pytestmark = pytest.mark.any_engine

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind here")

GCC, CLANG, ARM = "gcc 12 x86_64 glibc 2.36", "clang 14 x86_64 glibc 2.36", "gcc 13 aarch64 glibc 2.39"
BASELINES = {GCC: {"a": 10.0, "b": 20.0}, CLANG: {"a": 11.0}, ARM: {"a": 9.0}}


@pytest.mark.parametrize(
    ("compiler", "nearest"),
    [
        (GCC, (GCC, guard.TOLERANCE)),
        ("gcc 12 x86_64 glibc 2.41", (GCC, guard.TOLERANCE_OF_STRANGERS)),
        ("gcc 14 x86_64 other libc", (GCC, guard.TOLERANCE_OF_STRANGERS)),
        ("clang 17 x86_64 glibc 2.41", (CLANG, guard.TOLERANCE_OF_STRANGERS)),
        ("clang 17 aarch64 glibc 2.41", (ARM, guard.TOLERANCE_OF_STRANGERS)),
        ("gcc 14 riscv64 glibc 2.41", ("", guard.TOLERANCE_OF_STRANGERS)),
    ],
)
def test_each_compiler_is_held_against_the_nearest_baseline(compiler: str, nearest: tuple[str, float]) -> None:
    assert guard.expected(BASELINES, compiler) == nearest


def test_more_instructions_are_a_regression_fewer_are_not() -> None:
    assert guard.regressions({"a": 10.2, "b": 12.0}, BASELINES[GCC], 0.03) == []
    (found,) = guard.regressions({"a": 10.4, "b": 20.0}, BASELINES[GCC], 0.03)
    assert found.startswith("a: 10.4 instructions a unit, 10 expected")


def test_a_scenario_without_a_baseline_is_told() -> None:
    (found,) = guard.regressions({"new": 1.0}, BASELINES[GCC], 0.03)
    assert "--record" in found


@needs_compiler
def test_every_scenario_runs_and_has_a_baseline() -> None:
    core = guard.core()
    names = guard.scenarios(core)
    for name in names:
        assert int(subprocess.run([core, name, "2"], capture_output=True, text=True, check=True).stdout) > 0
    assert all(set(baseline) == set(names) for baseline in guard.recorded().values())


@needs_compiler
@needs_valgrind
def test_counting_twice_gives_the_same_number() -> None:
    core = guard.core()
    first = guard.instructions(core, "pack-length")
    assert first > 1
    assert guard.instructions(core, "pack-length") == first


def test_without_valgrind_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert list(guard.check_instructions(record=False)) == []
    assert capsys.readouterr().out == "Instructions were not counted: valgrind is not installed.\n"
