"""What a listener that others than this machine can reach must have: authentication and encryption.

Streams can have both. Datagrams have no encryption here, so off the loopback they always need the permission that
streams need only to go without; and since anybody can fake their source, they need authentication with it, or an
endpoint that says in so many words that nobody is asked (`auth=none`), the only way for `framing=raw`.
"""

from __future__ import annotations

import logging

from kernel.auth.level import NONE
from kernel.errors import StartError
from kernel.wiring import Wiring

FLAG = "--allow-insecure-network"

log = logging.getLogger("kernel.exposure")


def check_exposure(wiring: Wiring, *, allowed: bool) -> None:
    """Refuse a listener that is open to the network without protection; with permission, say so in the log.

    Raises:
        StartError: what is missing, and how to add it.
    """
    missing = _missing(wiring)
    if not missing:
        return
    where = wiring.endpoint.without_options()
    if not allowed:
        raise StartError(
            f"{where} can be reached from the network without {' and without '.join(missing)}: "
            f"{_remedy(wiring, missing)}, listen on 127.0.0.1, or give {FLAG}"
        )
    is_asked = wiring.auth != NONE or wiring.endpoint.options.get("auth") == NONE
    if not wiring.capabilities.reliable and not is_asked:
        keys = "add --secret-file FILE, or auth=none" if wiring.channels else "framing=raw has none, add auth=none"
        raise StartError(f"{where} takes datagrams from the network without authentication: {keys} if it shall")
    log.warning("%s can be reached from the network without %s (%s)", where, " and without ".join(missing), FLAG)


def _missing(wiring: Wiring) -> list[str]:
    if wiring.capabilities.local_only:
        return []
    return [
        *(["authentication"] if wiring.auth == NONE else []),
        *(["encryption"] if not wiring.capabilities.encrypted else []),
    ]


def _remedy(wiring: Wiring, missing: list[str]) -> str:
    steps = []
    if "authentication" in missing:
        steps.append("add --secret-file FILE (`kernel keys new FILE` makes one)")
    if "encryption" in missing and wiring.capabilities.reliable:
        steps.append(f"write tls+{wiring.endpoint.scheme}://")
    return " and ".join(steps) or "datagrams cannot be encrypted yet"
