"""The examples as the kernel finds them: by their metadata alone. test_packaging.py has pip install them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from distributions import install

from kernel.cli import root
from kernel.registry import Registry

EXAMPLES = Path(__file__).parents[2] / "examples"


def install_example(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Lay an example's metadata into `place` as pip would; a registry that finds it beside all else."""
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["project"]
    install(place, project["name"], project["version"], project["entry-points"], {})
    monkeypatch.syspath_prepend(EXAMPLES / name / "src")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(root.root, "registry", Registry())  # a command line reads once what is installed
    return Registry()
