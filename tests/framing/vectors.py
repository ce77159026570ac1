"""Reads the vectors in tests/vectors, which README.md there describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kernel.framing import Knl, Layout, Length

VECTORS = Path(__file__).parent.parent / "vectors"


@dataclasses.dataclass
class Case:
    """One case of a file. `events`: the lines for what comes out, the error among them."""

    title: str
    layout: list[str] = dataclasses.field(default_factory=list)
    data: bytes = b""
    events: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    pending: int = 0
    encode: bool = False

    def line(self, word: str, *rest: str) -> None:
        match word:
            case "layout":
                self.layout = list(rest)
            case "in":
                self.data += bytes.fromhex("".join(rest))
            case "pending":
                self.pending = int(rest[0])
            case "encode":
                self.encode = True
            case "error":
                self.events.append((word, rest[0]))
            case "message":
                self.events.append((word, bytes.fromhex("".join(rest))))
            case "frame" | "packet":
                count = 3 if word == "frame" else 6
                self.events.append((word, *map(int, rest[:count]), bytes.fromhex("".join(rest[count:]))))
            case _:
                raise ValueError(f"{self.title}: no line starts with {word!r}")


def cases(*layouts: str) -> list[Any]:
    """The cases of these layouts, as parameters of a test."""
    return [parameter for parameter in all_cases() if parameter.values[0].layout[0] in layouts]


def all_cases() -> list[Any]:
    found: list[Any] = []
    for path in sorted(VECTORS.glob("*.txt")):
        for line in path.read_text().splitlines():
            words = line.split("#")[0].split()
            if line.startswith("== "):
                case = Case(line[3:])
                found.append(pytest.param(case, id=f"{path.stem}: {case.title}"))
            elif words:
                found[-1].values[0].line(*words)
    return found


def layout_of(case: Case) -> Layout:
    name, *options = case.layout
    values = {key: read(text) for key, text in (option.split("=") for option in options)}
    return Length(**values) if name == "length" else Knl(**values)


def read(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text if text in ("big", "little") else None) or int(text)


def flat(case: Case) -> tuple[list[Any], str | None]:
    """The case's events as a decoder gives them, and the error's code."""
    code = case.events[-1][1] if case.events and case.events[-1][0] == "error" else None
    frames = [event[1] if event[0] == "message" else event[1:] for event in case.events if event[0] != "error"]
    return frames, code
