"""From the first byte to READY: prefaces, HELLOs, and the place of authentication. Dropped once it is over.

    PREFACE -> HELLO -> [AUTH] -> ready

Both sides send preface and HELLO at once. The transcript that authentication binds to is the SHA-256 of both prefaces
and HELLOs, the client's first: whatever was negotiated is what both sides saw.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from kernel.errors import Code
from kernel.limits import Limits
from kernel.session import fields
from kernel.session.base import Fault
from kernel.session.preface import MAGIC, MAJOR, PREFACE, PREFACE_BYTES, explain

SOFTWARE = "transport-kernel"
NO_MECHANISM = "none"

_FRAME_BYTES_MAX = 1
_CHANNEL_CREDIT_BYTES = 2
_CONNECTION_CREDIT_BYTES = 3
_CHANNELS_MAX = 4
_CHECKSUMS = 5
_MECHANISM = 6
_SOFTWARE = 7

_TRANSCRIPT_LABEL = b"KNL/1 transcript"
# A window that a long message's first frame does not fit would never open.
_CREDIT_BYTES_MIN = 64


class Authenticator(Protocol):
    """Proves who the peer is, and who we are, in AUTH frames between HELLO and READY. Sans-I/O like the session."""

    mechanism: str

    def begin(self, transcript: bytes) -> bytes | None:
        """Both HELLOs are there. Returns the first AUTH payload, or None where the peer speaks first."""

    def received(self, payload: bytes) -> bytes | None:
        """An AUTH payload has come; returns the answer, if any. Raises `AuthenticationError` to end the session."""

    @property
    def done(self) -> bool:
        """Both sides are satisfied."""


class AuthenticationError(Exception):
    """The peer is not who it must be. The text is for our own log; the peer learns UNAUTHENTICATED and no more."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says of itself. Sizes in bytes; see docs/protocol.md for the fields."""

    frame_bytes_max: int
    channel_credit_bytes: int
    connection_credit_bytes: int
    channels_max: int
    checksums: bool = False
    mechanism: str = NO_MECHANISM
    software: str = SOFTWARE

    @classmethod
    def of(cls, limits: Limits, *, checksums: bool, mechanism: str) -> Hello:
        return cls(
            limits.frame_bytes_max,
            limits.channel_credit_bytes,
            limits.connection_credit_bytes,
            limits.channels_max,
            checksums,
            mechanism,
        )

    def pack(self) -> bytes:
        return fields.pack(
            {
                _FRAME_BYTES_MAX: self.frame_bytes_max.to_bytes(4, "big"),
                _CHANNEL_CREDIT_BYTES: self.channel_credit_bytes.to_bytes(4, "big"),
                _CONNECTION_CREDIT_BYTES: self.connection_credit_bytes.to_bytes(4, "big"),
                _CHANNELS_MAX: self.channels_max.to_bytes(4, "big"),
                _CHECKSUMS: bytes([self.checksums]),
                _MECHANISM: self.mechanism.encode(),
                _SOFTWARE: self.software.encode(),
            }
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        try:
            values = fields.unpack(payload)
            hello = cls(
                fields.number(values, _FRAME_BYTES_MAX, 0),
                fields.number(values, _CHANNEL_CREDIT_BYTES, 0),
                fields.number(values, _CONNECTION_CREDIT_BYTES, 0),
                fields.number(values, _CHANNELS_MAX, 0),
                bool(fields.number(values, _CHECKSUMS, 0)),
                fields.text(values, _MECHANISM, NO_MECHANISM),
                fields.text(values, _SOFTWARE),
            )
        except fields.FieldsError as error:
            raise Fault(Code.PROTOCOL, f"HELLO cannot be read: {error}") from None
        sizes = hello.frame_bytes_max, hello.channel_credit_bytes, hello.connection_credit_bytes
        if min(sizes) < _CREDIT_BYTES_MIN:
            raise Fault(Code.PROTOCOL, f"HELLO announces sizes below {_CREDIT_BYTES_MIN} bytes: {sizes}")
        return hello


class Handshake:
    """One connection's way to READY.

    `peer` is set by the peer's HELLO, `ready` when all is done. Methods raise `Fault` for what the peer did wrong.
    """

    __slots__ = (
        "_authenticator",
        "_client",
        "_head",
        "_received_bytes",
        "_received_bytes_max",
        "hello",
        "peer",
        "ready",
    )

    def __init__(self, *, client: bool, hello: Hello, authenticator: Authenticator | None, bytes_max: int) -> None:
        self.hello = hello
        self.peer: Hello | None = None
        self.ready = False
        self._client = client
        self._authenticator = authenticator
        self._head = b""
        self._received_bytes = 0
        self._received_bytes_max = bytes_max

    def received(self, data: bytes) -> bytes:
        """Take the preface off what arrived; return the rest, which is frames."""
        self._received_bytes += len(data)
        if len(self._head) == PREFACE_BYTES:
            return data
        taken = PREFACE_BYTES - len(self._head)
        self._head += data[:taken]
        if not MAGIC.startswith(self._head[: len(MAGIC)]):
            raise Fault(Code.PROTOCOL, explain(self._head + data[taken:]))
        if len(self._head) == PREFACE_BYTES and self._head[4] != MAJOR:
            raise Fault(
                Code.VERSION, f"the peer speaks KNL/{self._head[4]}, this side KNL/{MAJOR}: update the older one"
            )
        return data[taken:]

    def check_budget(self) -> None:
        """Not ready, and more than the limit has come: nobody honest needs so much."""
        if self._received_bytes > self._received_bytes_max:
            raise Fault(
                Code.PROTOCOL,
                f"{self._received_bytes} bytes before the handshake ended, the limit is {self._received_bytes_max} "
                "(handshake_bytes_max)",
            )

    def received_hello(self, payload: bytes) -> bytes | None:
        """The peer's HELLO; returns an AUTH payload to send, if it is our turn."""
        if self.peer is not None:
            raise Fault(Code.PROTOCOL, "a second HELLO")
        self.peer = Hello.unpack(payload)
        if self.peer.mechanism != self.hello.mechanism:
            raise Fault(
                Code.UNAUTHENTICATED,
                f"this side requires authentication '{self.hello.mechanism}', the peer '{self.peer.mechanism}'",
            )
        if self._authenticator is None:
            self.ready = True
            return None
        reply = self._authenticator.begin(self._transcript(payload))
        self.ready = self._authenticator.done
        return reply

    def received_auth(self, payload: bytes) -> bytes | None:
        """An AUTH frame; returns the payload to answer with, if any."""
        if self._authenticator is None or self.peer is None or self.ready:
            raise Fault(Code.PROTOCOL, "AUTH at a time when nobody asked for it")
        try:
            reply = self._authenticator.received(payload)
        except AuthenticationError as error:
            raise Fault(Code.UNAUTHENTICATED, "authentication failed", str(error)) from None
        self.ready = self._authenticator.done
        return reply

    def _transcript(self, peer_payload: bytes) -> bytes:
        ours, theirs = PREFACE + self.hello.pack(), self._head + peer_payload
        digest = hashlib.sha256(_TRANSCRIPT_LABEL)
        for side in (ours, theirs) if self._client else (theirs, ours):
            digest.update(len(side).to_bytes(4, "big") + side)
        return digest.digest()
