"""Mutual proof of a shared key in the two packets that open a datagram connection. docs/protocol-datagrams.md is the
specification.

    client                                           server
    CONNECT {..., nonce, key id, proof as client} ->
                                                  <- ACCEPT {..., proof as server}

Invariants:
- the client's proof covers the cookie, which the server made for this source, this connection and some seconds; the
  server's covers the whole CONNECT, the client's nonce with it: neither is of use anywhere else;
- the server proves nothing to a client that has not proved itself, so it is no oracle;
- an unknown key id and a wrong proof take the same way and get the same answer;
- proofs are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from kernel.api import Principal
from kernel.auth.challenge import MECHANISM, NO_KEY, NONCE_BYTES
from kernel.auth.keys import Key, Keyring
from kernel.datagram.identity import split_proof, with_proof
from kernel.datagram.packets import COOKIE_BYTES
from kernel.session import fields
from kernel.session.handshake import AuthenticationError

_NONCE = 5
_KEY_ID = 6
_LABEL = b"KNL datagrams/1 hmac-sha256"


class ClientProof:
    """The client's side.

    Args:
        key: the one to prove.
    """

    mechanism = MECHANISM

    def __init__(self, key: Key) -> None:
        self._key = key
        self._fields = fields.pack({_NONCE: secrets.token_bytes(NONCE_BYTES), _KEY_ID: key.id.encode()})
        self._said = b""
        self.principal: Principal | None = None

    def seal(self, connection: int, payload: bytes) -> bytes:
        covered = payload + self._fields
        self._said = with_proof(covered, _proof(self._key, b"client", connection, covered))
        return self._said

    def check(self, connection: int, payload: bytes) -> None:
        covered, proof = split_proof(payload)
        if not hmac.compare_digest(proof, _proof(self._key, b"server", connection, self._said, covered)):
            raise AuthenticationError(f"the server does not hold the key '{self._key.id}'")
        self.principal = Principal(self._key.name, "hmac")


class ServerProof:
    """The server's side of one connection.

    Args:
        keyring: the keys that are good.
    """

    mechanism = MECHANISM

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._key = NO_KEY
        self._heard = b""
        self.principal: Principal | None = None

    def check(self, connection: int, payload: bytes) -> None:
        covered, proof = split_proof(payload)
        key_id = _read_key_id(covered)
        key = self._keyring.find(key_id) or NO_KEY
        is_right = hmac.compare_digest(proof, _proof(key, b"client", connection, covered))
        if not is_right or key is NO_KEY:
            fault = "is not known here" if key is NO_KEY else "was not proved"
            raise AuthenticationError(f"the key '{key_id}' {fault}")
        self._key, self._heard = key, payload
        self.principal = Principal(key.name, "hmac")

    def seal(self, connection: int, payload: bytes) -> bytes:
        return with_proof(payload, _proof(self._key, b"server", connection, self._heard, payload))


def _proof(key: Key, role: bytes, connection: int, *parts: bytes) -> bytes:
    """Each part goes with its length, so that no two lists of parts are the same bytes."""
    every = (_LABEL, role, connection.to_bytes(8, "big"), *parts)
    return hmac.digest(key.secret, b"".join(len(part).to_bytes(4, "big") + part for part in every), hashlib.sha256)


def _read_key_id(covered: bytes) -> str:
    try:
        values = fields.unpack(covered[COOKIE_BYTES:])
    except fields.FieldsError as error:
        raise AuthenticationError(f"CONNECT cannot be read: {error}") from None
    if len(values.get(_NONCE, b"")) != NONCE_BYTES:
        raise AuthenticationError("CONNECT has no nonce")
    return fields.text(values, _KEY_ID)
