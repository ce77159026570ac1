"""Who the two sides of a datagram connection are: proofs in CONNECT and ACCEPT, tried by whoever has none."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from datagram.simulation import SOURCE

from kernel import Code, Key, Keyring, Principal
from kernel.auth.packets import ClientProof, ServerProof
from kernel.datagram import packets
from kernel.datagram.gate import DatagramGate
from kernel.datagram.packets import Kind
from kernel.framing import knl
from kernel.limits import Limits
from kernel.session import base
from kernel.session.datagram import DatagramSession

ALICE = Key("alice/1", bytes(range(32)))
WRONG = Key("alice/1", bytes(32))
BOB = Key("bob", bytes(range(1, 33)))
NOBODY = Key("nobody", bytes(32))
Change = Callable[[bytes], bytes]


def unchanged(packet: bytes) -> bytes:
    return packet


class Meeting:
    """A client and a server, packet by packet, and whoever sits between them."""

    def __init__(self, client: Key | None = ALICE, *server: Key, connection: int = 7) -> None:
        proof = ClientProof(client) if client else None
        self.client = DatagramSession(client=True, limits=Limits(), authenticator=proof, connection=connection)
        self.gate = DatagramGate(16)
        self.server = self.new_server(*server)
        self.client.started()
        self.connect = b""

    @staticmethod
    def new_server(*keys: Key) -> DatagramSession:
        proof = ServerProof(Keyring(keys)) if keys else None
        session = DatagramSession(client=False, limits=Limits(), authenticator=proof)
        session.started()
        return session

    def ask(self) -> bytes:
        """Up to the client's CONNECT."""
        [init] = self.client.data_to_send(10_000)
        cookie, _ = self.gate.admit(bytes(init), SOURCE, 0.0)
        assert cookie is not None
        self.client.messages([cookie])
        self.client.open("echo")
        [connect] = self.client.data_to_send(10_000)
        self.connect = bytes(connect)
        return self.connect

    def answer(self, connect: bytes) -> tuple[list[base.Event], list[bytes]]:
        """What the server makes of a CONNECT that the gate lets in, and what it says."""
        assert self.gate.admit(connect, SOURCE, 0.0) == (None, True)
        events = self.server.messages([connect])
        for event in events:
            if isinstance(event, base.OpenRequested):
                self.server.accept(event.stream)
        return events, [bytes(packet) for packet in self.server.data_to_send(10_000)]

    def whole(self, change_connect: Change = unchanged, change_answer: Change = unchanged) -> list[base.Event]:
        """What the client hears."""
        _, said = self.answer(change_connect(self.ask()))
        return self.client.messages([change_answer(packet) for packet in said])


def kinds(events: list[base.Event]) -> list[type]:
    return [type(event) for event in events]


def ended(events: list[base.Event]) -> tuple[Code, str]:
    [end] = [event for event in events if isinstance(event, base.Ended)]
    return end.code, end.reason


def payload_of(packet: bytes) -> bytes:
    return packet[knl.PACKET_HEADER_BYTES :]


def with_payload(packet: bytes, payload: bytes) -> bytes:
    return packets.control(packet[3], packets.connection_of(packet), payload)


def test_two_sides_with_the_same_key_know_each_other():
    meeting = Meeting(ALICE, BOB, ALICE)
    events, said = meeting.answer(meeting.ask())
    assert [event.principal for event in events if isinstance(event, base.Ready)] == [Principal("alice", "hmac")]
    assert kinds(meeting.client.messages(said)) == [base.Opened]


def test_a_lost_answer_is_given_again_and_is_as_good():
    meeting = Meeting(ALICE, ALICE)
    first = meeting.answer(meeting.ask())[1]
    assert meeting.server.messages([meeting.connect]) == []
    assert [bytes(packet) for packet in meeting.server.data_to_send(10_000)] == first


@pytest.mark.parametrize(("key", "detail"), [(WRONG, "'alice/1' was not proved"), (NOBODY, "'nobody' is not known")])
def test_a_wrong_key_and_an_unknown_one_are_told_the_same(key: Key, detail: str):
    meeting = Meeting(key, ALICE)
    events, said = meeting.answer(meeting.ask())
    assert ended(events)[0] is Code.UNAUTHENTICATED
    assert detail in ended(events)[1]
    assert base.OpenRequested not in kinds(events)
    assert ended(meeting.client.messages(said)) == (Code.UNAUTHENTICATED, "authentication failed")


def test_a_level_that_only_one_side_asks_for_is_refused_with_the_remedy():
    code, reason = ended(Meeting(None, ALICE).whole())
    assert code is Code.UNAUTHENTICATED
    assert "give the client a secret, --secret-file FILE" in reason
    meeting = Meeting(ALICE)
    code, reason = ended(meeting.whole())
    assert code is Code.UNAUTHENTICATED
    assert "leave the secret out" in reason
    [close] = meeting.client.data_to_send(10_000)
    assert ended(meeting.server.messages([bytes(close)]))[0] is Code.UNAUTHENTICATED


def test_nothing_of_a_connect_can_be_changed_on_the_way():
    connect = Meeting(ALICE, ALICE).ask()
    for at in range(knl.PACKET_HEADER_BYTES + packets.COOKIE_BYTES, len(connect)):
        meeting = Meeting(ALICE, ALICE)
        fresh = bytearray(meeting.ask())
        fresh[at] ^= 1
        events, _ = meeting.answer(bytes(fresh))
        assert base.OpenRequested not in kinds(events)


def test_nothing_of_an_accept_can_be_changed_on_the_way():
    example = Meeting(ALICE, ALICE)
    _, [accept] = example.answer(example.ask())
    for at in range(knl.PACKET_HEADER_BYTES, len(accept)):

        def change(packet: bytes, at: int = at) -> bytes:
            changed = bytearray(packet)
            changed[at] ^= 1
            return bytes(changed)

        assert base.Opened not in kinds(Meeting(ALICE, ALICE).whole(change_answer=change))


def test_the_clients_own_words_are_no_proof_of_a_server():
    """Reflection."""
    meeting = Meeting(ALICE, ALICE)

    def reflect(accept: bytes) -> bytes:
        return with_payload(accept, payload_of(accept)[:-32] + meeting.connect[-32:])

    assert ended(meeting.whole(change_answer=reflect)) == (
        Code.UNAUTHENTICATED,
        "the server does not hold the key 'alice/1'",
    )


def test_a_proof_that_was_heard_is_of_no_use_with_another_cookie_or_connection():
    """Replay: who listens sends the fields again from a source and with a cookie of his own."""
    heard = Meeting(ALICE, ALICE).ask()
    for connection in (7, 8):
        meeting = Meeting(ALICE, ALICE, connection=connection)
        cookie = payload_of(meeting.ask())[: packets.COOKIE_BYTES]
        replayed = packets.control(Kind.CONNECT, connection, cookie + payload_of(heard)[packets.COOKIE_BYTES :])
        events, _ = meeting.answer(replayed)
        assert ended(events)[0] is Code.UNAUTHENTICATED


def test_an_answer_that_was_heard_is_of_no_use_to_another_connect():
    old = Meeting(ALICE, ALICE)
    _, [accept] = old.answer(old.ask())
    assert ended(Meeting(ALICE, ALICE).whole(change_answer=lambda _: accept))[0] is Code.UNAUTHENTICATED


def test_the_proofs_are_those_of_the_document():
    meeting = Meeting(ALICE, ALICE)
    _, [accept] = meeting.answer(meeting.ask())
    connect = payload_of(meeting.connect)

    def proof(role: bytes, *parts: bytes) -> bytes:
        every = (b"KNL datagrams/1 hmac-sha256", role, (7).to_bytes(8, "big"), *parts)
        covered = b"".join(len(part).to_bytes(4, "big") + part for part in every)
        return hmac.new(ALICE.secret, covered, hashlib.sha256).digest()

    assert connect[-36:] == b"\0\x07\0\x20" + proof(b"client", connect[:-36])
    assert payload_of(accept)[-36:] == b"\0\x07\0\x20" + proof(b"server", connect, payload_of(accept)[:-36])
