"""Where a datagram connection says who its sides are: in CONNECT and in ACCEPT, by a proof that is their last field.

One level is required, as in KNL/1: a server that asks for proofs refuses a CONNECT without one, and a client that has a
key takes no ACCEPT without one.
"""

from __future__ import annotations

from typing import Protocol

from kernel.api import Principal
from kernel.errors import Code
from kernel.session.base import Fault
from kernel.session.handshake import NO_MECHANISM, AuthenticationError, mismatch

PROOF_BYTES = 32
PROOF = 7
_PROOF_HEAD = bytes([0, PROOF, 0, PROOF_BYTES])
_PROOF_FIELD_BYTES = len(_PROOF_HEAD) + PROOF_BYTES


class PacketAuthenticator(Protocol):
    """Proves who we are, and checks who the peer is. Sans-I/O like the session."""

    mechanism: str

    def seal(self, connection: int, payload: bytes) -> bytes:
        """Our CONNECT, or our ACCEPT, with what proves it behind it."""

    def check(self, connection: int, payload: bytes) -> None:
        """The peer's, which ends with a proof. Raises `AuthenticationError`."""

    @property
    def principal(self) -> Principal | None:
        """Who the peer is, once checked."""


def with_proof(payload: bytes, proof: bytes) -> bytes:
    """The payload with a proof as its last field."""
    return payload + _PROOF_HEAD + proof


def split_proof(payload: bytes) -> tuple[bytes, bytes]:
    """What a proof covers, and the proof; empty where there is none."""
    at = len(payload) - _PROOF_FIELD_BYTES
    if at < 0 or payload[at : at + len(_PROOF_HEAD)] != _PROOF_HEAD:
        return payload, b""
    return payload[:at], payload[at + len(_PROOF_HEAD) :]


class Identity:
    """Of one side of a connection.

    Args:
        authenticator: None: nobody asks.
    """

    __slots__ = ("_authenticator", "_client")

    def __init__(self, authenticator: PacketAuthenticator | None, *, client: bool) -> None:
        self._authenticator = authenticator
        self._client = client

    @property
    def of_peer(self) -> Principal | None:
        """Who the peer has proved to be."""
        return None if self._authenticator is None else self._authenticator.principal

    def seal(self, connection: int, payload: bytes) -> bytes:
        """Our CONNECT or ACCEPT as it is sent."""
        return payload if self._authenticator is None else self._authenticator.seal(connection, payload)

    def fault(self, connection: int, payload: bytes) -> Fault | None:
        """What is wrong with the peer's CONNECT or ACCEPT, if anything. A side that asks for nothing takes everything:
        a peer that asks for more takes no answer without a proof.
        """
        if self._authenticator is None:
            return None
        if not split_proof(payload)[1]:
            theirs, ours = NO_MECHANISM, self._authenticator.mechanism
            return Fault(Code.UNAUTHENTICATED, mismatch(theirs, ours) if self._client else mismatch(ours, theirs))
        try:
            self._authenticator.check(connection, payload)
        except AuthenticationError as error:
            return Fault(Code.UNAUTHENTICATED, "authentication failed", str(error))
        return None
