"""The public names: complete, reachable, documented, and cheap until one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kernel

pytestmark = pytest.mark.any_engine

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", kernel.__all__)
def test_each_public_name_can_be_used(name: str):
    assert getattr(kernel, name) is not None
    assert name in dir(kernel)


def test_type_checkers_are_told_of_the_same_names():
    tree = ast.parse((ROOT / "kernel" / "__init__.py").read_text())
    declared = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert declared == kernel._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'kernel' has no attribute 'Sever'"):
        _ = kernel.Sever


def test_a_fault_inside_a_module_is_not_taken_for_a_missing_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "faulty_module.py").write_text("import sys; sys.no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(kernel._HOMES, "Faulty", "faulty_module")
    with pytest.raises(ImportError, match="faulty_module cannot be imported: module 'sys' has no attribute"):
        from kernel import Faulty  # noqa: F401


def test_importing_the_package_imports_nothing_else_of_it():
    script = "import sys, kernel; print(*sorted(m for m in sys.modules if m.startswith('kernel')))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "kernel\n"
    )


def test_each_public_name_is_documented():
    text = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in kernel._HOMES if f"`{name}" not in text] == []
