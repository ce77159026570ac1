"""Plugins that are not installed, for tests: a registry that knows some classes beside what is installed."""

from __future__ import annotations

from typing import Any

from kernel.api import Layer, Service, Transport
from kernel.registry import FRAMINGS, LAYERS, SERVICES, TRANSPORTS, Registry


class LocalRegistry(Registry):
    """All that is installed, and these classes under their own `name`; of two of one name, these.

    Args:
        plugins: classes of transports, layers, services or framings.
    """

    def __init__(self, *plugins: type) -> None:
        super().__init__()
        self._local = {(_group_of(plugin), _name_of(plugin)): plugin for plugin in plugins}

    def load(self, group: str, name: str) -> Any:
        return self._local.get((group, name)) or super().load(group, name)


def _group_of(plugin: type) -> str:
    for base, group in ((Layer, LAYERS), (Transport, TRANSPORTS), (Service, SERVICES)):
        if issubclass(plugin, base):
            return group
    return FRAMINGS


def _name_of(plugin: type) -> str:
    name: str = plugin.name  # type: ignore[attr-defined]
    return name
