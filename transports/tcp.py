"""TCP, IPv4 and IPv6. The kernel's socket driver does the work; here stand addresses, options and errors for people.

A host name is resolved once; of several addresses the first that works is taken when dialling. `[::]` is IPv6 only
unless `dual_stack=1`: who asks for one family gets one family.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Annotated, cast

from kernel.api import Acceptor, Capabilities, Connection, Listener, Transport
from kernel.endpoint import format_host_port
from kernel.errors import DialError, StartError
from kernel.options import Meta
from kernel.sockets import SocketConnection, SocketListener, dial_socket

from .addresses import cannot_dial, cannot_listen, is_loopback, resolve
from .binding import kept_if_bound
from .buffers import ReceiveBufferBytes, SendBufferBytes, set_buffers


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """`?key=value` of a tcp endpoint."""

    backlog: Annotated[int, Meta(ge=1, le=65535, description="connections that may wait to be accepted")] = 4096
    nodelay: Annotated[bool, Meta(description="send small writes at once (no Nagle)")] = True
    keepalive_seconds: Annotated[
        int, Meta(ge=0, le=7200, description="silence before the system probes the peer; 0: never")
    ] = 20
    reuse_port: Annotated[bool, Meta(description="several processes may listen on one port")] = False
    dual_stack: Annotated[bool, Meta(description="an IPv6 listener takes IPv4 too")] = False
    send_buffer_bytes: SendBufferBytes = 0
    receive_buffer_bytes: ReceiveBufferBytes = 0


class Tcp(Transport):
    """`tcp://host:port`."""

    name = "tcp"
    example = "tcp://127.0.0.1:0"
    Options = TcpOptions

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=is_loopback(self.endpoint))

    async def listen(self, accept: Acceptor) -> Listener:
        options = cast(TcpOptions, self.options)
        family, address = (await resolve(self.endpoint, socket.SOCK_STREAM, StartError))[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        with kept_if_bound(sock, lambda error: cannot_listen(self.endpoint, error)):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if options.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not options.dual_stack)
            # Before listen: accepted sockets inherit them, and the window scale with them.
            set_buffers(sock, options.send_buffer_bytes, options.receive_buffer_bytes)
            sock.bind(address)
            sock.listen(options.backlog)
            bound = self.endpoint.with_address(format_host_port(self.endpoint.host_port()[0], sock.getsockname()[1]))
            return SocketListener(sock, bound, self.connection, accept)

    async def dial(self) -> Connection:
        options = cast(TcpOptions, self.options)
        failure: OSError | None = None
        for family, address in await resolve(self.endpoint, socket.SOCK_STREAM, DialError):
            sock = socket.socket(family, socket.SOCK_STREAM)
            set_buffers(sock, options.send_buffer_bytes, options.receive_buffer_bytes)
            try:
                await dial_socket(sock, address)
                return self.connection(sock)
            except OSError as error:
                sock.close()
                failure = error
        raise DialError(cannot_dial(self.endpoint, failure))

    def connection(self, sock: socket.socket) -> Connection:
        """What becomes of a connected, non-blocking socket of this endpoint's."""
        options = cast(TcpOptions, self.options)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay)
        if options.keepalive_seconds:
            _keep_alive(sock, options.keepalive_seconds)
        local, peer = sock.getsockname(), sock.getpeername()
        return SocketConnection(sock, format_host_port(*local[:2]), format_host_port(*peer[:2]))


def _keep_alive(sock: socket.socket, idle_seconds: int) -> None:
    """Probe after `idle_seconds`, then 4 times in as long again: a vanished peer is noticed within twice that."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_seconds // 4))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000 * idle_seconds)
