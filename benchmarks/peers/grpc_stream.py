"""Echo on grpcio: one bidirectional stream of raw bytes, in the synchronous server (the faster of its two)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.peers import command


def echo(messages: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
    return messages


def main() -> None:
    address = command.arguments(__doc__ or "").address
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(128), options=options)
    method = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Echo", {"Echo": method})])
    place = address if address.startswith("unix:") else "127.0.0.1:0"
    port = server.add_insecure_port(place)
    server.start()
    command.announce(address, port)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
