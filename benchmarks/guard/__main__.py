"""`python -m benchmarks.guard`: fails when the framing core needs more instructions than it did.

Two checks, neither of which knows a clock that others can disturb:

1. Instructions a unit (frame, fragment, KiB) of the C core, counted by valgrind's callgrind: the same program gives the
   same number on every run. `baseline.json` has what is expected, by compiler and processor; a compiler that is not in
   it is held against the one that is nearest, with a wide tolerance. After a change that is meant: `--record`.
2. The C engine against the Python engine in the same process, in turn, best of three attempts: at least the ratios that
   docs/performance.md promises.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import native
from kernel import framing
from kernel.bench.framing import MIXED, WHOLE, Case, contestants, measure

BASELINE = Path(__file__).with_name("baseline.json")
CSRC = Path(__file__).parents[2] / "csrc"
TOLERANCE, TOLERANCE_OF_STRANGERS = 0.03, 0.5
TIMES = 20
ATTEMPTS = 3
SHARE_OF_PROMISE = 0.6
PROMISES = {
    Case("decode", "length", 16, 65536): 6.0,
    Case("decode", "length", 64, 65536): 6.0,
    Case("decode", "length", 256, 65536): 4.0,
    Case("decode", "length", MIXED, 65536): 2.0,
    Case("encode", "length", 16, WHOLE): 5.0,
    Case("encode", "length", 256, WHOLE): 5.0,
}

Baseline = dict[str, dict[str, float]]


# --- instructions ---------------------------------------------------------------------------------------------


def compiler() -> str:
    """What baselines are kept by: `gcc 12 x86_64 glibc 2.36`."""
    command = os.environ.get("CC") or "cc"
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    name = "clang" if "clang" in version else "gcc"
    major = re.search(r"(\d+)\.\d+", version)
    library = " ".join(platform.libc_ver()).strip() or "other libc"
    return f"{name} {major[1] if major else '?'} {platform.machine()} {library}"


def core() -> Path:
    """The program that runs a scenario, compiled with the framing core as it is now."""
    return native.program("guard-core", [Path(__file__).with_name("core.c"), *sorted(CSRC.glob("kf_*.c"))], CSRC)


def scenarios(program: Path) -> list[str]:
    """Their names."""
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()


def instructions(program: Path, scenario: str) -> float:
    """Instructions a unit. The cost of a single time is the difference of many and one: the rest cancels out."""
    one, units = _collected(program, scenario, 1)
    many, _ = _collected(program, scenario, 1 + TIMES)
    return round((many - one) / TIMES / units, 3)


def _collected(program: Path, scenario: str, times: int) -> tuple[int, int]:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), scenario, str(times)]
    outcome = subprocess.run(command, capture_output=True, text=True)
    collected = re.search(r"Collected\s*:\s*(\d+)", outcome.stderr)
    if outcome.returncode or collected is None:
        sys.exit(f"valgrind failed on {scenario}: {outcome.stderr.strip().splitlines()[-1:]}")
    return int(collected[1]), int(outcome.stdout)


def recorded() -> Baseline:
    """Instructions a unit, by compiler and scenario."""
    baselines: Baseline = json.loads(BASELINE.read_text())
    return baselines


def expected(baselines: Baseline, ours: str) -> tuple[str, float]:
    """Which baseline holds for a compiler, and how far from it one may be; "" where there is none."""
    if ours in baselines:
        return ours, TOLERANCE
    name, _, machine = ours.split()[:3]
    same_machine = [key for key in baselines if key.split()[2] == machine]
    same_name = [key for key in same_machine if key.startswith(f"{name} ")]
    return next(iter(same_name or same_machine), ""), TOLERANCE_OF_STRANGERS


def regressions(counted: dict[str, float], baseline: dict[str, float], tolerance: float) -> list[str]:
    """What became worse, a line each. A scenario without a baseline is one, too: it is to be recorded."""
    found = []
    for scenario, now in counted.items():
        before = baseline.get(scenario)
        if before is None:
            found.append(f"{scenario} has no baseline: run python -m benchmarks.guard --record")
        elif now > before * (1 + tolerance):
            found.append(f"{scenario}: {now:g} instructions a unit, {before:g} expected (+{tolerance:.0%} allowed)")
    return found


def check_instructions(record: bool) -> Iterator[str]:
    """Count, show, and compare or record; yields what became worse."""
    if shutil.which("valgrind") is None:
        print("Instructions were not counted: valgrind is not installed.")
        return
    program, ours = core(), compiler()
    counted = {name: instructions(program, name) for name in scenarios(program)}
    if record:
        BASELINE.write_text(json.dumps({**recorded(), ours: counted}, indent=1, sort_keys=True) + "\n")
    baselines = recorded()
    nearest, tolerance = expected(baselines, ours)
    if not nearest:
        print(f"Instructions were counted, and compared with nothing: no baseline for {ours}.")
        return
    print(f"Instructions a unit, {ours}, against the baseline of {nearest}:")
    for scenario, found in counted.items():
        before = baselines[nearest].get(scenario, found)
        print(f"  {scenario:24} {found:10.3f} {before:10.3f} {found / before - 1:+7.1%}")
    yield from regressions(counted, baselines[nearest], tolerance)


# --- ratios ---------------------------------------------------------------------------------------------------


def check_ratios() -> Iterator[str]:
    """The C engine against the Python engine; yields what is too slow three times in a row."""
    try:
        framing.engine("c")
    except framing.EngineUnavailableError:
        print("Ratios were not measured: the C engine is not installed.")
        return
    makers = {name: make for name, make in contestants().items() if name != "memcpy"}
    for case, promised in PROMISES.items():
        best, wanted = 0.0, SHARE_OF_PROMISE * promised
        for _ in range(ATTEMPTS):
            (result,) = measure([case], makers, rounds=5)
            speedup = result.speedup("c", "python")
            assert speedup is not None
            best = max(best, speedup.median)
            if best >= wanted:
                break
        print(f"  {case.group}, {case.message}: C {best:.1f} times as fast as Python, at least {wanted:.3g} wanted")
        if best < wanted:
            yield f"{case.group}, {case.message}: C is {best:.1f} times as fast as Python, {wanted:.3g} are wanted"


def main() -> int:
    """Run both checks; the exit code tells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="take what is counted as the baseline of this compiler")
    parser.add_argument("--only", choices=["instructions", "ratios"], help="one of the two checks")
    asked = parser.parse_args()
    failures: list[str] = []
    if asked.only != "ratios":
        failures += check_instructions(asked.record)
    if asked.only != "instructions":
        failures += check_ratios()
    for failure in failures:
        print(f"guard: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
