"""Echo on a pynng Rep0 socket: blocking calls in one thread, the fastest way that pynng offers."""

from __future__ import annotations

import pynng

from benchmarks.peers import command


def main() -> None:
    address = command.arguments(__doc__ or "").address
    with pynng.Rep0(recv_max_size=0) as rep:
        if address.startswith("unix:"):
            rep.listen(f"ipc://{address[5:]}")
            command.announce(address)
        else:
            listener = rep.listen("tcp://127.0.0.1:0")
            command.announce(address, int(str(listener.local_address).rpartition(":")[2]))
        receive, send = rep.recv, rep.send
        while True:
            send(receive())


if __name__ == "__main__":
    main()
