"""Text (`?key=value`, flags, variables) becomes a plugin's typed `Options` dataclass here, and only here.

A field's type does the checking; `Annotated[int, Meta(ge=1, description="...")]` adds bounds and help. Names carry
their unit last, so a value may too: `..._bytes...` takes 64KiB or 1MiB, `..._seconds...` takes 500ms, 30s, 5m or 1h.
Any other number with a fraction takes percent: 1% is 0.01. Lists are separated by commas, or JSON, as tables are.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Meta

from kernel.errors import OptionError, did_you_mean

__all__ = ["Meta", "OptionField", "describe", "parse", "read_bytes", "read_seconds"]

T = TypeVar("T")

# As many digits as any size or time on a machine has; more would not fit what they are counted in.
_SIZE = re.compile(r"(\d{1,18})\s*([kmg]?)i?b?", re.I)
_TIME = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*(ms|s|m|h|)", re.I)
_SIZE_MAX = 2**63 - 1
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_BACKTICKED = re.compile("`([^`]*)`")
_LISTS = (list, tuple, frozenset)
_STRUCTURES = (*_LISTS, Mapping)
_PLACE = re.compile(r"[.\[].*", re.S)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a table",
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse(options_type: type[T], values: Mapping[str, object], owner: str) -> T:
    """Make the dataclass from text or typed values.

    Args:
        options_type: a dataclass whose fields all have defaults or must be given.
        values: names and values; strings are converted to the field's type.
        owner: who takes these options, for messages: `the transport tcp`.

    Raises:
        OptionError: an unknown name, a missing one, or a value that does not fit.
    """
    names = [f.name for f in dataclasses.fields(options_type)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise OptionError(unknown(name, names, owner))
    read = {name: _read(name, value, options_type, owner) for name, value in values.items()}
    try:
        return msgspec.convert(read, options_type, strict=False)
    except msgspec.ValidationError as error:
        from kernel.logs import printable

        raise OptionError(f"{owner}: {printable(_explain(str(error), values, options_type))}") from None


def unknown(name: str, known: Iterable[str], owner: str) -> str:
    """One line for a name that nobody knows, with what was probably meant."""
    known = sorted(known)
    choices = f"it takes {', '.join(known)}" if known else "it takes none"
    return f"{owner} has no option '{name}': {did_you_mean(name, known) or choices}"


def read_bytes(text: str) -> int:
    """The number of bytes that `512`, `64KiB` or `1M` stands for.

    Raises:
        OptionError: it is none.
    """
    size = _SIZE.fullmatch(text)
    nbytes = int(size[1]) << 10 * " kmg".index(size[2].lower() or " ") if size else _SIZE_MAX + 1
    if nbytes > _SIZE_MAX:
        raise OptionError(f"'{text}' is no number of bytes: write 512, 64KiB or 1MiB")
    return nbytes


def read_seconds(text: str) -> float:
    """The seconds that `0.5`, `500ms`, `30s`, `5m` or `1h` stands for.

    Raises:
        OptionError: it is none.
    """
    span = _TIME.fullmatch(text)
    if span is None:
        raise OptionError(f"'{text}' is no length of time: write 0.5, 500ms, 30s, 5m or 1h")
    return float(span[1]) * _SECONDS[span[2].lower()]


def _read(name: str, value: object, options_type: type, owner: str) -> object:
    """Text in the shape that its field has: with its unit read, a list or table in place of their text."""
    if not isinstance(value, str):
        return value
    hint = typing.get_type_hints(options_type)[name]
    kind = typing.get_origin(hint) or hint
    if isinstance(kind, type) and (issubclass(kind, _STRUCTURES) or dataclasses.is_dataclass(kind)):
        return _read_structure(name, value, issubclass(kind, _LISTS), owner)
    return _read_unit(name, value, options_type)


def _read_structure(name: str, text: str, listed: bool, owner: str) -> object:
    if listed and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text.strip() else []
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        what = 'a list, ["one", "two"]' if listed else 'a table, {"key": "value"}'
        raise OptionError(f"{owner}: option '{name}={text}': write {what}, or use the configuration file") from None


def _read_unit(name: str, value: object, options_type: type) -> object:
    if isinstance(value, str):
        if "_bytes" in name and _SIZE.fullmatch(value):
            return read_bytes(value)
        if "_seconds" in name and _TIME.fullmatch(value):
            return read_seconds(value)
        if (percent := _PERCENT.fullmatch(value)) and typing.get_type_hints(options_type)[name] is float:
            return float(percent[1]) / 100
    return value


def _explain(message: str, values: Mapping[str, object], options_type: type) -> str:
    """msgspec says "Expected `int`, got `str` - at `$.backlog`"; a person needs the option, and what to write."""
    what, _, where = message.partition(" - at `$.")
    name = where.rstrip("`")
    if name not in values:
        inside = f"option '{name}': " if _PLACE.sub("", name) in values else ""
        return inside + what[0].lower() + _BACKTICKED.sub(_in_words, what[1:])
    if "enum" in what:
        wanted = "one of " + ", ".join(_choices(typing.get_type_hints(options_type)[name]))
    elif "regex" in what:
        wanted = _examples(typing.get_type_hints(options_type, include_extras=True)[name])
    else:
        wanted = _BACKTICKED.sub(_in_words, what.removeprefix("Expected ").partition(", got")[0])
    return f"option '{name}={values[name]}': write {wanted}"


def _choices(hint: object) -> list[str]:
    """The values of a Literal, also of one that may be None."""
    literals = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is typing.Literal]
    return [str(value) for literal in literals for value in typing.get_args(literal)]


def _examples(hint: object) -> str:
    """What fits a pattern is shown, not described."""
    metas = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Meta)]
    return " or ".join(str(example) for meta in metas for example in meta.examples or ()) or "another text"


def _in_words(types: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types[1].split(" | ") if name != "null")


@dataclasses.dataclass(frozen=True, slots=True)
class OptionField:
    """One option as `plugins info` shows it: its name, its type, default and bounds as text, its help."""

    name: str
    type: str
    default: str
    help: str


def describe(options_type: type) -> list[OptionField]:
    """The options of a plugin, in the order of their definition."""
    hints = typing.get_type_hints(options_type, include_extras=True)
    return [_describe_field(f, hints[f.name]) for f in dataclasses.fields(options_type)]


def _describe_field(field: dataclasses.Field[Any], hint: Any) -> OptionField:
    metas = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Meta)]
    bounds = [f"{sign}{bound}" for m in metas for sign, bound in ((">=", m.ge), ("<=", m.le)) if bound is not None]
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = "required" if required else _default_text(field.default)
    help_text = " ".join(m.description for m in metas if m.description) or str(field.metadata.get("help", ""))
    return OptionField(field.name, " ".join([_type_text(hint), *bounds]), default, help_text)


def _type_text(hint: Any) -> str:
    """A type as a person writes a value of it: `int`, `a|b`; that it may be left out is said by its default."""
    if hasattr(hint, "__metadata__"):
        return _type_text(hint.__origin__)
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(str(value) for value in typing.get_args(hint))
    kind = typing.get_origin(hint)
    if isinstance(kind, type) and issubclass(kind, _STRUCTURES):
        return "list" if issubclass(kind, _LISTS) else "table"
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if parts and not isinstance(hint, type):
        return " or ".join(map(_type_text, parts))
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _default_text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str) and not default.isprintable():
        return repr(default)[1:-1]
    if isinstance(default, _LISTS):
        return ",".join(map(str, default))
    return "" if default in (None, dataclasses.MISSING) else str(default)
