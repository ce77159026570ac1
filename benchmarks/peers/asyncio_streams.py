"""Length-framed echo on asyncio streams: one task a connection, `readexactly` twice a message."""

from __future__ import annotations

import asyncio

from benchmarks.peers import command


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            header = await reader.readexactly(4)
            message = await reader.readexactly(int.from_bytes(header))
            writer.write(header + message)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(address: str) -> None:
    limit = 1024 * 1024
    if address.startswith("unix:"):
        server = await asyncio.start_unix_server(serve, address[5:], limit=limit, backlog=1024)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=limit, backlog=1024)
    command.announce_socket(address, server.sockets[0])
    await server.serve_forever()


if __name__ == "__main__":
    command.run(main, __doc__ or "")
