"""`kernel plugins new`: what it writes works as it stands. That pip installs it is tried in test_packaging.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from distributions import install

from kernel.cli import root

pytestmark = pytest.mark.any_engine

KINDS = ("transport", "service", "framing")
NO_NAME = "is no name for a plugin: write small letters, digits and hyphens, like my-framing"
TAKEN = "waving exists already: take another name, or add --directory DIRECTORY"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`kernel plugins new` in an empty directory; the exit code, stdout and stderr."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = root.run(["plugins", "new", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_what_it_writes_passes_its_own_tests_and_a_strict_type_checker_at_once(new: Command):
    """All kinds together, because each process takes its time to start."""
    for kind in KINDS:
        code, out, err = new(f"my-{kind}", "--kind", kind)
        assert (code, err) == (0, "")
        assert out.startswith(f"made my-{kind}:\n  pyproject.toml\n")
    sources = os.pathsep.join(f"my-{kind}/src" for kind in KINDS)
    for command in (
        ["pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--import-mode=importlib"],
        ["mypy", "--strict", "--cache-dir", os.devnull, "."],
        ["ruff", "check", "--no-cache", "--line-length=120", "--select=E,F,W,N,UP,B"],
        ["ruff", "format", "--no-cache", "--line-length=120", "--check"],
    ):
        environ = os.environ | {"PYTHONPATH": sources, "MYPYPATH": sources}
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environ)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_its_metadata_names_what_is_there(new: Command, kind: str):
    new(f"my-{kind}", "--kind", kind, "-q")
    project = tomllib.loads(Path(f"my-{kind}/pyproject.toml").read_text())["project"]
    assert (project["name"], project["readme"]) == (f"my-{kind}", "README.md")
    groups = {f"kernel.{kind}s"} | ({"kernel.commands"} if kind == "service" else set())
    assert set(project["entry-points"]) == groups
    assert "{{" not in "".join(path.read_text() for path in Path(f"my-{kind}").rglob("*.*") if path.is_file())


def test_the_place_can_be_said(new: Command):
    assert new("waving", "--kind", "service", "--directory", "src/of/waving", "-q") == (0, "", "")
    assert Path("src/of/waving/src/waving/__init__.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tcp", "--kind", "transport"], "transport-kernel 0.1.0 brings a transport 'tcp' already: take another name"),
        (["json", "--kind", "service"], "a Python module 'json' exists already: take another name, like my-json"),
        (["class", "--kind", "service"], "a Python module 'class' exists already: take another name, like my-class"),
        (
            ["My_X", "--kind", "framing"],
            "'My_X' is no name for a plugin: write small letters, digits and hyphens, like my-framing",
        ),
        (
            ["../x", "--kind", "framing"],
            "'../x' is no name for a plugin: write small letters, digits and hyphens, like my-framing",
        ),
        (
            ["serve", "--kind", "service"],
            "`kernel serve` is a command of the kernel's own: take another name, like my-serve",
        ),
        (["x" * 300, "--kind", "framing"], "a name of 300 characters is too long: take one of at most 100"),
        (["there", "--kind", "framing"], "there exists already: take another name, or add --directory DIRECTORY"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(new: Command, arguments: list[str], message: str):
    Path("there").mkdir()
    assert new(*arguments) == (2, "", f"kernel: error: {message}\n")
    assert os.listdir() == ["there"]


def test_a_command_of_that_name_is_in_the_way_too(new: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path / "site", "some-dist", "2.0", {"kernel.commands": {"waving": "m:c"}})
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert new("waving", "--kind", "framing", "-q")[0] == 0
    assert new("waving", "--kind", "framing")[2] == f"kernel: error: {TAKEN}\n"
    _, _, err = new("waving", "--kind", "service", "--directory", "other")
    assert err == "kernel: error: some-dist 2.0 brings a command 'waving' already: take another name\n"


def test_a_disk_that_refuses_is_one_line(new: Command):
    Path("file").write_text("")
    code, _, err = new("waving", "--kind", "framing", "--directory", "file/waving")
    assert (code, err) == (3, "kernel: error: cannot write file/waving: Not a directory\n")
