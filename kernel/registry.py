"""Which plugins are installed, and the one way to get hold of one of them.

Plugins are found by entry points alone. To know that a plugin exists nothing is imported: the text files that say so
are read where the distributions lie (`importlib.metadata` reads the same, and costs 50 ms to import). Only a plugin
that is asked for by name is imported, and it is checked before anybody sees it. What is wrong with one plugin is said
in one line that names its distribution, and never concerns another plugin.

Invariants: two plugins of one name are never chosen between, both are refused; what the policy denies is not imported,
nor is what differs from its pin.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel.errors import BrokenPlugin, PluginError, did_you_mean

if TYPE_CHECKING:
    from kernel.pins import Pin

TRANSPORTS = "kernel.transports"
LAYERS = "kernel.layers"
SERVICES = "kernel.services"
FRAMINGS = "kernel.framings"
COMMANDS = "kernel.commands"
GROUPS = (TRANSPORTS, LAYERS, SERVICES, FRAMINGS, COMMANDS)

# What a plugin of each group must be: the class it derives from, as module and name, imported only to check one.
_BASES = {
    TRANSPORTS: ("kernel.api", "Transport"),
    LAYERS: ("kernel.api", "Layer"),
    SERVICES: ("kernel.api", "Service"),
    FRAMINGS: ("builtins", "object"),
}
# What it must have beyond what its class makes abstract; a framing derives from nothing (kernel.framing.entry.Framing).
_MEMBERS = {FRAMINGS: ("api_version", "channels", "decoder", "keeps_messages", "name")}
_SECTION = re.compile(r"^\[([^\]\n]+)\]\s*$", re.M)
_ENTRY = re.compile(r"^([^\s#;=\[][^=\n]*?)[ \t]*=[ \t]*([\w.]+)(?:[ \t]*:[ \t]*([\w.]+))?", re.M)
_HEADER = re.compile(r"^(Name|Version):\s*(.+?)\s*$", re.M)


class Plugin(NamedTuple):
    """One entry point, as its distribution declares it. Nothing of it has been imported.

    Attributes:
        group: one of `GROUPS`.
        name: by which people ask for it.
        module, attribute: where the object lies.
        distribution, version: who brought it.
        path: the directory of the distribution's metadata.
    """

    group: str
    name: str
    module: str
    attribute: str
    distribution: str
    version: str
    path: str

    @property
    def kind(self) -> str:
        """`transport`, `layer`, `service`, `framing` or `command`."""
        return self.group.removeprefix("kernel.").removesuffix("s")

    @property
    def origin(self) -> str:
        """For messages: `transport-kernel 0.1.0`."""
        return f"{self.distribution} {self.version}"


class Policy(NamedTuple):
    """Which plugins may be used.

    An entry is `NAME`, `NAME@DISTRIBUTION` or `@DISTRIBUTION`. What is denied is never used; when anything is allowed
    explicitly, the rest is denied. A distribution that is pinned is used only as it was when it was (`kernel.pins`).
    """

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    pinned: tuple[Pin, ...] = ()

    def permits(self, plugin: Plugin) -> bool:
        """Whether the plugin may be imported."""
        distribution = normalised(plugin.distribution)
        ways = {plugin.name, f"{plugin.name}@{distribution}", f"@{distribution}"}
        return ways.isdisjoint(map(_entry, self.denied)) and (
            not self.allowed or not ways.isdisjoint(map(_entry, self.allowed))
        )


class Registry:
    """The installed plugins under one policy. Cheap to make; the disk is read at the first question.

    Args:
        policy: which plugins may be used.
        path: where to look for distributions; None: `sys.path`.
    """

    def __init__(self, policy: Policy = Policy(), path: Iterable[str] | None = None) -> None:  # noqa: B008
        self.policy = policy
        self._path = path
        self._plugins: list[Plugin] | None = None
        self._loaded: dict[Plugin, Any] = {}

    def listing(self, group: str | None = None) -> list[Plugin]:
        """The plugins of a group (or of all groups), sorted; imports nothing, hides nothing."""
        if self._plugins is None:
            self._plugins = sorted(_installed(sys.path if self._path is None else self._path))
        return [plugin for plugin in self._plugins if group in (None, plugin.group)]

    def find(self, group: str, name: str) -> Plugin:
        """The one plugin of that name; imports nothing.

        Raises:
            PluginError: there is none, the policy denies it, two distributions bring one, or it differs from its pin.
        """
        named = [plugin for plugin in self.listing(group) if plugin.name == name]
        if not named:
            raise PluginError(self._missing(group, name))
        permitted = [plugin for plugin in named if self.policy.permits(plugin)]
        if not permitted:
            raise PluginError(_refused(named[0], self.policy))
        if len(permitted) > 1:
            raise PluginError(_ambiguous(permitted))
        if self.policy.pinned:
            _check_pin(permitted[0], self.policy.pinned)
        return permitted[0]

    def load(self, group: str, name: str) -> Any:
        """Import the plugin of that name and check it: a class of the group's kind, a command for `COMMANDS`.

        Raises:
            PluginError: as `find`.
            BrokenPlugin: it cannot be imported, is not of its kind, is incomplete, or was written for another version
                of the plugin interface.
        """
        plugin = self.find(group, name)
        if plugin not in self._loaded:
            self._loaded[plugin] = load(plugin)
        return self._loaded[plugin]

    def verdict(self, plugin: Plugin) -> str:
        """Why `find` refuses this plugin, in one line; empty when it does not. Imports nothing."""
        try:
            found = self.find(plugin.group, plugin.name)
        except PluginError as error:
            return str(error)
        return "" if found == plugin else _refused(plugin, self.policy)

    def _missing(self, group: str, name: str) -> str:
        kind = group.removeprefix("kernel.").removesuffix("s")
        names = sorted({plugin.name for plugin in self.listing(group)})
        if group == TRANSPORTS and any(layer.name == name for layer in self.listing(LAYERS)):
            return f"'{name}' is a layer, around a transport: write {name}+tcp://..."
        installed = f"installed: {', '.join(names)}" if names else f"no {kind} is installed"
        return f"there is no {kind} '{name}': {did_you_mean(name, names) or installed}"


def load(plugin: Plugin) -> Any:
    """Import one plugin, whatever any policy says, and check it.

    Raises:
        BrokenPlugin: see `Registry.load`.
    """
    import importlib

    try:
        target: Any = importlib.import_module(plugin.module)
        for part in filter(None, plugin.attribute.split(".")):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:
        raise _broken(plugin, f"{type(error).__name__}: {error}") from error
    fault = _fault(plugin, target)
    if fault:
        raise _broken(plugin, fault)
    return target


def _fault(plugin: Plugin, target: Any) -> str:
    """What is wrong with a plugin that could be imported; empty when nothing is."""
    import importlib

    where = f"{plugin.module}:{plugin.attribute}"
    if plugin.group == COMMANDS:
        command = importlib.import_module("click").Command
        return "" if isinstance(target, command) else f"{where} is not a click command"
    module, name = _BASES[plugin.group]
    if not (isinstance(target, type) and issubclass(target, getattr(importlib.import_module(module), name))):
        return f"{where} is not a class derived from {module}.{name}"
    absent = [member for member in _MEMBERS.get(plugin.group, ("name",)) if not hasattr(target, member)]
    missing = sorted([*getattr(target, "__abstractmethods__", ()), *absent])
    if missing:
        return f"{where} does not define {', '.join(missing)}"
    kind: Any = target
    return _outside_api_window(kind.api_version)


def _outside_api_window(version: object) -> str:
    from kernel.api import API_VERSION, API_VERSION_MIN

    if not isinstance(version, int):
        return f"its api_version is {version!r}, not a whole number"
    if version < API_VERSION_MIN:
        return (
            f"it was written for API version {version}, and this kernel serves {API_VERSION_MIN} and later: update it"
        )
    if version > API_VERSION:
        return f"it was written for API version {version}, and this kernel knows {API_VERSION}: update transport-kernel"
    return ""


def _broken(plugin: Plugin, fault: str) -> BrokenPlugin:
    fault = " ".join(fault.split())
    return BrokenPlugin(f"the {plugin.kind} '{plugin.name}' of {plugin.origin} is broken: {fault}")


def _ambiguous(plugins: list[Plugin]) -> str:
    one, *others = plugins
    origins = " and ".join(plugin.origin for plugin in plugins)
    remedy = f'uninstall one, or deny one by plugins_denied = ["{others[-1].name}@{others[-1].distribution}"]'
    return f"the {one.kind} '{one.name}' is brought by {origins}: {remedy}"


def _refused(plugin: Plugin, policy: Policy) -> str:
    denied = not Policy(denied=policy.denied).permits(plugin)
    remedy = "plugins_denied names it" if denied else f"add '{plugin.name}' to plugins_allowed"
    return f"the {plugin.kind} '{plugin.name}' of {plugin.origin} is not allowed here: {remedy}"


def _check_pin(plugin: Plugin, pinned: tuple[Pin, ...]) -> None:
    from kernel import pins

    fault = pins.fault(plugin, pinned)
    if fault:
        raise PluginError(
            f"the {plugin.kind} '{plugin.name}' of {plugin.origin} is not used: {fault}: look at what has changed, "
            f"then put the pin that `kernel plugins info {plugin.name}` shows into plugins_pinned"
        )


# --- reading what is installed -----------------------------------------------------------------------------------


def _installed(path: Iterable[str]) -> Iterator[Plugin]:
    """The kernel's entry points on a path. As for imports, the first of several distributions of one name counts."""
    seen: set[str] = set()
    for place in path:
        for name, metadata in _distributions(place or "."):
            if name in seen:
                continue
            seen.add(name)
            yield from _plugins_of(metadata)


class _Metadata(NamedTuple):
    """A distribution's metadata directory; `read` gives the text of a file in it, or an empty one."""

    path: str
    read: Callable[[str], str]


def _distributions(place: str) -> Iterator[tuple[str, _Metadata]]:
    """The distributions in one place of the path, each with its normalised name."""
    try:
        names = os.listdir(place)
    except NotADirectoryError:
        yield from _zipped_distributions(place)
        return
    except OSError:
        return
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if ending in ("dist-info", "egg-info") and dot:
            directory = os.path.join(place, name)
            yield normalised(stem.partition("-")[0]), _Metadata(directory, _reader(directory))


def _zipped_distributions(archive: str) -> Iterator[tuple[str, _Metadata]]:
    from importlib.metadata import distributions

    for distribution in distributions(path=[archive]):
        yield (
            normalised(distribution.metadata["Name"]),
            _Metadata(archive, lambda name, found=distribution: found.read_text(name) or ""),  # type: ignore[misc]
        )


def _reader(directory: str) -> Callable[[str], str]:
    def read(name: str) -> str:
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    return read


def _plugins_of(metadata: _Metadata) -> Iterator[Plugin]:
    text = metadata.read("entry_points.txt")
    if "kernel." not in text:
        return
    headers: Mapping[str, str] = {}
    sections = _SECTION.split(text)[1:]
    for group, body in zip(sections[::2], sections[1::2], strict=True):
        if group.strip() in GROUPS:
            headers = headers or _headers(metadata)
            for name, module, attribute in _ENTRY.findall(body):
                yield Plugin(group.strip(), name, module, attribute, headers["Name"], headers["Version"], metadata.path)


def _headers(metadata: _Metadata) -> Mapping[str, str]:
    """The distribution's name and version as it says them itself."""
    text = metadata.read("METADATA") or metadata.read("PKG-INFO")
    return {"Name": "unknown", "Version": "?"} | dict(_HEADER.findall(text.partition("\n\n")[0]))


def _entry(text: str) -> str:
    """An entry of a policy; pip takes `My_Dist` and `my-dist` for one distribution, and so do we."""
    name, at, distribution = text.partition("@")
    return name + at + normalised(distribution)


def normalised(name: str) -> str:
    """A distribution's name as names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
