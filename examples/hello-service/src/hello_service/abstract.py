"""A stream transport over sockets in Linux's abstract namespace: `abstract://name`.

What is special about a transport of stream sockets is how one gets a socket. The rest (reading, writing, back-pressure,
ends) is the kernel's socket driver, the same that tcp and unix stand on. A transport without sockets implements
`kernel.Connection` and `kernel.Listener` itself.
"""

from __future__ import annotations

import socket

from kernel import (
    Acceptor,
    Capabilities,
    Connection,
    DialError,
    Listener,
    SocketConnection,
    SocketListener,
    StartError,
    Transport,
    dial_socket,
)


class Abstract(Transport):
    """Sockets with a name and without a file, for processes of one machine (Linux)."""

    name = "abstract"
    example = "abstract://{unique}"

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=True)

    async def listen(self, accept: Acceptor) -> Listener:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(self._address)
            sock.listen()
        except OSError as error:
            sock.close()
            raise StartError(f"cannot listen on {self.endpoint}: {error.strerror}: take another name") from None
        return SocketListener(sock, self.endpoint, self._connection, accept)

    async def dial(self) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await dial_socket(sock, self._address)
        except OSError as error:
            raise DialError(f"cannot connect to {self.endpoint}: {error.strerror}: start the server") from None
        return self._connection(sock)

    @property
    def _address(self) -> str:
        return "\0" + self.endpoint.address

    def _connection(self, sock: socket.socket) -> Connection:
        return SocketConnection(sock, local=self.endpoint.address, peer=self.endpoint.address)
