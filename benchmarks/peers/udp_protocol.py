"""Datagram echo with `asyncio.DatagramProtocol`. Run it on either loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from benchmarks.peers import command


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sendto = transport.sendto  # type: ignore[attr-defined]

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.sendto(data, source)


async def main(address: str) -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    bound.bind(("127.0.0.1", 0))
    bound.setblocking(False)
    await asyncio.get_running_loop().create_datagram_endpoint(DatagramEcho, sock=bound)
    command.announce_socket(address, bound)
    await asyncio.Event().wait()


if __name__ == "__main__":
    command.run(main, __doc__ or "")
