"""Who may open which service: one table, whatever the transport. Patterns of principals on the left, services on the
right.

    [policy]
    "hmac:alice" = ["echo", "file"]
    "tls:*.ops.example" = ["*"]
    "unix:1000" = ["shell"]
    anonymous = ["echo"]

All rules that match a principal count together; whoever matches none may open nothing. Without a table everybody may
open everything who has met the level of authentication that the listener asks for; of the users of this machine only
our own and root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from kernel.api import Principal

_ROOT = 0


class AccessPolicy:
    """The table.

    Args:
        rules: for each pattern of principals (`*` and `?` as in file names) the services, `*` for all of them. None:
            there is no table.
    """

    def __init__(self, rules: Mapping[str, Iterable[str]] | None = None) -> None:
        self._rules = None if rules is None else {pattern: frozenset(services) for pattern, services in rules.items()}

    def permits(self, principal: Principal, service: str, level: str) -> bool:
        """Whether a peer may open a service.

        Args:
            level: what the listener asks for: `none`, `unix`, `hmac`, `tls`.
        """
        if self._rules is None:
            return level != "unix" or principal.uid in (_ROOT, os.geteuid())
        name = str(principal)
        return any(
            service in services or "*" in services
            for pattern, services in self._rules.items()
            if fnmatchcase(name, pattern)
        )

    @property
    def services(self) -> frozenset[str]:
        """The services that the rules name, for finding a name that nobody serves."""
        return frozenset().union(*(self._rules or {}).values()) - {"*"}
