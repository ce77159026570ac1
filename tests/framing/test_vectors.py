"""The vectors in tests/vectors, which README.md there describes: every case, on each engine, cut anywhere."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from framing.streams import cut, outcome

from kernel.framing import DecodeError, Engine, Knl, Layout, Length

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


def cases() -> list[Any]:
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


@pytest.mark.parametrize("case", [case for case in cases() if case.values[0].layout != ["packet"]])
def test_streams(engine: Engine, case: Case) -> None:
    frames, code = flat(case)
    ways = [[point] for point in range(len(case.data) + 1)] + [list(range(len(case.data)))]
    for points, direct_bytes_min in itertools.product(ways, (1, 65536)):
        decoder = engine.decoder(layout_of(case), direct_bytes_min)
        found, error, pending = outcome(decoder, cut(case.data, points))
        assert (found, error and error[0], pending) == (frames, code, case.pending)


@pytest.mark.parametrize("case", [case for case in cases() if case.values[0].layout == ["packet"]])
def test_packets(engine: Engine, case: Case) -> None:
    frames, code = flat(case)
    if code is None:
        assert [engine.parse_packet(case.data)] == frames
    else:
        with pytest.raises(DecodeError) as raised:
            engine.parse_packet(case.data)
        assert raised.value.code == code


@pytest.mark.parametrize("case", [case for case in cases() if case.values[0].encode])
def test_encoding(engine: Engine, case: Case) -> None:
    encoded = b"".join(encode(engine, case, event) for event in case.events)
    assert encoded == case.data[: len(case.data) - case.pending]


def encode(engine: Engine, case: Case, event: tuple[Any, ...]) -> bytes:
    match event:
        case "message", message:
            layout = layout_of(case)
            assert isinstance(layout, Length)
            return engine.encode_length(layout, [message])
        case "frame", kind, flags, channel, payload:
            return engine.encode_knl(kind, flags, channel, [payload])
        case "packet", kind, connection, sequence, 0, 1, _, message:
            (packet,) = engine.pack_fragments(kind, connection, sequence, message, 1200)
            return packet
        case _:
            raise ValueError(f"{case.title}: {event} can't be encoded")


def test_there_are_vectors() -> None:
    assert len(cases()) > 50
