"""WebSockets: `ws://host:port`, or around any other stream, `ws+tls+tcp://...`.

The protocol is the library's (websockets, without its I/O); sockets and their back-pressure are the kernel's. What is
here joins the two. With `framing=knl` the payloads of messages are one stream of bytes; with any other framing each
WebSocket message is a message.
"""

from __future__ import annotations

import dataclasses
import socket
from typing import Annotated, cast

from kernel import (
    Acceptor,
    Capabilities,
    Connection,
    DialError,
    Endpoint,
    Layer,
    Limits,
    Listener,
    Meta,
    SocketConnection,
    SocketListener,
    StartError,
    Transport,
    dial_socket,
    format_host_port,
)

from .connection import Manners, WebSocketConnection

__all__ = ["WebSocket", "WebSocketLayer", "WebSocketOptions"]


@dataclasses.dataclass(frozen=True)
class WebSocketOptions:
    """What stands behind the `?` of an endpoint."""

    framing: Annotated[str, Meta(description="knl: our protocol; raw: each WebSocket message is a message")] = "knl"
    message_bytes_max: Annotated[int, Meta(ge=125, description="longest WebSocket message")] = 1 << 20
    origins: Annotated[str, Meta(description="web pages that may connect, with commas; *: all; else only our own")] = ""
    page: Annotated[bool, Meta(description="a listener answers browsers with a page that talks to it")] = True


class WebSocketLayer(Layer):
    """WebSockets over another stream: `ws+tls+tcp://...`."""

    name = "ws"
    example = "ws+tcp://127.0.0.1:0"
    Options = WebSocketOptions

    def capabilities(self) -> Capabilities:
        return _capabilities(self.inner.capabilities(), self.options)

    async def listen(self, accept: Acceptor) -> Listener:
        return await self.inner.listen(lambda below: accept(_server(below, self.options)))

    async def dial(self) -> Connection:
        return _client(await self.inner.dial(), self.endpoint, self.options)


class WebSocket(Transport):
    """WebSockets over TCP: `ws://host:port`."""

    name = "ws"
    example = "ws://127.0.0.1:0"
    Options = WebSocketOptions

    def __init__(self, endpoint: Endpoint, options: object, limits: Limits) -> None:
        super().__init__(endpoint, options, limits)
        endpoint.host_port()  # what is wrong with the address is said at once

    def capabilities(self) -> Capabilities:
        host, _ = self.endpoint.host_port()
        is_local = host in ("localhost", "::1") or host.startswith("127.")
        return _capabilities(Capabilities(local_only=is_local), self.options)

    async def listen(self, accept: Acceptor) -> Listener:
        try:
            sock = socket.create_server(self.endpoint.host_port(), family=self._family, backlog=100)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StartError(f"cannot listen on {self.endpoint}: {reason}: take another address") from None
        sock.setblocking(False)
        bound = format_host_port(self.endpoint.host_port()[0], sock.getsockname()[1])
        return SocketListener(
            sock, self.endpoint.with_address(bound), lambda taken: _server(_below(taken), self.options), accept
        )

    async def dial(self) -> Connection:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            await dial_socket(sock, self.endpoint.host_port())
            return _client(_below(sock), self.endpoint, self.options)
        except (OSError, UnicodeError) as error:
            sock.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise DialError(f"cannot connect to {self.endpoint}: {reason}: is the server there?") from None

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.endpoint.host_port()[0] else socket.AF_INET


def _below(sock: socket.socket) -> Connection:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return SocketConnection(sock, format_host_port(*sock.getsockname()[:2]), format_host_port(*sock.getpeername()[:2]))


def _capabilities(below: Capabilities, options: object) -> Capabilities:
    manners = _manners(options)
    return dataclasses.replace(
        below,
        half_close=False,
        preserves_messages=manners.keeps_messages,
        message_bytes_max=manners.message_bytes_max if manners.keeps_messages else None,
    )


def _manners(options: object) -> Manners:
    given = cast(WebSocketOptions, options)
    origins = tuple(filter(None, given.origins.split(",")))
    return Manners(given.framing != "knl", given.message_bytes_max, origins, given.page)


def _server(below: Connection, options: object) -> Connection:
    return WebSocketConnection(below, _manners(options), host="")


def _client(below: Connection, endpoint: Endpoint, options: object) -> Connection:
    is_path = "/" in endpoint.address or endpoint.address.startswith("@")
    return WebSocketConnection(below, _manners(options), host="localhost" if is_path else endpoint.address)
