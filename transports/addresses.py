"""Host names, ports and what goes wrong with them: the same for every transport that speaks IP."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Any

from kernel.endpoint import Endpoint

Address = tuple[str, int] | tuple[str, int, int, int]
Resolved = tuple[socket.AddressFamily, Address]


async def resolve(endpoint: Endpoint, kind: socket.SocketKind, failure: type[Exception]) -> list[Resolved]:
    """The addresses of an endpoint's host, in the resolver's order.

    Raises:
        EndpointError: the endpoint is not host:port.
        failure: nobody knows the host.
    """
    host, port = endpoint.host_port()
    flags = socket.AI_NUMERICSERV
    with contextlib.suppress(
        socket.gaierror, UnicodeError
    ):  # a literal address needs no thread, no resolver, and (bytes) no codec
        return _pick(socket.getaddrinfo(host.encode(), port, type=kind, flags=flags | socket.AI_NUMERICHOST))
    try:
        return _pick(await asyncio.get_running_loop().getaddrinfo(host, port, type=kind, flags=flags))
    except (socket.gaierror, UnicodeError) as error:  # the second: not even the shape of a name
        reason = error.strerror if isinstance(error, OSError) else "no name is written so"
        raise failure(f"{endpoint.without_options()}: the host '{host}' is not known ({reason})") from None


def _pick(found: Sequence[tuple[Any, ...]]) -> list[Resolved]:
    return [(family, address) for family, _, _, _, address in found]


def is_loopback(endpoint: Endpoint) -> bool:
    """Only this machine can reach the endpoint."""
    host, _ = endpoint.host_port()
    with contextlib.suppress(OSError):  # it is no IPv4 address
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    return host in ("localhost", "::1")


_NO_INTERFACE = "this address means nothing without its interface: write it behind it, as in [fe80::1%eth0]"


def _lacks_interface(endpoint: Endpoint, error: OSError) -> bool:
    host, _ = endpoint.host_port()
    return error.errno == errno.EINVAL and host.lower().startswith("fe80:") and "%" not in host


def cannot_listen(endpoint: Endpoint, error: OSError) -> str:
    """One line for a person: what, where, remedy."""
    remedies: dict[int | None, str] = {
        errno.EADDRINUSE: "the port is busy: stop what listens there, take another port, or port 0 for a free one",
        errno.EACCES: "ports below 1024 need privileges: take a port from 1024 on",
        errno.EADDRNOTAVAIL: "this machine has no such address: use 127.0.0.1, [::1], or one that `ip addr` shows",
    }
    if _lacks_interface(endpoint, error):
        remedies[error.errno] = _NO_INTERFACE
    return f"cannot listen on {endpoint.without_options()}: {remedies.get(error.errno, error.strerror)}"


def cannot_dial(endpoint: Endpoint, error: OSError | None) -> str:
    """One line for a person: what, where, remedy."""
    remedies: dict[int | None, str] = {
        errno.ECONNREFUSED: "nobody listens there: check the port, or start the server",
        errno.ENETUNREACH: "there is no route to that network",
        errno.EHOSTUNREACH: "the host cannot be reached",
        errno.ENOTCONN: "the server closed the connection at once: it may be full, or stopping",
        errno.ECONNRESET: "the server closed the connection at once: it may be full, or stopping",
    }
    if error is not None and _lacks_interface(endpoint, error):
        remedies[error.errno] = _NO_INTERFACE
    reason = "no address" if error is None else remedies.get(error.errno, error.strerror or str(error))
    return f"cannot connect to {endpoint.without_options()}: {reason}"
