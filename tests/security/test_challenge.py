"""The challenge, against an attacker who sees everything, sends anything, and does not hold the key.

Every attack by name; any sequence at all is in test_handshake_states.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from security import hostile_auth
from security.hostile import (
    CHECKSUM,
    ERROR,
    HELLO,
    PREFACE,
    fields,
    frame,
    hello,
    opening,
    split_preface,
)
from security.hostile_auth import ALICE, BOB, HandMade, client_session, said_by, server_session

from kernel import Code, Key, Keyring, Limits
from kernel.auth import challenge
from kernel.auth.challenge import ClientChallenge, ServerChallenge
from kernel.session.base import Ended, Event, Ready
from kernel.session.stream import StreamSession

pytestmark = pytest.mark.usefixtures("engine")


def talk(client: StreamSession, server: StreamSession) -> tuple[list[Event], list[Event]]:
    """Carry everything both ways; returns what each side made of it."""
    events: tuple[list[Event], list[Event]] = ([], [])
    for _ in range(4):
        events[1].extend(server.received(said_by(client)))
        events[0].extend(client.received(said_by(server)))
    return events


def ended(events: list[Event]) -> Ended:
    return next(event for event in events if isinstance(event, Ended))


# --- those who hold the key ------------------------------------------------------------------------------------------


def test_both_sides_learn_who_the_other_is():
    for_client, for_server = talk(client_session(), server_session())
    assert [str(event.principal) for event in for_client if isinstance(event, Ready)] == ["hmac:alice"]
    assert [str(event.principal) for event in for_server if isinstance(event, Ready)] == ["hmac:alice"]


@pytest.mark.parametrize("generation", ["alice/1", "alice/2"])
def test_while_a_key_is_being_changed_either_generation_is_the_same_principal(generation: str):
    keys = {"alice/1": ALICE, "alice/2": Key("alice/2", bytes(32))}
    _, for_server = talk(client_session(keys[generation]), server_session(*keys.values()))
    assert [str(event.principal) for event in for_server if isinstance(event, Ready)] == ["hmac:alice"]


def test_a_key_that_was_taken_out_is_good_no_more():
    _, for_server = talk(client_session(ALICE), server_session(Key("alice/2", bytes(32))))
    assert ended(for_server).code is Code.UNAUTHENTICATED


def test_the_mechanism_is_as_specified():
    """An implementation made from the page alone is let in, and recognises the server."""
    server = server_session()
    stranger = HandMade(server)
    stranger.begin()
    assert [type(event) for event in stranger.prove(ALICE)] == [Ready]
    [answer] = stranger.heard(said_by(server))
    seen = (stranger.transcript, stranger.said, stranger.challenge)
    assert answer.payload == hostile_auth.second(hostile_auth.proof(ALICE.secret, b"server", *seen))


# --- those who do not ------------------------------------------------------------------------------------------------


def refused(events: list[Event]) -> str:
    """The reason in our own log."""
    end = ended(events)
    assert end.code is Code.UNAUTHENTICATED
    return end.reason


def refused_without_help(session: StreamSession, events: list[Event]) -> str:
    """As `refused`; and the peer must have been told nothing but that it failed."""
    error = HandMade.heard(said_by(session))[-1]
    assert (error.kind, error.code) == (ERROR, Code.UNAUTHENTICATED)
    assert error.reason == "authentication failed"
    return refused(events)


def test_a_wrong_secret_is_refused_without_a_word_of_help():
    stranger = HandMade(server := server_session())
    stranger.begin()
    assert refused_without_help(server, stranger.prove(BOB)) == "the key 'alice/1' was not proved"


def test_an_unknown_key_gets_the_same_answers_as_a_wrong_secret():
    stranger = HandMade(server := server_session(), b"mallory")
    stranger.begin()
    assert refused_without_help(server, stranger.prove(ALICE)) == "the key 'mallory' is not known here"


def test_a_key_proves_its_own_id_and_no_other():
    stranger = HandMade(server := server_session(), b"alice/1")
    stranger.begin()
    refused_without_help(server, stranger.prove(BOB))


def test_a_proof_in_the_wrong_role_is_refused():
    stranger = HandMade(server := server_session())
    stranger.begin()
    refused_without_help(server, stranger.prove(ALICE, role=b"server"))


def test_replay_of_a_whole_handshake_is_refused():
    """Everything that an honest client once said, said again to the same server."""
    client, first = client_session(), server_session()
    recorded = []
    for _ in range(4):
        recorded.append(said_by(client))
        first.received(recorded[-1])
        client.received(said_by(first))
    second = server_session()
    events = [event for said in recorded for event in second.received(said)]
    refused(events)


def test_reflection_of_the_clients_own_words_is_refused():
    """A server without a key sends back to the client what the client says."""
    client = client_session()
    events: list[Event] = []
    for _ in range(4):
        events += client.received(said_by(client))
    assert ended(events).reason == "the server does not hold the key 'alice/1'"
    assert not any(isinstance(event, Ready) for event in events)


def test_reflection_into_a_second_connection_is_refused():
    """An attacker dials the server, and gives the server's challenge to an honest client that dials the attacker."""
    server, victim = server_session(), client_session()
    victims_words = said_by(victim)
    victim.received(said_by(server))
    server.received(victims_words)
    victims_first, servers_first = said_by(victim), said_by(server)
    other = server_session()
    other.received(victims_words)
    said_by(other)
    other.received(victims_first)
    victim.received(servers_first)
    refused_without_help(other, other.received(said_by(victim)))


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5, 7])
def test_a_relay_that_changes_what_was_negotiated_is_refused(field: int):
    """A man in the middle passes everything on, and changes one value of the client's HELLO."""
    client, server = client_session(), server_session()
    words = said_by(client)
    [greeting] = split_preface(words)
    at = 0
    while int.from_bytes(greeting.payload[at : at + 2], "big") != field:
        at += 4 + int.from_bytes(greeting.payload[at + 2 : at + 4], "big")
    end = at + 4 + int.from_bytes(greeting.payload[at + 2 : at + 4], "big")
    changed = greeting.payload[: end - 1] + bytes([greeting.payload[end - 1] ^ 1]) + greeting.payload[end:]
    server.received(PREFACE + frame(HELLO, changed, flags=CHECKSUM))
    client.received(said_by(server))
    _, for_server = talk(client, server)
    refused(for_server)


def test_a_relay_between_two_encrypted_connections_is_refused():
    """A man in the middle of TLS has a certificate of his own, so the two sides are bound to different ones."""
    _, for_server = talk(client_session(binding=b"his"), server_session(binding=b"ours"))
    refused(for_server)
    for_client, _ = talk(client_session(binding=b"ours"), server_session(binding=b"ours"))
    assert any(isinstance(event, Ready) for event in for_client)


@pytest.mark.parametrize("wanted", [b"none", b"hmac-md5", b""])
def test_there_is_no_lower_level_to_be_had(wanted: bytes):
    server = server_session()
    events = server.received(PREFACE + hello(wanted) + opening())
    assert [type(event) for event in events] == [Ended]
    assert ended(events).code is Code.UNAUTHENTICATED


def test_a_client_with_a_key_does_not_talk_to_a_server_that_asks_for_none():
    server = StreamSession(client=False, limits=Limits())
    server.started()
    for_client, _ = talk(client_session(), server)
    assert ended(for_client).code is Code.UNAUTHENTICATED
    assert "leave the secret out" in ended(for_client).reason


def test_a_client_without_a_key_is_told_what_it_needs():
    client = StreamSession(client=True, limits=Limits())
    client.started()
    for_client, _ = talk(client, server_session())
    assert "--secret-file" in ended(for_client).reason


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        hostile_auth.first(bytes(31), b"alice/1"),
        hostile_auth.first(bytes(33), b"alice/1"),
        hostile_auth.first(bytes(32)),
        hostile_auth.first(bytes(32), b"a" * 81),
        hostile_auth.second(bytes(32)),
        hostile_auth.second(bytes(31)),
        bytes(200),
    ],
    ids=lambda payload: f"{len(payload)}-{payload[:2].hex()}",
)
def test_first_words_that_cannot_be_read_are_refused(payload: bytes):
    server = server_session()
    said_by(server)
    refused_without_help(server, server.received(PREFACE + hello(b"hmac-sha256") + hostile_auth.auth(payload)))


def test_a_proof_cannot_be_tried_twice():
    stranger = HandMade(server := server_session())
    stranger.begin()
    refused_without_help(server, stranger.prove(BOB))
    assert stranger.prove(ALICE) == []


def test_authentication_after_it_has_succeeded_is_a_fault():
    stranger = HandMade(server_session())
    stranger.begin()
    stranger.prove(ALICE)
    assert ended(stranger.prove(ALICE)).code is Code.PROTOCOL


def test_the_vector_of_the_specification(monkeypatch: pytest.MonkeyPatch):
    text = (Path(__file__).parents[2] / "docs" / "protocol-auth.md").read_text()
    vector = dict(re.findall(r"^    (transcript|client proof|server proof) +([0-9a-f]{64})$", text, re.M))
    greeting = fields({1: b"\0\1\0\0", 2: b"\0\x10\0\0", 3: b"\0\x40\0\0", 4: b"\0\0\1\0", 6: b"hmac-sha256"})
    assert hostile_auth.transcript(greeting, greeting).hex() == vector["transcript"]

    nonces = iter([b"\x11" * 32, b"\x22" * 32])
    monkeypatch.setattr(challenge.secrets, "token_bytes", lambda nbytes: next(nonces))
    key = Key("alice", bytes(range(32)))
    client, server = ClientChallenge(key, lambda: b""), ServerChallenge(Keyring([key]), lambda: b"")
    to_server, to_client = (side.begin(bytes.fromhex(vector["transcript"])) for side in (client, server))
    server.received(to_server)
    for_client = server.received(for_server := client.received(to_client))
    assert for_server == hostile_auth.second(bytes.fromhex(vector["client proof"]))
    assert for_client == hostile_auth.second(bytes.fromhex(vector["server proof"]))
    assert client.received(for_client) is None
    assert client.done
    assert server.done
