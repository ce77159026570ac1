"""Mutual proof of a shared key by HMAC-SHA-256, in AUTH frames. docs/protocol-auth.md is the specification.

    client                                  server
    {nonce, key id}           <- both at once ->           {nonce}
    {proof as client}         ->
                              <-            {proof as server}

Invariants:
- a proof covers its role, the transcript (both prefaces and HELLOs), both first payloads as they crossed the wire, and
  the binding to the encrypted channel beneath: what was seen differently by the two sides, or on another connection,
  proves nothing here;
- the server proves nothing to a client that has not proved itself, so it is no oracle;
- an unknown key id and a wrong proof take the same way and get the same answer;
- proofs are compared in constant time, and nothing is accepted twice.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from kernel.api import Principal
from kernel.auth.keys import ID_BYTES_MAX, SECRET_BYTES, Key, Keyring
from kernel.session import fields
from kernel.session.handshake import AuthenticationError

MECHANISM = "hmac-sha256"
NONCE_BYTES = 32
PROOF_BYTES = 32

_NONCE = 1
_KEY_ID = 2
_PROOF = 3
_LABEL = b"KNL/1 hmac-sha256"
# Proves nothing to anybody: what an unknown key id is checked against.
NO_KEY = Key("nobody", secrets.token_bytes(SECRET_BYTES))


class ClientChallenge:
    """The client's side. It is satisfied when the server has proved that it holds the key too.

    Args:
        key: the one to prove.
        binding: asked once the channel beneath is there: what names its server's end, or nothing.
    """

    mechanism = MECHANISM

    def __init__(self, key: Key, binding: Callable[[], bytes]) -> None:
        self._key = key
        self._binding = binding
        self._said = fields.pack({_NONCE: secrets.token_bytes(NONCE_BYTES), _KEY_ID: key.id.encode()})
        self._proofs: _Proofs | None = None
        self.principal: Principal | None = None

    @property
    def done(self) -> bool:
        return self.principal is not None

    def begin(self, transcript: bytes) -> bytes | None:
        self._transcript = transcript
        return self._said

    def received(self, payload: bytes) -> bytes | None:
        if self._proofs is None:
            _read(payload, _NONCE, NONCE_BYTES)
            self._proofs = _Proofs(self._key, self._transcript, self._said, payload, self._binding())
            return fields.pack({_PROOF: self._proofs.of_client})
        if not hmac.compare_digest(_read(payload, _PROOF, PROOF_BYTES), self._proofs.of_server):
            raise AuthenticationError(f"the server does not hold the key '{self._key.id}'")
        self.principal = Principal(self._key.name, "hmac")
        return None


class ServerChallenge:
    """The server's side. It is satisfied when the client has proved one of the keys.

    Args:
        keyring: the keys that are good.
        binding: as above.
    """

    mechanism = MECHANISM

    def __init__(self, keyring: Keyring, binding: Callable[[], bytes]) -> None:
        self._keyring = keyring
        self._binding = binding
        self._said = fields.pack({_NONCE: secrets.token_bytes(NONCE_BYTES)})
        self._key: Key | None = None
        self._key_id = ""
        self._heard = b""
        self.principal: Principal | None = None

    @property
    def done(self) -> bool:
        return self.principal is not None

    def begin(self, transcript: bytes) -> bytes | None:
        self._transcript = transcript
        return self._said

    def received(self, payload: bytes) -> bytes | None:
        if self._key is None:
            _read(payload, _NONCE, NONCE_BYTES)
            self._key_id = _read_key_id(payload)
            self._key = self._keyring.find(self._key_id) or NO_KEY
            self._heard = payload
            return None
        proofs = _Proofs(self._key, self._transcript, self._heard, self._said, self._binding())
        is_right = hmac.compare_digest(_read(payload, _PROOF, PROOF_BYTES), proofs.of_client)
        if not is_right or self._key is NO_KEY:
            fault = "is not known here" if self._key is NO_KEY else "was not proved"
            raise AuthenticationError(f"the key '{self._key_id}' {fault}")
        self.principal = Principal(self._key.name, "hmac")
        return fields.pack({_PROOF: proofs.of_server})


class _Proofs:
    """The two proofs of one connection."""

    def __init__(self, key: Key, transcript: bytes, client_said: bytes, server_said: bytes, binding: bytes) -> None:
        self.of_client = _proof(key, b"client", transcript, client_said, server_said, binding)
        self.of_server = _proof(key, b"server", transcript, client_said, server_said, binding)


def _proof(key: Key, role: bytes, *parts: bytes) -> bytes:
    """Each part goes with its length, so that no two lists of parts are the same bytes."""
    covered = b"".join(len(part).to_bytes(4, "big") + part for part in (_LABEL, role, *parts))
    return hmac.digest(key.secret, covered, hashlib.sha256)


def _read(payload: bytes, field: int, nbytes: int) -> bytes:
    try:
        value = fields.unpack(payload).get(field, b"")
    except fields.FieldsError as error:
        raise AuthenticationError(f"AUTH cannot be read: {error}") from None
    if len(value) != nbytes:
        raise AuthenticationError(f"AUTH holds {len(value)} bytes in field {field}, not {nbytes}")
    return value


def _read_key_id(payload: bytes) -> str:
    value = fields.unpack(payload).get(_KEY_ID, b"")
    if not 0 < len(value) <= ID_BYTES_MAX:
        raise AuthenticationError(f"AUTH names a key of {len(value)} bytes")
    return fields.printable(value)
