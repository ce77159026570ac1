"""`fd://3`: a stream socket that this process inherited, from systemd (LISTEN_FDS), a supervisor or a parent.

What the socket is decides what is made of it: the transport of its family (tcp, unix) takes it over, with that
transport's defaults, and its own kind of endpoint is what a client dials. A listening socket is listened on, a
connected one dialled. Whoever made a socket file removes it, so a listener leaves it where it is.
"""

from __future__ import annotations

import errno
import os
import socket

from kernel.api import Acceptor, Capabilities, Connection, Listener, Transport
from kernel.endpoint import Endpoint, format_host_port
from kernel.errors import DialError, EndpointError, StartError
from kernel.sockets import SocketListener

from .tcp import Tcp
from .unix import Unix

_INTERNET = (socket.AF_INET, socket.AF_INET6)


class Fd(Transport):
    """`fd://NUMBER`."""

    name = "fd"

    def capabilities(self) -> Capabilities:
        with self._inherited() as sock:
            return self._family(sock).capabilities()

    async def listen(self, accept: Acceptor) -> Listener:
        sock = self._inherited()
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.close()
            raise StartError(f"cannot listen on {self.endpoint.without_options()}: this socket does not listen")
        family = self._family(sock)
        sock.setblocking(False)
        os.close(self._number())
        return SocketListener(sock, family.endpoint, family.connection, accept)

    async def dial(self) -> Connection:
        sock = self._inherited()
        family = self._family(sock)
        try:
            sock.getpeername()
            sock.setblocking(False)
            connection = family.connection(sock)
        except OSError as error:
            sock.close()
            where = self.endpoint.without_options()
            raise DialError(f"cannot connect to {where}: this socket is not connected ({error.strerror})") from None
        os.close(self._number())
        return connection

    def _number(self) -> int:
        address = self.endpoint.address
        if not address.isascii() or not address.isdecimal():
            raise EndpointError(f"'{self.endpoint}' needs the number of an inherited descriptor, for example fd://3")
        return int(address)

    def _inherited(self) -> socket.socket:
        """A copy of the descriptor, closed on exec like all of ours; the original is untouched until it is taken over.

        Raises:
            StartError: there is no such descriptor, or it is no stream socket that we know.
        """
        where = self.endpoint.without_options()
        try:
            sock = socket.socket(fileno=os.dup(self._number()))
        except OSError as error:
            reason = "no such descriptor was inherited" if error.errno == errno.EBADF else error.strerror
            raise StartError(f"cannot use {where}: {reason}") from None
        if sock.type != socket.SOCK_STREAM or sock.family not in (*_INTERNET, socket.AF_UNIX):
            kind = f"{socket.AddressFamily(sock.family).name} {socket.SocketKind(sock.type).name}"
            sock.close()
            raise StartError(f"cannot use {where}: it is {kind}, and must be a stream socket of TCP or AF_UNIX")
        return sock

    def _family(self, sock: socket.socket) -> Tcp | Unix:
        """The transport of the socket's family, for the endpoint that the socket is bound to."""
        name = sock.getsockname()
        if sock.family in _INTERNET:
            endpoint = Endpoint("tcp", format_host_port(*name[:2]), self.endpoint.options)
            return Tcp(endpoint, Tcp.Options(), self.limits)
        path = os.fsdecode(name)
        endpoint = Endpoint("unix", "@" + path[1:] if path.startswith("\0") else path, self.endpoint.options)
        return Unix(endpoint, Unix.Options(), self.limits)
