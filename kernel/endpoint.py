"""Endpoint strings: `scheme://address?key=value&...`, and nothing else about them.

What the address means is the transport's matter (`host_port` and `path` help those that speak of the usual things), so
a third party's scheme needs no change here. Layers stand before the scheme, outermost first: `chaos+tcp://...`.
Parsing and `str()` are inverse: `Endpoint.parse(str(endpoint)) == endpoint`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote

from kernel.errors import EndpointError

_SHAPE = re.compile(
    r"(?P<schemes>[a-z][a-z0-9-]*(?:\+[a-z][a-z0-9-]*)*):(?://)?(?P<address>[^?]*)(?:\?(?P<query>.*))?", re.S
)
# A percent sign may stand for itself (`fe80::1%eth0`, `loss=1%`), except where two digits behind it change its meaning.
_LOOKS_QUOTED = re.compile("%(?=[0-9A-Fa-f]{2})")
_IPV6_CUSTOMER_BITS = 64
_EXAMPLES = "for example tcp://127.0.0.1:7000, udp://[::1]:7000 or unix:/run/user/1000/kernel.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen or to dial.

    Attributes:
        scheme: the transport's name.
        address: what stands between the scheme and the `?`, percent-decoded.
        options: the query, in order; values are strings until somebody who knows their types reads them.
        layers: names of the wrappers around the transport, outermost first.
    """

    scheme: str
    address: str
    options: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read an endpoint string.

        Raises:
            EndpointError: it has no scheme, or an option stands twice.
        """
        shape = _SHAPE.fullmatch(text)
        if shape is None or not text.isprintable():
            from kernel.logs import printable

            raise EndpointError(f"'{printable(text)}' is not an endpoint: write scheme://address, {_EXAMPLES}")
        *layers, scheme = shape["schemes"].split("+")
        pairs = parse_qsl(shape["query"] or "", keep_blank_values=True)
        options = dict(pairs)
        if len(options) != len(pairs):
            twice = next(key for key in options if sum(key == other for other, _ in pairs) > 1)
            raise EndpointError(f"'{text}' gives the option '{twice}' twice: keep one of them")
        return cls(scheme, unquote(shape["address"]), options, tuple(layers))

    def __str__(self) -> str:
        slashes = "" if self.scheme == "unix" and not self.address.startswith("//") else "//"
        address = _quoted(self.address, "/:@[]%~,;=+$!*()")
        text = f"{'+'.join((*self.layers, self.scheme))}:{slashes}{address}"
        if not self.options:
            return text
        return text + "?" + "&".join(f"{quote(key)}={_quoted(value, '/:,@%')}" for key, value in self.options.items())

    def with_address(self, address: str) -> Endpoint:
        """The same endpoint at another address (the real port in place of 0)."""
        return replace(self, address=address)

    def without_options(self) -> Endpoint:
        """The bare place, without the query."""
        return replace(self, options={})

    def host_port(self) -> tuple[str, int]:
        """Read the address as `host:port` or `[v6]:port`.

        Raises:
            EndpointError: there is no port, or it is not between 0 and 65535.
        """
        host, colon, port = self.address.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if (
            not colon
            or not port.isascii()
            or not port.isdigit()
            or int(port) > 65535
            or (":" in host and not bracketed)
        ):
            raise EndpointError(
                f"'{self}' needs host:port with a port from 0 to 65535, "
                f"for example {self.scheme}://127.0.0.1:7000 or {self.scheme}://[::1]:7000"
            )
        host = host[1:-1] if bracketed else host
        if not host.isprintable() or " " in host:
            raise EndpointError(f"'{self}' names a host with characters that no name has")
        if not host:
            raise EndpointError(
                f"'{self}' names no host: write {self.scheme}://127.0.0.1:{port} for this machine only, "
                f"{self.scheme}://0.0.0.0:{port} for all addresses"
            )
        return host, int(port)


def _quoted(text: str, safe: str) -> str:
    """What `parse` reads as the text, as much like what was typed as can be."""
    return quote(_LOOKS_QUOTED.sub("%25", text), safe=safe)


def format_host_port(host: str, port: int) -> str:
    """The inverse of `Endpoint.host_port`: IPv6 addresses get their brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(address: str) -> str:
    """What one customer has of addresses: `host:port` without the port, for IPv6 its network of 64 bits.

    What is no IP address stays as it is.
    """
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    if not host:
        return address
    import ipaddress  # takes milliseconds, which a server that stays on its machine need not spend

    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return address
    if parsed.version == 4:
        return host
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed if parsed.is_loopback else ipaddress.ip_network((parsed, _IPV6_CUSTOMER_BITS), strict=False))
