"""Echo on a pyzmq ROUTER socket: blocking calls in one thread, the fastest way that pyzmq offers."""

from __future__ import annotations

import zmq

from benchmarks.peers import command


def main() -> None:
    address = command.arguments(__doc__ or "").address
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.set_hwm(0)
    if address.startswith("unix:"):
        socket.bind(f"ipc://{address[5:]}")
        command.announce(address)
    else:
        command.announce(address, socket.bind_to_random_port("tcp://127.0.0.1"))
    receive, send = socket.recv_multipart, socket.send_multipart
    while True:
        send(receive())


if __name__ == "__main__":
    main()
