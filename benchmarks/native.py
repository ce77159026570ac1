"""Compiling the C programs of the benchmarks when they are first needed, into benchmarks/build/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
FLAGS = ("-std=c11", "-O3", "-DNDEBUG", "-Wall", "-Wextra", "-Wconversion")
"""As the C module itself is built."""


def load_generator() -> Path:
    """The program in benchmarks/loadgen/, compiled."""
    return program("loadgen", sorted((HERE / "loadgen").glob("*.c")), HERE / "loadgen")


def peer(name: str) -> Path:
    """The C server of that name in benchmarks/peers/, compiled."""
    return program(name, [HERE / "peers" / f"{name}.c"], HERE / "peers")


def program(name: str, sources: list[Path], include: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compile, unless what is there is newer than its sources and headers. Ends the program where that fails."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        sys.exit(f"{name} needs a C compiler: install one (Debian: apt install gcc), or name it in CC")
    target = BUILD / Path(compiler).name / name
    newest = max(path.stat().st_mtime for path in [*sources, *include.glob("*.h")])
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{name}.{os.getpid()}")
    command = [compiler, *FLAGS, *flags, f"-I{include}", "-o", str(partial), *map(str, sources)]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        sys.exit(f"{name} does not compile with {compiler}:\n{outcome.stderr}")
    partial.replace(target)
    return target
