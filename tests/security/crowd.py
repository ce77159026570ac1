"""Crowds of strangers: thousands of plain sockets at once, and what they cost the server process that they attack.

Sockets here block, with a time-out: who waits for a server in a process of its own needs no event loop. Attacks that go
on while something else is measured run as a program: `python crowd.py slow|empty HOST PORT COUNT`.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GUARD_SECONDS = 60.0
PREFACE = bytes.fromhex("004b4e4c01000000")
Address = tuple[str, int]


def address_of(endpoint: str) -> Address:
    """Of `tcp://127.0.0.1:7000?...`."""
    host, _, port = endpoint.partition("://")[2].partition("?")[0].rpartition(":")
    return host, int(port)


def resident_bytes(pid: int) -> int:
    """The memory that a process really has."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors' time so far."""
    import os

    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], bool], guard_seconds: float = GUARD_SECONDS) -> float:
    """Wait for something that tells nobody when it happens; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > guard_seconds:
            raise TimeoutError(f"not within {guard_seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - began


class Crowd:
    """Many connections to one address.

    Args:
        address: where to.
        kind: SOCK_STREAM.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sockets: list[socket.socket] = []

    def come(self, count: int, say: bytes = b"") -> None:
        """Connect so many more, each of which says something at once."""
        for _ in range(count):
            sock = socket.create_connection(self.address, timeout=GUARD_SECONDS)
            if say:
                sock.sendall(say)
            self.sockets.append(sock)

    def say(self, said: bytes) -> None:
        """All of them."""
        for sock in self.sockets:
            sock.sendall(said)

    def hear(self, nbytes: int) -> None:
        """Each of them reads exactly so much."""
        for sock in self.sockets:
            if len(read(sock, nbytes)) < nbytes:
                raise ConnectionError("the server hung up")

    def hear_something(self) -> None:
        """Each of them has got at least a byte, which stays unread."""
        for sock in self.sockets:
            if not sock.recv(1, socket.MSG_PEEK):
                raise ConnectionError("the server hung up")

    @property
    def gone(self) -> int:
        """From how many the server has hung up; what it said before is read."""
        count = 0
        for sock in self.sockets:
            sock.setblocking(False)
            try:
                while sock.recv(65536):
                    pass
                count += 1
            except BlockingIOError:
                pass
            except OSError:
                count += 1
        return count

    def leave(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def read(sock: socket.socket, nbytes: int) -> bytes:
    """Exactly so many bytes, or fewer when the connection ends."""
    received = b""
    while len(received) < nbytes and (more := sock.recv(nbytes - len(received))):
        received += more
    return received


def frame(sock: socket.socket) -> tuple[int, bytes]:
    """The next KNL/1 frame: its type and its payload."""
    _, kind, _, _, length, _ = struct.unpack(">BBHIII", read(sock, 16))
    return kind, read(sock, length)


def greeting_bytes(address: Address) -> int:
    """How long the server's preface and HELLO are: the same for everybody."""
    with socket.create_connection(address, timeout=GUARD_SECONDS) as sock:
        read(sock, len(PREFACE))
        return len(PREFACE) + 16 + len(frame(sock)[1])


def client_hello() -> bytes:
    """The first flight of a TLS client that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


# --- datagrams -------------------------------------------------------------------------------------------------------

INIT, COOKIE, CONNECT, ACCEPT, _, DATA, _, PING, PONG = range(1, 10)


def packet(kind: int, connection: int, payload: bytes, sequence: int = 0, index: int = 0, **cut: int) -> bytes:
    """A packet of the datagram protocol; `count` fragments of a message of `length`."""
    count, length = cut.get("count", 1), cut.get("length", len(payload))
    return struct.pack(">HBBQIHHI", 0x4B55, 1, kind, connection, sequence, index, count, length) + payload


def ask(sock: socket.socket, said: bytes, answer: int) -> bytes:
    """The payload of the answer of this kind; what else comes is passed over. Asks again when it gets lost."""
    sock.settimeout(1.0)
    for _ in range(int(GUARD_SECONDS)):
        sock.send(said)
        try:
            while (heard := sock.recv(2048))[3] != answer | 0x80:
                pass
        except TimeoutError:
            continue
        return heard[24:]
    raise TimeoutError(f"no packet of kind {answer}")


def enter(sock: socket.socket, connection: int) -> None:
    """Up to an open channel to echo."""
    cookie = ask(sock, packet(INIT, connection, bytes(72)), COOKIE)
    fields = bytes.fromhex("000100046563686f 0002000400100000 0003000204b0 0004000400020000")
    ask(sock, packet(CONNECT, connection, cookie + fields), ACCEPT)


# --- attacks that go on beside what is measured ----------------------------------------------------------------------


def slow_headers(address: Address, count: int) -> Iterator[str]:
    """So many connections at a time, each of which sends its preface and HELLO a byte a second; who is dropped comes
    again. Yields a line when all are there, then never ends.
    """
    said = PREFACE + bytes.fromhex("01010004000000000000004000000000")
    selector = selectors.DefaultSelector()
    at: dict[socket.socket, int] = {}

    def come() -> None:
        sock = socket.create_connection(address, timeout=GUARD_SECONDS)
        sock.setblocking(False)
        at[sock] = 0
        selector.register(sock, selectors.EVENT_READ)

    def leave(sock: socket.socket) -> None:
        selector.unregister(sock)
        del at[sock]
        sock.close()

    for _ in range(count):
        come()
    yield f"{count} are there"
    while True:
        ends = time.monotonic() + 1.0
        step, due = count // 50 + 1, list(at)
        while (now := time.monotonic()) < ends:
            for sock in due[:step]:
                if sock in at:
                    try:
                        sock.send(said[at[sock] % len(said) :][:1])
                        at[sock] += 1
                    except OSError:
                        leave(sock)
            del due[:step]
            for key, _ in selector.select(min(0.02, ends - now)):
                sock = key.fileobj  # type: ignore[assignment]
                try:
                    if not sock.recv(4096):
                        leave(sock)
                except BlockingIOError:
                    pass
                except OSError:
                    leave(sock)
            while len(at) < count:
                come()


def empty_datagrams(address: Address, count: int) -> Iterator[str]:
    """So many datagrams without a byte, as fast as the system takes them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        yield "begins"
        for _ in range(count):
            sock.send(b"")
    yield "all sent"


ATTACKS = {"slow": slow_headers, "empty": empty_datagrams}

if __name__ == "__main__":
    _, name, host, port, number = sys.argv
    for told in ATTACKS[name]((host, int(port)), int(number)):
        print(told, flush=True)
