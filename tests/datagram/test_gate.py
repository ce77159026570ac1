"""The gate: no state and no gain for whoever has not answered from his address."""

import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st

from kernel.datagram import packets
from kernel.datagram.gate import SECRET_SECONDS, DatagramGate
from kernel.datagram.packets import Hello, Kind
from kernel.errors import Code
from kernel.framing import knl

HERE = b"192.0.2.1:5000"
ELSEWHERE = b"192.0.2.2:5000"
SEVEN = (7).to_bytes(8, "big")
HELLO = Hello("echo", 1 << 20, 1200, 1 << 17).pack()


@pytest.fixture
def gate() -> DatagramGate:
    return DatagramGate(closed_max=4)


def ask_cookie(gate: DatagramGate, connection: int = 7, source: bytes = HERE, now: float = 0.0) -> bytes:
    reply, admitted = gate.admit(packets.init(connection), source, now)
    assert reply is not None
    assert not admitted
    assert reply[3] == Kind.COOKIE | knl.FROM_SERVER
    assert packets.connection_of(reply) == connection
    return reply[knl.PACKET_HEADER_BYTES :]


def connect(cookie: bytes, connection: int = 7) -> bytes:
    return packets.control(Kind.CONNECT, connection, cookie + HELLO)


def farewell(code: Code, reason: str) -> bytes:
    return packets.control(Kind.CLOSE | knl.FROM_SERVER, 7, packets.pack_reason(code, reason))


def test_who_shows_the_cookie_of_his_address_is_admitted(gate: DatagramGate):
    cookie = ask_cookie(gate)
    assert gate.admit(connect(cookie), HERE, 0.1) == (None, True)


@pytest.mark.parametrize(
    ("connection", "source", "now"),
    [(7, ELSEWHERE, 0.0), (8, HERE, 0.0), (7, HERE, 2 * SECRET_SECONDS)],
    ids=["another source", "another connection", "too late"],
)
def test_a_cookie_is_good_for_one_source_one_connection_and_some_seconds(gate, connection, source, now):
    cookie = ask_cookie(gate)
    reply, admitted = gate.admit(connect(cookie, connection), source, now)
    assert not admitted
    assert reply is not None
    assert reply[3] == Kind.COOKIE | knl.FROM_SERVER, "the way in is to take a new one"
    assert gate.counters.bad_cookies == 1


def test_a_cookie_outlives_one_change_of_the_secret(gate: DatagramGate):
    gate.admit(packets.init(1), ELSEWHERE, 0.0)
    cookie = ask_cookie(gate, now=SECRET_SECONDS - 0.1)
    assert gate.admit(connect(cookie), HERE, 2 * SECRET_SECONDS - 0.1)[1]


def test_cookies_of_a_restarted_server_are_void(gate: DatagramGate):
    cookie = ask_cookie(gate)
    assert not DatagramGate(4).admit(connect(cookie), HERE, 0.0)[1]


@pytest.mark.parametrize("kind", [k for k in Kind if k not in (Kind.INIT, Kind.CONNECT)])
def test_only_a_connect_gets_in(gate: DatagramGate, kind: Kind):
    cookie = ask_cookie(gate)
    assert not gate.admit(packets.control(kind, 7, cookie + HELLO), HERE, 0.0)[1]


def test_foreign_and_empty_datagrams_are_counted(gate: DatagramGate):
    for datagram in (b"", b"hello", bytes(100)):
        assert gate.admit(datagram, HERE, 0.0) == (None, False)
    assert (gate.counters.empty, gate.counters.foreign) == (1, 2)


def test_an_unpadded_init_is_not_answered(gate: DatagramGate):
    short = packets.control(Kind.INIT, 7, bytes(packets.INIT_BYTES_MIN - knl.PACKET_HEADER_BYTES - 1))
    assert gate.admit(short, HERE, 0.0) == (None, False)
    assert gate.counters.malformed == 1


def headers() -> st.SearchStrategy[bytes]:
    """Packets that look like ours in as many fields as chance will have it."""
    return st.builds(
        lambda magic, version, kind, rest: magic + bytes([version, kind]) + rest,
        st.sampled_from([b"KU", b"UK"]),
        st.sampled_from([0, 1, 2, 255]),
        st.integers(0, 255),
        st.binary(max_size=200),
    )


@settings(max_examples=500)
@given(st.lists(st.tuples(st.binary(max_size=80) | headers(), st.sampled_from([HERE, ELSEWHERE])), max_size=20))
def test_nobody_gets_more_than_he_sent_and_nothing_is_remembered(sequence: list[tuple[bytes, bytes]]):
    gate = DatagramGate(closed_max=4)
    for packet, source in sequence:
        reply, admitted = gate.admit(packet, source, 0.0)
        assert not admitted
        assert reply is None or len(reply) <= len(packet)
        assert reply is None or reply[3] & knl.FROM_SERVER
    assert not gate._closed


@settings(max_examples=500)
@given(st.binary(max_size=80) | headers())
def test_an_answer_is_never_answered(packet: bytes):
    reply, _ = DatagramGate(4).admit(packet, HERE, 0.0)
    if reply is not None:
        assert DatagramGate(4).admit(reply, ELSEWHERE, 0.0) == (None, False)


def test_forged_sources_leave_nothing_behind(gate: DatagramGate):
    def flood(number: int) -> None:
        for n in range(number):
            gate.admit(packets.init(n), b"192.0.2.%d:%d" % (n % 250, n), n / 1000)

    flood(1000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    flood(100_000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert growth < 4096


def test_another_version_is_told_which_one_we_speak(gate: DatagramGate):
    packet = bytearray(packets.init(7))
    packet[2] = 9
    reply, _ = gate.admit(bytes(packet), HERE, 0.0)
    assert reply is not None
    assert reply[3] == Kind.REFUSE | knl.FROM_SERVER
    code, reason = packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :])
    assert code is Code.VERSION
    assert "version 1" in reason
    packet[3] = Kind.DATA
    assert gate.admit(bytes(packet), HERE, 0.0) == (None, False)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.PING, Kind.FINISH, Kind.RECEIPT])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 500])
def test_packets_of_no_connection_are_told_so_at_no_greater_length(gate: DatagramGate, kind: Kind, size: int):
    packet = packets.control(kind, 7, bytes(size))
    reply, admitted = gate.admit(packet, HERE, 0.0)
    assert not admitted
    if size < 2:
        assert reply is None
    else:
        assert reply is not None
        assert len(reply) <= len(packet)
        assert packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :])[0] is Code.LOST


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.REFUSE, Kind.PONG, Kind.FINISHED, 99])
def test_what_ends_something_is_not_answered(gate: DatagramGate, kind: int):
    assert gate.admit(packets.control(kind, 7, bytes(100)), HERE, 0.0) == (None, False)


def test_a_closed_connection_is_not_opened_by_a_late_copy_of_its_connect(gate: DatagramGate):
    cookie = ask_cookie(gate)
    gate.remember_closed(HERE, SEVEN, farewell(Code.FORBIDDEN, "not you"), 1.0)
    reply, admitted = gate.admit(connect(cookie), HERE, 2.0)
    assert not admitted
    assert reply is not None
    assert packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :]) == (Code.FORBIDDEN, "not you")
    assert gate.admit(connect(ask_cookie(gate, 8), 8), HERE, 2.0)[1], "only that one"


@pytest.mark.parametrize(
    ("last_packet", "code"),
    [(b"", Code.OVERLOADED), (packets.control(Kind.PONG, 7, bytes(8)), Code.LOST), (bytes(30), Code.LOST)],
    ids=["nothing", "a pong", "nothing of ours"],
)
def test_without_a_farewell_there_is_a_reason_too(gate: DatagramGate, last_packet: bytes, code: Code):
    gate.remember_closed(HERE, SEVEN, last_packet, 1.0)
    reply, _ = gate.admit(packets.control(Kind.DATA, 7, bytes(100)), HERE, 2.0)
    assert reply is not None
    assert packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :])[0] is code


def test_closed_connections_are_forgotten_with_their_cookies(gate: DatagramGate):
    gate.remember_closed(HERE, SEVEN, b"", 0.0)
    late = 2 * SECRET_SECONDS
    assert not gate.admit(connect(ask_cookie(gate, now=late - 1)), HERE, late - 1)[1], "it outlives any cookie"
    gate.admit(packets.control(Kind.PING, 9, bytes(8)), HERE, late)
    assert not gate._closed


def test_the_memory_of_closed_connections_is_bounded(gate: DatagramGate):
    for connection in range(100):
        gate.remember_closed(HERE, connection.to_bytes(8, "big"), b"", 0.0)
    assert len(gate._closed) == 4


def test_a_closing_listener_takes_nobody_in(gate: DatagramGate):
    cookie = ask_cookie(gate)
    gate.closing = True
    reply, _ = gate.admit(packets.init(8), HERE, 0.0)
    assert reply is not None
    assert packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :])[0] is Code.SHUTTING_DOWN
    assert gate.admit(connect(cookie), HERE, 0.0)[1] is False
