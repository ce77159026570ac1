"""The one level of authentication that an endpoint asks for: what it says itself (`auth=`), or the strongest that is at
hand. There is no order of levels to fall back through: both sides have the same one, or they do not talk.

    none    nobody asks
    hmac    both sides prove a shared key (`kernel.auth.challenge`)
    unix    the operating system tells the peer's user
    tls     the peer has shown a certificate

The last two are what the transport itself establishes (`Capabilities.identity`), so a transport may bring another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.api import Capabilities
from kernel.endpoint import Endpoint
from kernel.errors import OptionError, UsageError

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

NONE = "none"
HMAC = "hmac"


def choose(
    asked: str | None, endpoint: Endpoint, gives: Capabilities, keys: Keyring | None, *, in_band: bool, client: bool
) -> str:
    """The level of an endpoint.

    Args:
        asked: the endpoint's own `auth=`, if it has one.
        gives: what its transport establishes.
        in_band: its framing has frames for authentication.

    Raises:
        OptionError: no such level, or this endpoint cannot have it.
        UsageError: there are keys, and the framing has no place for a proof; or the other way round.
    """
    if asked is None:
        return _default(endpoint, gives, keys, in_band=in_band, client=client)
    if asked == HMAC:
        _check_hmac(endpoint, keys, in_band=in_band)
    elif client and gives.encrypted:
        return asked  # the server alone decides whether it wants to see a certificate
    elif asked not in (NONE, gives.identity):
        levels = [NONE, *([HMAC] if in_band else []), *([gives.identity] if gives.identity else [])]
        raise OptionError(f"'{endpoint}' cannot have auth={asked}: it can have {' or '.join(levels)}")
    return asked


def _default(endpoint: Endpoint, gives: Capabilities, keys: Keyring | None, *, in_band: bool, client: bool) -> str:
    if gives.identity and (keys is None or not client):
        return gives.identity
    if keys is None or gives.identity == "unix":
        return NONE
    if not in_band:
        raise UsageError(
            f"'{endpoint}' has a framing that carries no authentication: leave the secret out, or add auth=none"
        )
    return HMAC


def _check_hmac(endpoint: Endpoint, keys: Keyring | None, *, in_band: bool) -> None:
    if not in_band:
        raise OptionError(f"'{endpoint}' has a framing that carries no authentication: use framing=knl, or auth=none")
    if keys is None:
        raise UsageError(f"'{endpoint}' asks for auth=hmac: add --secret-file FILE (`kernel keys new FILE` makes one)")
