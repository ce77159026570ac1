"""docs/protocol-datagrams.md shows a conversation packet by packet; here it takes place."""

import re
from pathlib import Path

import pytest

from kernel.datagram import packets
from kernel.datagram.gate import DatagramGate
from kernel.datagram.packets import Kind
from kernel.errors import Code
from kernel.framing import engine, knl
from kernel.limits import Limits
from kernel.session import base
from kernel.session.datagram import DatagramSession

TEXT = (Path(__file__).parents[2] / "docs" / "protocol-datagrams.md").read_text()
VECTORS = TEXT[TEXT.index("## Vectors") :]
BLOCKS = [block for block in VECTORS.split("\n\n") if block.startswith("    ")]
CONNECTION = 0x0102030405060708


def read_block(number: int) -> list[bytes]:
    """The packets of a block; each starts with the magic number."""
    found = re.sub(r"\s", "", BLOCKS[number])
    return [bytes.fromhex("4b5501" + rest) for rest in found.split("4b5501")[1:]]


(INIT, COOKIE), (CONNECT, ACCEPT), (HELLO, ECHO), PINGS, ENDS, (REFUSE,), FRAGMENTS, (LATE_PING, LATE_CLOSE) = (
    read_block(number) for number in range(8)
)


def sent(session: DatagramSession) -> list[bytes]:
    return [bytes(packet) for packet in session.data_to_send(1 << 20)]


def make_sessions() -> tuple[DatagramSession, DatagramSession]:
    """Both ends, after the handshake as it is shown."""
    client = DatagramSession(client=True, limits=Limits(), connection=CONNECTION)
    server = DatagramSession(client=False, limits=Limits())
    client.started()
    server.started()
    assert sent(client) == [INIT]
    client.messages([COOKIE])
    client.open("echo")
    assert sent(client) == [CONNECT]
    requested = server.messages([CONNECT])[-1]
    assert isinstance(requested, base.OpenRequested)
    assert requested.stream.service == "echo"
    server.accept(requested.stream)
    assert sent(server) == [ACCEPT]
    client.messages([ACCEPT])
    return client, server


def test_the_conversation():
    client, server = make_sessions()
    ours, theirs = client.streams[0], server.streams[0]
    client.send(ours, b"hello")
    assert sent(client) == [HELLO]
    assert server.messages([HELLO])[0].messages == [b"hello"]
    server.send(theirs, b"hello")
    assert sent(server) == [ECHO]
    assert client.messages([ECHO])[0].messages == [b"hello"]
    client.ping(b"are you ")
    ping, *answers = PINGS
    assert sent(client) == [ping]
    server.consumed(theirs, theirs.held_bytes)
    server.messages([ping])
    assert sent(server) == answers
    assert [type(event) for event in client.messages(answers)] == [base.Pong]
    finish, *finishes, close = ENDS
    client.finish(ours)
    assert sent(client) == [finish]
    server.messages([finish])
    server.finish(theirs)
    assert sent(server) == finishes
    assert client.messages(finishes)[-1] == base.Ended(Code.OK, "", by_peer=False)
    assert sent(client) == [close]
    assert server.messages([close])[-1] == base.Ended(Code.OK, "", by_peer=True)


def test_the_gate_answers_as_shown():
    gate = DatagramGate(1)
    reply, _ = gate.admit(INIT, b"source", 0.0)
    assert reply is not None
    assert reply[:24] == COOKIE[:24]
    assert len(reply) == len(COOKIE)
    assert gate.admit(LATE_PING, b"source", 0.0) == (LATE_CLOSE, False)


def test_the_refusal():
    client = DatagramSession(client=True, limits=Limits(), connection=CONNECTION)
    client.started()
    client.messages([COOKIE])
    client.open("chess")
    assert client.messages([REFUSE])[-1] == base.Ended(Code.NO_SUCH_SERVICE, "no", by_peer=True)


def test_the_fragments():
    assert engine().pack_fragments(Kind.DATA, CONNECTION, 1, b"abcde", 27) == FRAGMENTS
    _, server = make_sessions()
    assert server.messages(FRAGMENTS[::-1])[0].messages == [b"abcde"]


@pytest.mark.parametrize("kind", Kind)
def test_the_table_of_kinds_is_complete(kind: Kind):
    assert re.search(rf"^\| {kind:d} \| {kind.name} \|", TEXT, re.M)


def test_the_sizes_are_those_of_the_program():
    assert f"MUST have at least {packets.INIT_BYTES_MIN} bytes" in TEXT
    assert f"0 to {packets.MESSAGE_BYTES_MAX:,} bytes" in TEXT
    assert f"a cookie of {packets.COOKIE_BYTES} bytes" in TEXT
    assert f"up to {packets.PING_BYTES_MAX} bytes" in TEXT
    assert f"at most {packets.REASON_BYTES_MAX} bytes" in TEXT
    assert f"at most {packets.SERVICE_BYTES_MAX} bytes" in TEXT
    assert f"{packets.PACKET_BYTES_MIN} to {packets.PACKET_BYTES_MAX:,}" in TEXT
    assert f"a header of {knl.PACKET_HEADER_BYTES} bytes" in TEXT
