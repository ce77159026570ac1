"""`kernel plugins check`: run the conformance kit on an installed plugin, and say what came of each check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kernel.endpoint import Endpoint
from kernel.errors import UsageError
from kernel.options import parse
from kernel.registry import COMMANDS, FRAMINGS, LAYERS, SERVICES, TRANSPORTS, Plugin, Registry
from kernel.testing import FramingSuite, Outcome, ServiceSuite, Suite, TransportSuite, run_checks

_MARKS = {"passed": "ok", "skipped": "--", "failed": "FAILED"}


def suite_of(
    plugin: Plugin, registry: Registry, options: str, endpoint: str, messages: list[bytes]
) -> type[Suite] | None:
    """The suite for a plugin; None: there is none for its kind, and that it loads is all that can be asked.

    Args:
        options: what stands behind its `?`.
        endpoint: where to try it; empty: its own example.
        messages: what a peer says to a service; none: the kit's own.
    """
    loaded = registry.load(plugin.group, plugin.name)
    return _MAKERS[plugin.group](plugin, loaded, options, endpoint, messages)


def _transport(plugin: Plugin, kind: Any, options: str, endpoint: str, _messages: list[bytes]) -> type[Suite]:
    text = endpoint or kind.example
    if not text:
        where = f"{plugin.name}+tcp://127.0.0.1:0?..." if plugin.group == LAYERS else f"{plugin.name}://..."
        raise UsageError(f"the {plugin.kind} '{plugin.name}' has no example to try it with: add --endpoint '{where}'")
    at = Endpoint.parse(text)
    if plugin.name not in (at.scheme, *at.layers):
        raise UsageError(f"--endpoint '{text}' does not name the {plugin.kind} '{plugin.name}'")
    at.options.update(Endpoint.parse(f"{plugin.name}://?{options}").options)
    return type("Checked", (TransportSuite,), {"endpoint": str(at).replace("%7B", "{").replace("%7D", "}")})


def _service(plugin: Plugin, kind: Any, options: str, endpoint: str, messages: list[bytes]) -> type[Suite]:
    _check_options(plugin, kind.Options, options)
    said = {"messages": messages} if messages else {}
    text = f"{plugin.name}?{options}" if options else plugin.name
    return type("Checked", (ServiceSuite,), {"service": text, "endpoint": endpoint, **said})


def _framing(plugin: Plugin, kind: Any, options: str, _endpoint: str, _messages: list[bytes]) -> type[Suite] | None:
    if kind.channels:
        return None
    _check_options(plugin, kind, options)
    return type("Checked", (FramingSuite,), {"framing": f"{plugin.name}?{options}" if options else plugin.name})


def _check_options(plugin: Plugin, options_type: type, options: str) -> None:
    parse(options_type, Endpoint.parse(f"{plugin.kind}://?{options}").options, f"the {plugin.kind} {plugin.name}")


def _nothing(*_: Any) -> None:
    return None


_MAKERS: dict[str, Callable[..., type[Suite] | None]] = {
    TRANSPORTS: _transport,
    LAYERS: _transport,
    SERVICES: _service,
    FRAMINGS: _framing,
    COMMANDS: _nothing,
}


def outcomes(suite: type[Suite] | None) -> Iterator[Outcome]:
    """What comes of each check, as it ends."""
    if suite is None:
        yield Outcome("it can be loaded", "It is imported, complete, and for this version of the interface", "passed")
    else:
        yield from run_checks(suite)


def line(outcome: Outcome) -> str:
    """One check for people."""
    detail = f": {outcome.detail}" if outcome.detail else ""
    return f"  {_MARKS[outcome.status]:<6}  {outcome.check}{detail}"
