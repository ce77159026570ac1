"""From the first byte to READY: prefaces, HELLOs, and the place of authentication. Dropped once it is over.

    PREFACE -> HELLO -> [AUTH] -> ready

Both sides send preface and HELLO at once. The transcript that authentication binds to is the SHA-256 of both prefaces
and HELLOs, the client's first: whatever was negotiated is what both sides saw.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kernel.api import Principal
from kernel.errors import Code, OptionError
from kernel.framing import knl
from kernel.limits import MIB, Limits
from kernel.session import fields
from kernel.session.base import Fault
from kernel.session.preface import MAGIC, MAJOR, PREFACE, PREFACE_BYTES, explain

SOFTWARE = "transport-kernel"
NO_MECHANISM = "none"

_KEY_FRAME_BYTES_MAX = 1
_KEY_CHANNEL_CREDIT_BYTES = 2
_KEY_CONNECTION_CREDIT_BYTES = 3
_KEY_CHANNELS_MAX = 4
_KEY_CHECKSUMS = 5
_KEY_MECHANISM = 6
_KEY_SOFTWARE = 7
_KEY_MESSAGE_BYTES_MAX = 8
_KEY_ASSEMBLY_BYTES_MAX = 9

CREDIT_BYTES_MAX = 2**31 - 1
REASON_BYTES_MAX = 512
ERROR_BYTES_MAX = knl.HEADER_BYTES + 2 + REASON_BYTES_MAX
_PAYLOAD_BYTES = struct.Struct(">8xI")
_TRANSCRIPT_LABEL = b"KNL/1 transcript"
# What one side may announce. Control frames must fit a frame, and a ping shall not wait too long behind one; half a
# window must hold the first frame of a long message.
_FRAME_BYTES = range(1024, 16 * MIB + 1)
_CREDIT_BYTES = range(64, CREDIT_BYTES_MAX + 1)
_NO_LIMIT = 2**63
_RANGES = {
    "frame_bytes_max": _FRAME_BYTES,
    "channel_credit_bytes": _CREDIT_BYTES,
    "connection_credit_bytes": _CREDIT_BYTES,
    "channels_max": range(1, 2**31),
    "message_bytes_max": range(1, _NO_LIMIT),
    "assembly_bytes_max": range(1, _NO_LIMIT),
}


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

    @property
    def principal(self) -> Principal | None:
        """Who the peer is, once `done`."""


class AuthenticationError(Exception):
    """The peer is not who it must be. The text is for our own log; the peer learns UNAUTHENTICATED and no more."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says of itself. Sizes in bytes; see docs/protocol.md for the fields."""

    frame_bytes_max: int
    channel_credit_bytes: int
    connection_credit_bytes: int
    channels_max: int
    message_bytes_max: int
    assembly_bytes_max: int
    checksums: bool = False
    mechanism: str = NO_MECHANISM
    software: str = SOFTWARE

    @classmethod
    def of(cls, limits: Limits, *, checksums: bool, mechanism: str) -> Hello:
        check_limits(limits)
        return cls(
            limits.frame_bytes_max,
            limits.channel_credit_bytes,
            limits.connection_credit_bytes,
            limits.channels_max,
            limits.message_bytes_max,
            limits.assembly_bytes_max,
            checksums,
            mechanism,
        )

    def pack(self) -> bytes:
        return fields.pack(
            {
                _KEY_FRAME_BYTES_MAX: self.frame_bytes_max.to_bytes(4, "big"),
                _KEY_CHANNEL_CREDIT_BYTES: self.channel_credit_bytes.to_bytes(4, "big"),
                _KEY_CONNECTION_CREDIT_BYTES: self.connection_credit_bytes.to_bytes(4, "big"),
                _KEY_CHANNELS_MAX: self.channels_max.to_bytes(4, "big"),
                _KEY_CHECKSUMS: bytes([self.checksums]),
                _KEY_MECHANISM: self.mechanism.encode(),
                _KEY_SOFTWARE: self.software.encode(),
                _KEY_MESSAGE_BYTES_MAX: self.message_bytes_max.to_bytes(8, "big"),
                _KEY_ASSEMBLY_BYTES_MAX: self.assembly_bytes_max.to_bytes(8, "big"),
            }
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        try:
            values = fields.unpack(payload)
            return cls(
                _size(values, _KEY_FRAME_BYTES_MAX, _FRAME_BYTES),
                _size(values, _KEY_CHANNEL_CREDIT_BYTES, _CREDIT_BYTES),
                _size(values, _KEY_CONNECTION_CREDIT_BYTES, _CREDIT_BYTES),
                fields.number(values, _KEY_CHANNELS_MAX, 0),
                fields.number(values, _KEY_MESSAGE_BYTES_MAX, _NO_LIMIT),
                fields.number(values, _KEY_ASSEMBLY_BYTES_MAX, _NO_LIMIT),
                bool(fields.number(values, _KEY_CHECKSUMS, 0)),
                fields.text(values, _KEY_MECHANISM, NO_MECHANISM),
                fields.text(values, _KEY_SOFTWARE),
            )
        except fields.FieldsError as error:
            raise Fault(Code.PROTOCOL, f"HELLO cannot be read: {error}") from None


def _size(values: dict[int, bytes], key: int, allowed: range) -> int:
    """A size that must be there; of a larger one than we use we use as much as we do."""
    size = fields.number(values, key, 0)
    if size < allowed.start:
        raise fields.FieldsError(f"field {key} is {size}, the least is {allowed.start}")
    return min(size, allowed.stop - 1)


def check_limits(limits: Limits) -> None:
    """Our own limits go into HELLO.

    Raises:
        OptionError: one of them is out of its range.
    """
    for name, allowed in _RANGES.items():
        value = getattr(limits, name)
        if value not in allowed:
            raise OptionError(f"{name} is {value}, it must be from {allowed.start} to {allowed.stop - 1}")


def mismatch(server: str, client: str) -> str:
    """The two sides want different levels. Neither gives way; each names the remedy for the client."""
    remedy = "leave the secret out" if server == NO_MECHANISM else "give the client a secret, --secret-file FILE"
    return f"the server asks for authentication '{server}', the client for '{client}': {remedy}"


class Handshake:
    """One connection's way to READY.

    Frames are cut off here one by one, so that a stranger costs no more than `handshake_bytes_max`, announced or sent,
    while what a peer pipelines behind the handshake is under the connection's own limits.

    `peer` is set by the peer's HELLO, `ready` when all is done; `rest` is what came behind. Methods raise `Fault` for
    what the peer did wrong.
    """

    __slots__ = (
        "_authenticator", "_client", "_limits", "_preface", "_said_bytes", "_taken_bytes", "hello", "peer",
        "ready", "rest",
    )  # fmt: skip

    def __init__(self, *, client: bool, hello: Hello, authenticator: Authenticator | None, limits: Limits) -> None:
        self.hello = hello
        self.peer: Hello | None = None
        self.ready = False
        self.rest = b""
        self._client = client
        self._authenticator = authenticator
        self._limits = limits
        self._preface = b""
        self._taken_bytes = 0
        self._said_bytes = PREFACE_BYTES + knl.HEADER_BYTES + len(hello.pack())

    def frames(self, data: bytes) -> Iterator[bytes]:
        """Cut what arrived into whole frames, up to the one that makes us ready; `rest` is what is left."""
        data, at = self.rest + data, 0
        if len(self._preface) < PREFACE_BYTES:
            self._take_preface(data[:PREFACE_BYTES])
            at = len(self._preface)
        while not self.ready and (frame_bytes := self._frame_bytes(data, at)):
            yield data[at : at + frame_bytes]
            at += frame_bytes
            self._taken_bytes += frame_bytes
        self.rest = data[at:]

    def _take_preface(self, head: bytes) -> None:
        if not MAGIC.startswith(head[: len(MAGIC)]):
            raise Fault(Code.PROTOCOL, explain(head))
        if len(head) < PREFACE_BYTES:
            return
        if head[4] != MAJOR:
            raise Fault(Code.VERSION, f"the peer speaks KNL/{head[4]}, this side KNL/{MAJOR}: update the older one")
        self._preface = head
        self._taken_bytes = PREFACE_BYTES

    def _frame_bytes(self, data: bytes, at: int) -> int:
        """The length of the next frame, or 0 where it is not there as a whole. Its header alone can be too much."""
        if len(self._preface) < PREFACE_BYTES or len(data) - at < knl.HEADER_BYTES:
            return 0
        frame_bytes = knl.HEADER_BYTES + _PAYLOAD_BYTES.unpack_from(data, at)[0]
        limit = self._limits.handshake_bytes_max
        if frame_bytes > limit - self._taken_bytes:
            raise Fault(Code.PROTOCOL, f"more than {limit} bytes before the handshake ended (handshake_bytes_max)")
        return frame_bytes if len(data) - at >= frame_bytes else 0

    def received_hello(self, payload: bytes) -> bytes | None:
        """The peer's HELLO; returns an AUTH payload to send, if it is our turn."""
        if self.peer is not None:
            raise Fault(Code.PROTOCOL, "a second HELLO")
        self.peer = Hello.unpack(payload)
        if self.peer.mechanism != self.hello.mechanism:
            theirs, ours = self.peer.mechanism, self.hello.mechanism
            raise Fault(Code.UNAUTHENTICATED, mismatch(theirs, ours) if self._client else mismatch(ours, theirs))
        if self._authenticator is None:
            self.ready = True
            return None
        reply = self._authenticator.begin(self._transcript(payload))
        self.ready = self._authenticator.done
        return self._budgeted(reply)

    def received_auth(self, payload: bytes) -> bytes | None:
        """An AUTH frame; returns the payload to answer with, if any."""
        if self._authenticator is None or self.peer is None or self.ready:
            raise Fault(Code.PROTOCOL, "AUTH at a time when nobody asked for it")
        try:
            reply = self._authenticator.received(payload)
        except AuthenticationError as error:
            raise Fault(Code.UNAUTHENTICATED, "authentication failed", str(error)) from None
        self.ready = self._authenticator.done
        return self._budgeted(reply)

    @property
    def principal(self) -> Principal | None:
        """Who the peer proved to be; None where nobody asked."""
        return self._authenticator.principal if self._authenticator else None

    def _budgeted(self, reply: bytes | None) -> bytes | None:
        """Keep what a stranger can make us say within the limit, with room left for a reason."""
        if reply is not None:
            self._said_bytes += knl.HEADER_BYTES + len(reply)
            limit = self._limits.handshake_reply_bytes_max
            if self._said_bytes > limit - ERROR_BYTES_MAX:
                raise Fault(Code.INTERNAL, f"the handshake needs more than {limit} bytes (handshake_reply_bytes_max)")
        return reply

    def _transcript(self, peer_payload: bytes) -> bytes:
        import hashlib  # takes milliseconds, and is for those who prove something

        ours, theirs = PREFACE + self.hello.pack(), self._preface + peer_payload
        digest = hashlib.sha256(_TRANSCRIPT_LABEL)
        for side in (ours, theirs) if self._client else (theirs, ours):
            digest.update(len(side).to_bytes(4, "big") + side)
        return digest.digest()
