"""Dialects: plain protocols of a service's own, for clients that know nothing of ours; a listener asks for one by name.

`?dialect=NAME` binds the listener to the service that declares it, and settles its framing: what the dialect says is
not to be had otherwise, so an option that says something else is refused rather than obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernel.api import Dialect
from kernel.endpoint import Endpoint
from kernel.errors import OptionError, did_you_mean

Offers = Mapping[str, Mapping[str, Dialect]]
"""The dialects of each service that is served, by the service's name."""


def find(endpoint: Endpoint, name: str, service: str, offers: Offers) -> tuple[str, Dialect]:
    """The service that speaks a dialect, and the dialect.

    Args:
        service: the one that the listener is bound to; empty: whichever speaks the dialect.

    Raises:
        OptionError: nobody speaks it, or several do.
    """
    speakers = [offered for offered in ([service] if service else offers) if name in offers.get(offered, {})]
    if not speakers:
        known = sorted({dialect for dialects in offers.values() for dialect in dialects})
        who = f"the service '{service}' has" if service else "the plugins have"
        remedy = did_you_mean(name, known) or (f"there is {', '.join(known)}" if known else "leave dialect= out")
        raise OptionError(f"'{endpoint}': {who} no dialect '{name}': {remedy}")
    if len(speakers) > 1:
        raise OptionError(f"'{endpoint}': {' and '.join(speakers)} speak '{name}': add service=NAME")
    return speakers[0], offers[speakers[0]][name]


def settle(endpoint: Endpoint, dialect: Dialect, given: dict[str, str]) -> None:
    """Put the dialect's options into those that the endpoint gives.

    Raises:
        OptionError: the endpoint says something else.
    """
    for name in ("framing", "recv", "send", *dialect.options):
        if name in given and given[name] != dialect.options.get(name):
            raise OptionError(f"'{endpoint}': the dialect settles the framing: leave {name}={given[name]} out")
    given.update(dialect.options)
