"""Options: text becomes typed values, and what does not fit is answered with what to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import pytest

from kernel.errors import OptionError
from kernel.options import Meta, OptionField, describe, parse


@dataclasses.dataclass(frozen=True)
class Options:
    backlog: Annotated[int, Meta(ge=1, le=4096, description="Connections that wait to be accepted.")] = 128
    nodelay: bool = True
    send_bytes_max: int = 0
    idle_seconds: float | None = None
    mode: Annotated[Literal["verbatim", "upper"], Meta(description="What to answer.")] = "verbatim"
    level: Literal[1, 2] | None = None
    text: Annotated[str, Meta(max_length=3)] = ""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    name: str = ""
    words: tuple[str, ...] = ()
    table: Mapping[str, int] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("backlog", "5", 5),
        ("nodelay", "false", False),
        ("send_bytes_max", "64KiB", 65536),
        ("send_bytes_max", "1m", 1 << 20),
        ("send_bytes_max", "7", 7),
        ("idle_seconds", "500ms", 0.5),
        ("idle_seconds", "1.5m", 90.0),
        ("idle_seconds", "30", 30.0),
        ("share", "1%", 0.01),
        ("share", "12.5%", 0.125),
        ("share", "0.5", 0.5),
        ("name", "1%", "1%"),
        ("mode", "upper", "upper"),
        ("backlog", 7, 7),
        ("words", "a, b c", ("a", "b c")),
        ("words", '["a, b"]', ("a, b",)),
        ("words", "", ()),
        ("words", ["x"], ("x",)),
        ("table", '{"a": 1}', {"a": 1}),
    ],
)
def test_text_becomes_what_the_field_says(name: str, text: object, value: object):
    assert getattr(parse(Options, {name: text}, "the transport tcp"), name) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("backlog", "many", "the transport tcp: option 'backlog=many': write a whole number"),
        ("backlog", "0", "the transport tcp: option 'backlog=0': write a whole number >= 1"),
        ("nodelay", "maybe", "the transport tcp: option 'nodelay=maybe': write true or false"),
        ("idle_seconds", "soon", "the transport tcp: option 'idle_seconds=soon': write a number"),
        ("mode", "lower", "the transport tcp: option 'mode=lower': write one of verbatim, upper"),
        ("level", "3", "the transport tcp: option 'level=3': write one of 1, 2"),
        ("text", "long", "the transport tcp: option 'text=long': write text of length <= 3"),
        ("share", "200%", "the transport tcp: option 'share=200%': write a number <= 1.0"),
        ("text", 3, "the transport tcp: option 'text=3': write text"),
        ("backlgo", "3", "the transport tcp has no option 'backlgo': did you mean 'backlog'?"),
    ],
)
def test_what_does_not_fit_is_answered_with_what_to_write(name: str, text: object, message: str):
    with pytest.raises(OptionError) as caught:
        parse(Options, {name: text}, "the transport tcp")
    assert str(caught.value) == message


def test_each_option_can_describe_itself():
    fields = {field.name: field for field in describe(Options)}
    assert fields["backlog"] == OptionField("backlog", "int >=1 <=4096", "128", "Connections that wait to be accepted.")
    assert fields["mode"].type == "verbatim|upper"
    assert fields["mode"].help == "What to answer."
    assert (fields["words"].type, fields["words"].default) == ("list", "")
    assert fields["table"].type == "table"
