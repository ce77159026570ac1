"""The challenge made by hand, from docs/protocol-auth.md alone: what an attacker knows and can compute."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from security.hostile import AUTH, CHECKSUM, PREFACE, Frame, fields, frame, hello, split_preface

from kernel import Key, Keyring, Limits
from kernel.auth.challenge import ClientChallenge, ServerChallenge
from kernel.session.base import Event
from kernel.session.stream import StreamSession

MECHANISM = b"hmac-sha256"

ALICE = Key("alice/1", bytes(range(32)))
BOB = Key("bob", bytes(range(1, 33)))


def transcript(client_hello: bytes, server_hello: bytes) -> bytes:
    """Of the payloads of both HELLOs."""
    digest = hashlib.sha256(b"KNL/1 transcript")
    for side in (PREFACE + client_hello, PREFACE + server_hello):
        digest.update(len(side).to_bytes(4, "big") + side)
    return digest.digest()


def proof(
    secret: bytes, role: bytes, seen: bytes, client_said: bytes, server_said: bytes, binding: bytes = b""
) -> bytes:
    """What whoever holds the secret answers."""
    parts = (b"KNL/1 hmac-sha256", role, seen, client_said, server_said, binding)
    return hmac.digest(secret, b"".join(len(part).to_bytes(4, "big") + part for part in parts), "sha256")


def first(nonce: bytes, key_id: bytes = b"") -> bytes:
    """The payload that both sides send at once."""
    return fields({1: nonce, 2: key_id} if key_id else {1: nonce})


def second(value: bytes) -> bytes:
    """The payload with the proof."""
    return fields({3: value})


def auth(payload: bytes) -> bytes:
    """An AUTH frame."""
    return frame(AUTH, payload, flags=CHECKSUM)


def server_session(*keys: Key, binding: bytes = b"", limits: Limits | None = None) -> StreamSession:
    ring = Keyring(keys or [ALICE, BOB])
    session = StreamSession(
        client=False, limits=limits or Limits(), authenticator=ServerChallenge(ring, lambda: binding)
    )
    session.started()
    return session


def client_session(key: Key = ALICE, binding: bytes = b"") -> StreamSession:
    session = StreamSession(client=True, limits=Limits(), authenticator=ClientChallenge(key, lambda: binding))
    session.started()
    return session


def said_by(session: StreamSession) -> bytes:
    return b"".join(bytes(buffer) for buffer in session.data_to_send(1 << 20))


class HandMade:
    """A client that does the challenge by hand, one step at a time."""

    def __init__(self, server: StreamSession, key_id: bytes = b"alice/1") -> None:
        self.server = server
        self.said = first(secrets.token_bytes(32), key_id)
        self.hello = hello(b"hmac-sha256")
        self.transcript = self.challenge = b""

    def begin(self) -> list[Event]:
        """Preface, HELLO and the first AUTH; learns the server's."""
        [server_hello] = split_preface(said_by(self.server))
        self.transcript = transcript(self.hello[16:], server_hello.payload)
        events = self.server.received(PREFACE + self.hello + auth(self.said))
        [challenge] = self.heard(said_by(self.server))
        self.challenge = challenge.payload
        return events

    def prove(self, key: Key, role: bytes = b"client") -> list[Event]:
        """The proof that somebody who holds `key` would send."""
        value = proof(key.secret, role, self.transcript, self.said, self.challenge)
        return self.server.received(auth(second(value)))

    @staticmethod
    def heard(said: bytes) -> list[Frame]:
        return split_preface(PREFACE + said)
