"""What a plugin says of itself, once it is imported: for people as text, for programs as an object.

Everything shown comes from the plugin's own class: its first line of help, its options with their types, bounds and
defaults, what it gives (a transport) or needs (a service), the dialects that it speaks.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from kernel import options, pins
from kernel.api import API_VERSION, API_VERSION_MIN, Needs
from kernel.endpoint import Endpoint
from kernel.errors import KernelError, PluginError
from kernel.limits import Limits
from kernel.registry import COMMANDS, FRAMINGS, LAYERS, SERVICES, TRANSPORTS, Plugin, Registry

# Less room than that for help, and the terminal may break the lines as it likes.
_HELP_COLUMNS_MIN = 20

_Facts = dict[str, Any]


def facts(plugin: Plugin, registry: Registry) -> _Facts:
    """All that there is to know of a plugin. What cannot be used says so under `refused`, and has no more than that."""
    found: _Facts = {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "object": f"{plugin.module}:{plugin.attribute}",
        "path": plugin.path,
        "pin": str(pins.pin_of(plugin) or "") or None,
        "refused": registry.verdict(plugin) or None,
    }
    if found["refused"]:
        return found
    try:
        kind = registry.load(plugin.group, plugin.name)
    except PluginError as error:
        return found | {"refused": str(error)}
    return found | _OF_GROUP[plugin.group](kind, registry)


def _of_transport(kind: Any, registry: Registry) -> _Facts:
    return _common(kind) | {
        "example": kind.example or None,
        "capabilities": _capabilities(kind, registry),
        "options": _options(kind.Options),
    }


def _of_service(kind: Any, _registry: Registry) -> _Facts:
    spoken = kind.dialects
    return _common(kind) | {
        "example": kind.example or None,
        "needs": dataclasses.asdict(kind.needs) if isinstance(kind.needs, Needs) else None,
        "dialects": [
            {"name": name, "help": dialect.help, "options": dict(dialect.options)} for name, dialect in spoken.items()
        ]
        if not isinstance(spoken, property)
        else [],
        "options": _options(kind.Options),
    }


def _of_framing(kind: Any, _registry: Registry) -> _Facts:
    return _common(kind) | {
        "channels": kind.channels,
        "keeps_messages": kind.keeps_messages,
        "options": _options(kind),
    }


def _of_command(command: Any, _registry: Registry) -> _Facts:
    return {"help": command.get_short_help_str(limit=200)}


_OF_GROUP = {
    TRANSPORTS: _of_transport,
    LAYERS: _of_transport,
    SERVICES: _of_service,
    FRAMINGS: _of_framing,
    COMMANDS: _of_command,
}


def _common(kind: type) -> _Facts:
    return {
        "help": (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "),
        "api_version": kind.api_version,  # type: ignore[attr-defined]
    }


def _capabilities(kind: Any, registry: Registry) -> _Facts | None:
    """What connections of the example endpoint give, known without binding it; None: there is no example."""
    from kernel.wiring import wire

    text = kind.example.replace("{directory}", "/tmp").replace("{unique}", "example")
    if not text:
        return None
    endpoint = Endpoint.parse(text)
    endpoint.options.setdefault("framing", "raw")
    try:
        wiring = wire(endpoint, registry, Limits(), client=True)
        return dataclasses.asdict(wiring.transport.capabilities())
    except KernelError:
        return None


def _options(kind: type) -> list[_Facts]:
    return [dataclasses.asdict(field) for field in options.describe(kind)] if dataclasses.is_dataclass(kind) else []


# --- for people ------------------------------------------------------------------------------------------------------


def text(found: _Facts) -> str:
    """The facts of one plugin as lines for people."""
    lines = [f"{found['kind']} {found['name']}", *([f"  {found['help']}"] if found.get("help") else [])]
    lines += [f"  {head:<9} {words}" for head, words in _rows(found) if words]
    if found.get("options"):
        lines += ["  options", *_option_lines(found["options"])]
    if found.get("dialects"):
        lines += ["  dialects (?dialect=NAME on a listener)"]
        lines += [f"    {dialect['name']}  {dialect['help']}" for dialect in found["dialects"]]
    return "\n".join(lines)


def _rows(found: _Facts) -> Iterator[tuple[str, str]]:
    yield "from", f"{found['distribution']} {found['version']} ({found['path']})"
    yield "object", found["object"]
    yield "pin", found["pin"] or ""
    yield "refused", found["refused"] or ""
    if "api_version" in found:
        yield "API", f"{found['api_version']} (this kernel serves {API_VERSION_MIN} to {API_VERSION})"
    yield "example", found.get("example") or ""
    if found.get("capabilities"):
        yield "gives", _in_words(found["capabilities"])
    if found.get("needs") is not None:
        yield "needs", _in_words(found["needs"]) or "nothing in particular"
    if "channels" in found:
        yield "channels", "many in one connection" if found["channels"] else "one in each connection"
        yield "messages", "arrive as they were sent" if found["keeps_messages"] else "are whatever a read brings"


def _in_words(values: _Facts) -> str:
    """`reliable, ordered, not encrypted, ...`: what is on, in words; numbers with theirs."""
    words = []
    for name, value in values.items():
        word = name.replace("_", " ")
        if value is True:
            words.append(word)
        elif value:
            words.append(f"{word} {value:,}" if isinstance(value, int) else f"{word} {value}")
    return ", ".join(words)


def _option_lines(fields: list[_Facts]) -> Iterator[str]:
    widths = [max(len(field[key]) for field in fields) for key in ("name", "type")]
    for field in fields:
        default = f"[{field['default']}]" if field["default"] else ""
        name, kind = (field[key].ljust(width) for key, width in zip(("name", "type"), widths, strict=True))
        yield _wrapped(f"    {name}  {kind}  {field['help']} {default}".rstrip(), indent=sum(widths) + 8)


def _wrapped(line: str, indent: int) -> str:
    """A line that fits the terminal, where there is one; programs get it whole."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= width or width < indent + _HELP_COLUMNS_MIN:
        return line
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True)
