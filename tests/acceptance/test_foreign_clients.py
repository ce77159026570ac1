"""Clients written from docs/protocol.md and docs/protocol-datagrams.md alone, with nothing of the kernel's own code.

They stand for somebody who implements the protocols in another language: what the pages do not say, they do not know.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections import deque
from collections.abc import Iterator

import pytest
from acceptance.conftest import Serve

MIB = 1024 * 1024
GUARD_SECONDS = 60

DATA, HELLO, OPEN, ACCEPT, RESET, CREDIT, PING, PONG, GOAWAY = 0, 1, 3, 4, 5, 6, 7, 8, 9
MORE, FIN, CHECKSUM, IGNORABLE, BEGIN = 1, 2, 4, 8, 16
NO_SUCH_SERVICE = 7


class StreamClient:
    """KNL/1 over TCP: preface, HELLO, channels, credit, long messages, ping.

    Frames come out of `frames` in order; credit is kept on the way, and given back as soon as data comes.
    """

    window = 4 * MIB

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS)
        self.unread = bytearray()
        self.credit: dict[int, int] = {}
        self.frames: deque[tuple[int, int, int, bytes]] = deque()
        fields = {1: (64 * 1024, 4), 2: (self.window, 4), 3: (self.window, 4)}
        packed = b"".join(struct.pack(">HH", key, size) + n.to_bytes(size, "big") for key, (n, size) in fields.items())
        self.socket.sendall(bytes.fromhex("004b4e4c01000000") + self.frame(HELLO, CHECKSUM, 0, packed))
        assert self.read(8)[:5] == bytes.fromhex("004b4e4c01")
        kind, _, _, payload = self.read_frame()
        assert kind == HELLO
        self.hello = self.fields(payload)
        self.credit[0] = self.hello[3]

    @staticmethod
    def frame(kind: int, flags: int, channel: int, payload: bytes) -> bytes:
        start = struct.pack(">BBHII", 1, kind, flags, channel, len(payload))
        crc = zlib.crc32(start)
        if flags & CHECKSUM:
            crc = zlib.crc32(payload, crc)
        return start + struct.pack(">I", crc) + payload

    @staticmethod
    def fields(payload: bytes) -> dict[int, int]:
        found: dict[int, int] = {}
        while payload:
            key, size = struct.unpack_from(">HH", payload)
            found[key] = int.from_bytes(payload[4 : 4 + size], "big")
            payload = payload[4 + size :]
        return found

    def read(self, size: int) -> bytes:
        while len(self.unread) < size:
            received = self.socket.recv(MIB)
            assert received, "the server has closed the connection"
            self.unread += received
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken

    def read_frame(self) -> tuple[int, int, int, bytes]:
        start = self.read(16)
        version, kind, flags, channel, size, crc = struct.unpack(">BBHIII", start)
        payload = self.read(size)
        assert version == 1
        assert crc == zlib.crc32(payload if flags & CHECKSUM else b"", zlib.crc32(start[:12]))
        return kind, flags, channel, payload

    def pump(self) -> None:
        """Take in one frame: CREDIT is counted, DATA is paid for, the rest waits to be looked at."""
        kind, flags, channel, payload = self.read_frame()
        if kind == CREDIT:
            self.credit[channel] += int.from_bytes(payload, "big")
            return
        if kind == DATA and not flags & FIN:
            back = struct.pack(">I", 16 + len(payload))
            self.send(CREDIT, CHECKSUM, channel, back)
            self.send(CREDIT, CHECKSUM, 0, back)
        self.frames.append((kind, flags, channel, payload))

    def next(self, kind: int, channel: int) -> tuple[int, bytes]:
        """The next frame of that type and channel: its flags and payload. Others stay."""
        while True:
            for index, (frame_kind, flags, frame_channel, payload) in enumerate(self.frames):
                if (frame_kind, frame_channel) == (kind, channel):
                    del self.frames[index]
                    return flags, payload
            self.pump()

    def send(self, kind: int, flags: int, channel: int, payload: bytes = b"") -> None:
        self.socket.sendall(self.frame(kind, flags, channel, payload))

    def data(self, channel: int, flags: int, payload: bytes) -> None:
        """Send DATA as soon as it can be paid for."""
        cost = 0 if flags & FIN else 16 + len(payload)
        while self.credit[channel] < cost or self.credit[0] < cost:
            self.pump()
        self.credit[channel] -= cost
        self.credit[0] -= cost
        self.send(DATA, flags, channel, payload)

    def open(self, channel: int, service: bytes) -> None:
        self.credit[channel] = self.hello[2]
        self.send(OPEN, CHECKSUM, channel, struct.pack(">HH", 1, len(service)) + service)

    def long_message(self, channel: int, size: int) -> Iterator[int]:
        """Send a message of zeros in frames; yields after each how much has left."""
        room = min(self.hello[1], self.hello[2] // 2 - 16, self.hello[3] // 2 - 16)
        self.data(channel, BEGIN | MORE, struct.pack(">Q", size) + bytes(room - 8))
        sent = room - 8
        while sent < size:
            yield sent
            part = min(room, size - sent)
            sent += part
            self.data(channel, MORE if sent < size else 0, bytes(part))

    def drop_data(self, channel: int) -> int:
        """Forget the DATA that has come on a channel; how many bytes of a long message of zeros that was."""
        kept: deque[tuple[int, int, int, bytes]] = deque()
        dropped = 0
        for frame in self.frames:
            kind, flags, frame_channel, payload = frame
            if (kind, frame_channel) != (DATA, channel):
                kept.append(frame)
                continue
            body = payload[8:] if flags & BEGIN else payload
            assert body == bytes(len(body))
            dropped += len(body)
        self.frames = kept
        return dropped


@pytest.fixture
def client(serve: Serve) -> Iterator[StreamClient]:
    server = serve("tcp://127.0.0.1:0")
    client = StreamClient(int(server.endpoints[0].rpartition(":")[2]))
    yield client
    client.socket.close()


def test_a_stream_client_from_the_page_alone_holds_a_conversation(client: StreamClient) -> None:
    client.open(1, b"echo")
    client.data(1, 0, b"hello")
    client.data(1, 0, b"")
    client.next(ACCEPT, 1)
    assert client.next(DATA, 1) == (0, b"hello")
    assert client.next(DATA, 1) == (0, b"")

    client.open(3, b"nobody")
    _, reset = client.next(RESET, 3)
    assert struct.unpack_from(">H", reset) == (NO_SUCH_SERVICE,)

    client.send(200, IGNORABLE | CHECKSUM, 0, b"from a later version")
    client.send(PING, CHECKSUM, 0, b"there?")
    assert client.next(PONG, 0)[1] == b"there?"

    client.data(1, FIN, b"")
    assert client.next(DATA, 1) == (FIN, b"")
    client.send(GOAWAY, CHECKSUM, 0, bytes(6))
    client.socket.shutdown(socket.SHUT_WR)
    assert client.socket.recv(1) == b""


@pytest.mark.parametrize("size", [12 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.long)])
def test_a_ping_and_a_short_message_get_through_in_the_middle_of_a_long_one(client: StreamClient, size: int) -> None:
    """Both ways: while half of it has left, the echo of that half is on its way back, and the rest is still to come."""
    client.open(1, b"echo")
    client.open(3, b"echo")
    got = 0
    asked = False
    for sent in client.long_message(1, size):
        if sent > size // 2 and not asked:
            asked = True
            client.send(PING, CHECKSUM, 0, b"halfway")
            client.data(3, 0, b"a chat line")
            assert client.next(PONG, 0)[1] == b"halfway"
            assert client.next(DATA, 3) == (0, b"a chat line")
        got += client.drop_data(1)
    while got < size:
        client.pump()
        got += client.drop_data(1)
    assert asked
    assert got == size


class DatagramClient:
    """KNL over datagrams: the handshake with its cookie, messages in fragments, the end."""

    def __init__(self, port: int, service: bytes) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(GUARD_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.send(1, bytes(72))
        cookie = self.receive(0x82)[1]
        fields = struct.pack(">HH", 1, len(service)) + service
        fields += (
            struct.pack(">HHI", 2, 4, MIB) + struct.pack(">HHH", 3, 2, 1200) + struct.pack(">HHI", 4, 4, 128 * 1024)
        )
        self.send(3, cookie + fields)

    def packet(self, kind: int, payload: bytes, number: int, index: int, count: int, size: int) -> bytes:
        start = struct.pack(">HBBQIHHI", 0x4B55, 1, kind, 0x0123456789ABCDEF, number, index, count, size)
        return start + payload

    def send(self, kind: int, payload: bytes, number: int = 0) -> None:
        self.socket.send(self.packet(kind, payload, number, 0, 1, len(payload)))

    def message(self, number: int, message: bytes) -> None:
        count = max(-(-len(message) // 1176), 1)
        step = -(-len(message) // count)
        for index in range(count):
            fragment = message[index * step : (index + 1) * step]
            self.socket.send(self.packet(6, fragment, number, index, count, len(message)))

    def receive(self, kind: int) -> tuple[tuple[int, int, int, int], bytes]:
        """The next packet of that kind: number, index, count and length of its message, and its payload."""
        while True:
            packet = self.socket.recv(65_535)
            magic, version, found, connection, *place = struct.unpack_from(">HBBQIHHI", packet)
            assert (magic, version, connection) == (0x4B55, 1, 0x0123456789ABCDEF)
            if found == kind:
                number, index, count, size = place
                return (number, index, count, size), packet[24:]


def test_a_datagram_client_from_the_page_alone_holds_a_conversation(serve: Serve) -> None:
    server = serve("udp://127.0.0.1:0")
    port = int(server.endpoints[0].rpartition(":")[2])
    client = DatagramClient(port, b"echo")
    with client.socket:
        client.receive(0x84)
        client.message(0, b"hello")
        assert client.receive(0x86) == ((0, 0, 1, 5), b"hello")

        long = bytes(range(256)) * 40
        client.message(1, long)
        fragments: dict[int, bytes] = {}
        count = 1
        while len(fragments) < count:
            (number, index, count, size), fragments[index] = client.receive(0x86)
            assert (number, size) == (1, len(long))
        assert b"".join(fragments[index] for index in range(count)) == long

        client.send(8, b"there?", 7)
        assert client.receive(0x89) == ((7, 0, 1, 6), b"there?")
        client.send(10, struct.pack(">I", 2))
        assert client.receive(0x8B)[1][:4] == struct.pack(">I", 2)
        assert client.receive(0x8A)[1][:4] == struct.pack(">I", 2)
        client.send(13, bytes(2))

    client = DatagramClient(port, b"nobody")
    with client.socket:
        assert struct.unpack_from(">H", client.receive(0x85)[1]) == (NO_SUCH_SERVICE,)
