"""TCP, IPv4 and IPv6. The kernel's socket driver does the work; here stand addresses, options and errors for people.

A host name is resolved once; of several addresses the first that works is taken when dialling. `[::]` is IPv6 only
unless `dual_stack=1`: who asks for one family gets one family.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Annotated, cast

from kernel.api import Acceptor, Capabilities, Connection, Listener, Transport
from kernel.endpoint import Endpoint, format_host_port
from kernel.errors import DialError, StartError
from kernel.options import Meta
from kernel.sockets import SocketConnection, SocketListener, dial_socket

_Bytes = Annotated[int, Meta(ge=0, description="0: the system's own choice")]


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """`?key=value` of a tcp endpoint."""

    backlog: Annotated[int, Meta(ge=1, le=65535, description="connections that may wait to be accepted")] = 1024
    nodelay: Annotated[bool, Meta(description="send small writes at once (no Nagle)")] = True
    keepalive_seconds: Annotated[
        int, Meta(ge=0, le=7200, description="silence before the system probes the peer; 0: never")
    ] = 20
    reuse_port: Annotated[bool, Meta(description="several processes may listen on one port")] = False
    dual_stack: Annotated[bool, Meta(description="an IPv6 listener takes IPv4 too")] = False
    send_buffer_bytes: Annotated[int, Meta(ge=0, description="SO_SNDBUF; 0: the system's own choice")] = 0
    receive_buffer_bytes: Annotated[int, Meta(ge=0, description="SO_RCVBUF; 0: the system's own choice")] = 0


class Tcp(Transport):
    """`tcp://host:port`."""

    name = "tcp"
    Options = TcpOptions

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=_is_loopback(self.endpoint.host_port()[0]))

    async def listen(self, accept: Acceptor) -> Listener:
        options = cast(TcpOptions, self.options)
        host, port = self.endpoint.host_port()
        family, _, _, _, address = (await _resolve(self.endpoint, host, port, StartError))[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if options.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not options.dual_stack)
            _set_buffers(sock, options)  # before listen: accepted sockets inherit them, and the window scale with them
            sock.bind(address)
            sock.listen(options.backlog)
        except OSError as error:
            sock.close()
            raise StartError(_cannot_listen(self.endpoint, error)) from None
        bound = self.endpoint.with_address(format_host_port(host, sock.getsockname()[1]))
        return SocketListener(sock, bound, self._connection, accept)

    async def dial(self) -> Connection:
        host, port = self.endpoint.host_port()
        failure: OSError | None = None
        for family, _, _, _, address in await _resolve(self.endpoint, host, port, DialError):
            sock = socket.socket(family, socket.SOCK_STREAM)
            _set_buffers(sock, cast(TcpOptions, self.options))
            try:
                await dial_socket(sock, address)
                return self._connection(sock)
            except OSError as error:
                failure = error
        raise DialError(_cannot_dial(self.endpoint, failure))

    def _connection(self, sock: socket.socket) -> Connection:
        options = cast(TcpOptions, self.options)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay)
        if options.keepalive_seconds:
            _keep_alive(sock, options.keepalive_seconds)
        local, peer = sock.getsockname(), sock.getpeername()
        return SocketConnection(sock, format_host_port(*local[:2]), format_host_port(*peer[:2]))


def _set_buffers(sock: socket.socket, options: TcpOptions) -> None:
    if options.send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer_bytes)
    if options.receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer_bytes)


def _keep_alive(sock: socket.socket, idle_seconds: int) -> None:
    """Probe after `idle_seconds`, then 4 times in as long again: a vanished peer is noticed within twice that."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_seconds // 4))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000 * idle_seconds)


async def _resolve(
    endpoint: Endpoint, host: str, port: int, failure: type[Exception]
) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    flags = socket.AI_NUMERICSERV
    with contextlib.suppress(socket.gaierror):  # a literal address needs no thread and no resolver
        return socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICHOST)  # type: ignore[return-value]
    try:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)  # type: ignore[return-value]
    except socket.gaierror as error:
        raise failure(f"{endpoint.without_options()}: the host '{host}' is not known ({error.strerror})") from None


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _cannot_listen(endpoint: Endpoint, error: OSError) -> str:
    remedies: dict[int | None, str] = {
        errno.EADDRINUSE: "the port is busy: stop what listens there, take another port, or port 0 for a free one",
        errno.EACCES: "ports below 1024 need privileges: take a port from 1024 on",
        errno.EADDRNOTAVAIL: "this machine has no such address: use 127.0.0.1, [::1], or one that `ip addr` shows",
    }
    return f"cannot listen on {endpoint.without_options()}: {remedies.get(error.errno, error.strerror)}"


def _cannot_dial(endpoint: Endpoint, error: OSError | None) -> str:
    remedies: dict[int | None, str] = {
        errno.ECONNREFUSED: "nobody listens there: check the port, or start the server",
        errno.ENETUNREACH: "there is no route to that network",
        errno.EHOSTUNREACH: "the host cannot be reached",
    }
    reason = "no address" if error is None else remedies.get(error.errno, error.strerror or str(error))
    return f"cannot connect to {endpoint.without_options()}: {reason}"
