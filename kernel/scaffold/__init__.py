"""`kernel plugins new`: a complete small distribution, which passes its own tests as it stands.

The templates are the files as they will be, with `{{words}}` in a few places. Everything that could be wrong with the
name is found before anything is written; what exists is never overwritten.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kernel.errors import StartError, UsageError
from kernel.registry import COMMANDS, FRAMINGS, SERVICES, TRANSPORTS, Registry

KINDS = {"transport": TRANSPORTS, "service": SERVICES, "framing": FRAMINGS}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME_LENGTH_MAX = 100
_WORD = re.compile(r"\{\{(\w+)\}\}")
_TEMPLATES = Path(__file__).parent / "templates"
_DESCRIPTIONS = {
    "transport": "A stream over TCP sockets",
    "service": "Sends each message back in capitals",
    "framing": "Messages as netstrings",
}


class Plan(NamedTuple):
    """What is to be written.

    Attributes:
        directory: where; it does not exist yet.
        files: the text of each file, by its path in the directory.
    """

    directory: Path
    files: dict[str, str]


def plan(name: str, kind: str, directory: str = "") -> Plan:
    """The distribution `name`, with a plugin of that name.

    Args:
        kind: one of `KINDS`.
        directory: where to write it; empty: the name, in the working directory.

    Raises:
        UsageError: the name cannot be one, or is taken, or there is something already.
    """
    check_name(name, kind)
    place = Path(directory or name)
    if place.exists():
        raise UsageError(f"{place} exists already: take another name, or add --directory DIRECTORY")
    return Plan(place, dict(_files(name, kind)))


def write(planned: Plan) -> None:
    """Write all the files.

    Raises:
        StartError: the disk refuses.
    """
    try:
        for path, text in planned.files.items():
            file = planned.directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StartError(f"cannot write {error.filename}: {error.strerror}") from error


def check_name(name: str, kind: str) -> None:
    """Whether a plugin, a distribution, a module and a class can have this name.

    Raises:
        UsageError: it cannot.
    """
    from kernel.cli.root import OWN

    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name for a plugin: write small letters, digits and hyphens, like my-{kind}")
    if len(name) > _NAME_LENGTH_MAX:
        raise UsageError(f"a name of {len(name)} characters is too long: take one of at most {_NAME_LENGTH_MAX}")
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or importlib.util.find_spec(package):
        raise UsageError(f"a Python module '{package}' exists already: take another name, like my-{name}")
    if kind == "service" and name in OWN:
        raise UsageError(f"`kernel {name}` is a command of the kernel's own: take another name, like my-{name}")
    groups = [KINDS[kind], *([COMMANDS] if kind == "service" else [])]
    for group in groups:
        for plugin in Registry().listing(group):
            if plugin.name == name:
                raise UsageError(f"{plugin.origin} brings a {plugin.kind} '{name}' already: take another name")


def _files(name: str, kind: str) -> Iterator[tuple[str, str]]:
    package = name.replace("-", "_")
    words = {
        "name": name,
        "plugin": name,
        "package": package,
        "function": package,
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "description": _DESCRIPTIONS[kind],
        "dependencies": ", ".join(f'"{needed}"' for needed in _dependencies(kind)),
        "entry_points": "\n\n".join(_entry_points(name, package, kind)),
    }

    def filled(template: str) -> str:
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        return _WORD.sub(lambda word: words[word[1]], text)

    yield "pyproject.toml", filled("common/pyproject.toml")
    yield ".gitignore", filled("common/gitignore")
    yield "README.md", filled(f"{kind}/README.md")
    yield f"src/{package}/__init__.py", filled(f"{kind}/plugin.py")
    if kind == "service":
        yield f"src/{package}/command.py", filled("service/command.py")
    yield f"src/{package}/py.typed", ""
    yield f"tests/test_{package}.py", filled(f"{kind}/test_plugin.py")


def _dependencies(kind: str) -> list[str]:
    return ["transport-kernel", *(["click>=8.1"] if kind == "service" else [])]


def _entry_points(name: str, package: str, kind: str) -> Iterator[str]:
    kind_of = "".join(part.capitalize() for part in name.split("-"))
    yield f'[project.entry-points."{KINDS[kind]}"]\n{name} = "{package}:{kind_of}"'
    if kind == "service":
        yield f'[project.entry-points."{COMMANDS}"]\n{name} = "{package}.command:{package}"'
