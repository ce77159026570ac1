"""Who may import whom. The rules are few, and held here by reading every import statement in the tree.

transports/, plugins/ -> the kernel's public names, their own siblings, and nothing of each other
kernel/               -> never transports or plugins: it finds them by entry point
protocol code         -> no asyncio, socket or logging: bytes in, events out
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kernel

pytestmark = pytest.mark.any_engine

ROOT = Path(__file__).parent.parent
FOLDERS = {"kernel": "kernel", "transports": "kernel.transports", "plugins": "kernel.plugins"}
PROTOCOL = ("kernel.auth", "kernel.framing", "kernel.session", "kernel.datagram")
IMPURE = {"asyncio", "logging", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "uvloop"}


class Import(NamedTuple):
    """One imported module, or one name of it, and where the statement stands."""

    place: str
    importer: str
    module: str
    name: str


def imports_of(source: str, importer: str, is_package: bool, place: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(f"{place}:{node.lineno}", importer, alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            parents = importer.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
            absolute = parents if node.level else []
            module = ".".join([*absolute, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{place}:{node.lineno}", importer, module, alias.name)


def all_imports() -> Iterator[Import]:
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            is_package = inside[-1] == "__init__"
            importer = ".".join([package, *(inside[:-1] if is_package else inside)])
            yield from imports_of(path.read_text(), importer, is_package, str(path.relative_to(ROOT)))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def fault(found: Import) -> str:
    """Which rule an import breaks; empty when none."""
    imported = f"{found.module}.{found.name}".rstrip(".")
    plugin_folder = next((p for p in ("kernel.transports", "kernel.plugins") if within(found.importer, p)), None)
    if plugin_folder is None:
        if any(within(imported, package) for package in ("kernel.transports", "kernel.plugins")):
            return "the kernel imports no plugin"
        if any(within(found.importer, p) for p in PROTOCOL) and found.module.split(".")[0] in IMPURE:
            return "protocol code does no I/O and keeps no log"
        return ""
    if not within(found.module, "kernel"):
        return ""
    if within(imported, own_room(found.importer, plugin_folder)):
        return ""
    return "" if is_public(found) else "a plugin imports public names of the kernel only"


def own_room(importer: str, folder: str) -> str:
    """Transports share one room; a plugin's room is its own subpackage."""
    if folder == "kernel.transports" or importer == folder:
        return folder
    return ".".join(importer.split(".")[:3])


def is_public(found: Import) -> bool:
    if found.module == "kernel":
        return found.name in kernel.__all__
    return found.name in kernel._NAMES.get(found.module, "").split()


def test_every_import_keeps_the_rules():
    broken = [f"{i.place}: {i.module} {i.name}: {why}" for i in all_imports() if (why := fault(i))]
    assert broken == []


@pytest.mark.parametrize(
    ("importer", "statement", "broken"),
    [
        ("kernel.server", "from kernel.transports import tcp", True),
        ("kernel.server", "import kernel.plugins.echo", True),
        ("kernel.server", "from .plugins import echo", True),
        ("kernel.server", "from .limits import Limits", False),
        ("kernel.server", "import asyncio", False),
        ("kernel.session.stream", "def f():\n    import asyncio.events", True),
        ("kernel.framing", "from socket import socket", True),
        ("kernel.datagram.sender", "import struct", False),
        ("kernel.transports.tcp", "from .streams import Stream", False),
        ("kernel.transports.tcp", "from kernel.api import Transport", False),
        ("kernel.transports.tcp", "from kernel import Transport", False),
        ("kernel.transports.tcp", "from kernel.api import logging", True),
        ("kernel.transports.tcp", "from kernel.session.base import Session", True),
        ("kernel.transports.tcp", "from kernel.plugins.echo import Echo", True),
        ("kernel.plugins.echo.command", "from . import Echo", False),
        ("kernel.plugins.echo.command", "from ..chat import Chat", True),
        ("kernel.plugins.echo", "from .command import echo", False),
        ("kernel.plugins.echo", "from ..chat import Chat", True),
        ("kernel.plugins.echo", "import socket", False),
    ],
)
def test_the_rules_find_what_they_forbid(importer: str, statement: str, broken: bool):
    is_package = importer in ("kernel.plugins.echo", "kernel.framing")
    assert any(fault(found) for found in imports_of(statement, importer, is_package, "here")) is broken


# What else is documented for others, each as a whole: the names in its `__all__`.
PUBLIC_MODULES = ("kernel.blocking", "kernel.framing", "kernel.testing")


def test_the_examples_use_public_names_only():
    """They stand for the packages of people who have never seen this repository."""
    found = [
        imported
        for path in sorted((ROOT / "examples").glob("*/src/**/*.py"))
        for imported in imports_of(path.read_text(), "example", False, str(path.relative_to(ROOT)))
        if within(imported.module, "kernel")
    ]
    assert len({imported.place.partition("/src")[0] for imported in found}) == len(
        list((ROOT / "examples").glob("*/src"))
    )
    assert [f"{i.place}: {i.module} {i.name}" for i in found if not is_for_everybody(i)] == []


def is_for_everybody(found: Import) -> bool:
    if found.module == "kernel":
        return found.name in kernel.__all__ or f"kernel.{found.name}" in PUBLIC_MODULES
    return found.module in PUBLIC_MODULES and found.name in getattr(
        importlib.import_module(found.module), "__all__", ()
    )


def test_files_stay_within_one_idea():
    longest = {str(p): len(p.read_text().splitlines()) for f in FOLDERS for p in (ROOT / f).rglob("*.py")}
    assert {path: lines for path, lines in longest.items() if lines > 600} == {}
