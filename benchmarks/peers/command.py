"""The command line that the Python servers share."""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable

MESSAGE_BYTES_MAX = 64 * 1024 * 1024


def arguments(description: str) -> argparse.Namespace:
    """Read ADDRESS and `--loop`."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("address", help="tcp, udp or unix:PATH")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    return parser.parse_args()


def announce(address: str, port: int = 0) -> None:
    """Say where the server listens, for the harness to read."""
    print(address if address.startswith("unix:") else f"{address}://127.0.0.1:{port}", flush=True)


def announce_socket(address: str, bound: socket.socket) -> None:
    """The same, with the port of a bound socket."""
    announce(address, 0 if address.startswith("unix:") else bound.getsockname()[1])


def run(main: Callable[[str], Awaitable[None]], description: str) -> None:
    """Run `main(address)` in the loop that was asked for."""
    chosen = arguments(description)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if chosen.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(chosen.address))  # type: ignore[arg-type]


async def start(address: str, factory: Callable[[], asyncio.BaseProtocol]) -> None:
    """Serve an asyncio protocol on a stream address, for ever."""
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        server = await loop.create_unix_server(factory, address[5:], backlog=1024)
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1024)
    announce_socket(address, server.sockets[0])
    await server.serve_forever()
