"""Over TLS: length-framed echo, a sink, or a source of bytes; as a Protocol or on streams, for either loop."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from benchmarks.peers.asyncio_protocol import LengthEcho
from benchmarks.peers.asyncio_streams import serve as echo_stream
from benchmarks.peers.command import announce_socket

PIECE = bytes(64 * 1024)


class Sink(asyncio.BufferedProtocol):
    """Takes what comes, in the way that copies least."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(256 * 1024))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        pass


class Source(asyncio.Protocol):
    """Sends for as long as there is room; now and then the loop has its turn, and tells of a client that is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        self.is_gone = False
        self.resume_writing()

    def fill(self) -> None:
        for _ in range(16):
            if self.has_room and not self.is_gone:
                self.transport.write(PIECE)
        if self.has_room and not self.is_gone:
            self.loop.call_soon(self.fill)

    def pause_writing(self) -> None:
        self.has_room = False

    def resume_writing(self) -> None:
        self.has_room = True
        self.loop.call_soon(self.fill)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True


async def sink_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(len(PIECE)):
            pass
    except ConnectionError:
        writer.close()


async def source_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while not writer.is_closing():
            writer.write(PIECE)
            await writer.drain()
            await asyncio.sleep(0)  # drain alone starves the loop while there is room
    except ConnectionError:
        pass
    writer.close()


PROTOCOLS: dict[str, Callable[[], asyncio.BaseProtocol]] = {"echo": LengthEcho, "sink": Sink, "source": Source}
STREAMS: dict[str, Any] = {"echo": echo_stream, "sink": sink_stream, "source": source_stream}


async def serve(style: str, task: str, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server: asyncio.Server
    if style == "streams":
        server = await asyncio.start_server(STREAMS[task], "127.0.0.1", 0, ssl=context, limit=1024 * 1024)
    else:
        server = await loop.create_server(PROTOCOLS[task], "127.0.0.1", 0, ssl=context)
    announce_socket("tcp", server.sockets[0])
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("style", choices=["protocol", "streams"])
    parser.add_argument("task", choices=sorted(PROTOCOLS))
    parser.add_argument("certificate", help="PEM file, with the key")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    chosen = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if chosen.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(chosen.style, chosen.task, chosen.certificate))


if __name__ == "__main__":
    main()
