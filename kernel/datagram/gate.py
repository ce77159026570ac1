"""Who may talk to a listener: the cookie handshake, without any state before a source has shown its cookie.

    client                                   server
    INIT (padded)            ->
                             <-              COOKIE          a keyed hash of source and connection id; the key changes
    CONNECT (cookie, ...)    ->              admitted: only now there is a connection

Invariants:
- at most one packet answers one packet, and it is never longer;
- nothing is remembered of a source before it has shown a valid cookie;
- what was sent by a server (bit 7 of the kind), what refuses or closes, and what is not ours is never answered: two
  servers that a forged packet sets upon each other fall silent after the first answer;
- a connection that was closed is remembered as long as its cookie is good: a late copy of its CONNECT does not open
  it anew.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from kernel.datagram import packets
from kernel.datagram.counters import GateCounters
from kernel.datagram.packets import Kind
from kernel.errors import Code
from kernel.framing import knl

SECRET_SECONDS = 20.0
"""How long a secret makes cookies; it goes on checking them for as long again."""

_SECRET_BYTES = 32
_CLOSE_BYTES_MIN = knl.PACKET_HEADER_BYTES + 2
_ANSWERED_WITH_CLOSE = frozenset((Kind.CONNECT, Kind.DATA, Kind.PING, Kind.FINISH, Kind.RECEIPT))


class DatagramGate:
    """One listener's gate. Sources are bytes that name an address and port; the caller compares nothing else.

    Args:
        closed_max: how many closed connections are remembered at most; the oldest is forgotten first.
        random_bytes: where secrets come from.

    Attributes:
        closing: no new connections; an INIT is refused.
    """

    def __init__(self, closed_max: int, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self.counters = GateCounters()
        self.closing = False
        self._closed_max = closed_max
        self._random_bytes = random_bytes
        self._secret = self._previous_secret = b""
        self._secret_until = float("-inf")
        self._closed: OrderedDict[tuple[bytes, bytes], tuple[float, Code, str]] = OrderedDict()

    def admit(self, packet: bytes, source: bytes, now: float) -> tuple[bytes | None, bool]:
        """Judge a packet that belongs to no connection.

        Returns:
            What to send back to its source, if anything; and whether to make a connection, whose session then gets this
            same packet.
        """
        if not packets.is_ours(packet):
            if packet:
                self.counters.foreign += 1
            else:
                self.counters.empty += 1
            return None, False
        kind = packet[3]
        if kind & knl.FROM_SERVER:
            self.counters.own_direction += 1
            return None, False
        if packet[2] != knl.PACKET_VERSION:
            return self._refuse_version(packet, kind), False
        if kind == Kind.INIT:
            return self._answer_init(packet, source, now), False
        if kind == Kind.CONNECT:
            return self._check_connect(packet, source, now)
        return self._answer_unknown(packet, kind, source, now), False

    def remember_closed(self, source: bytes, connection: bytes, last_packet: bytes, now: float) -> None:
        """The connection is over: whoever still sends to it is told so, and it is not opened again.

        Args:
            last_packet: what we sent last; where it refuses or closes, its reason is told again. Empty: nothing was
                sent.
        """
        self._forget_closed(now)
        if len(self._closed) >= self._closed_max:
            self._closed.popitem(last=False)
        reason = Code.LOST, "the connection is over"
        if not last_packet:
            reason = Code.OVERLOADED, "the server takes no more connections"
        elif packets.is_ours(last_packet) and last_packet[3] & ~knl.FROM_SERVER in (Kind.REFUSE, Kind.CLOSE):
            reason = packets.unpack_reason(last_packet[knl.PACKET_HEADER_BYTES :])
        self._closed[source, connection] = now + 2 * SECRET_SECONDS, *reason

    def _answer_init(self, packet: bytes, source: bytes, now: float) -> bytes | None:
        if len(packet) < packets.INIT_BYTES_MIN:
            self.counters.malformed += 1
            return None
        if self.closing:
            return self._refuse_closing(packet)
        self.counters.cookies += 1
        return self._make_cookie_packet(packet, source, now)

    def _check_connect(self, packet: bytes, source: bytes, now: float) -> tuple[bytes | None, bool]:
        cookie = packet[knl.PACKET_HEADER_BYTES : knl.PACKET_HEADER_BYTES + packets.COOKIE_BYTES]
        if len(cookie) < packets.COOKIE_BYTES:
            self.counters.malformed += 1
            return None, False
        if not self._is_good(cookie, source, packet[4:12], now):
            self.counters.bad_cookies += 1
            return self._make_cookie_packet(packet, source, now), False
        if self.closing:
            return self._refuse_closing(packet), False
        self._forget_closed(now)
        if (source, packet[4:12]) in self._closed:
            return self._answer_unknown(packet, Kind.CONNECT, source, now), False
        self.counters.admitted += 1
        return None, True

    def _answer_unknown(self, packet: bytes, kind: int, source: bytes, now: float) -> bytes | None:
        """CLOSE, with the reason that we remember, or that there is none to remember; as long as it may be."""
        self.counters.unknown += 1
        if kind not in _ANSWERED_WITH_CLOSE or len(packet) < _CLOSE_BYTES_MIN:
            return None
        self._forget_closed(now)
        unknown = 0.0, Code.LOST, "unknown connection"
        _, code, reason = self._closed.get((source, packet[4:12]), unknown)
        payload = packets.pack_reason(code, reason, len(packet) - knl.PACKET_HEADER_BYTES)
        return packets.control(Kind.CLOSE | knl.FROM_SERVER, packets.connection_of(packet), payload)

    def _refuse_version(self, packet: bytes, kind: int) -> bytes | None:
        """Only INIT is answered: its kind, and where the connection id stands, are the same in all versions."""
        self.counters.versions += 1
        if kind != Kind.INIT or len(packet) < _CLOSE_BYTES_MIN:
            return None
        return _refuse(packet, Code.VERSION, f"version {packet[2]}: this server speaks version {knl.PACKET_VERSION}")

    def _refuse_closing(self, packet: bytes) -> bytes:
        self.counters.closing += 1
        return _refuse(packet, Code.SHUTTING_DOWN, "the server is shutting down")

    def _make_cookie_packet(self, packet: bytes, source: bytes, now: float) -> bytes:
        self._rotate(now)
        cookie = _make_cookie(self._secret, source, packet[4:12])
        return packets.control(Kind.COOKIE | knl.FROM_SERVER, packets.connection_of(packet), cookie)

    def _is_good(self, cookie: bytes, source: bytes, connection: bytes, now: float) -> bool:
        self._rotate(now)
        return any(
            hmac.compare_digest(cookie, _make_cookie(secret, source, connection))
            for secret in (self._secret, self._previous_secret)
        )

    def _rotate(self, now: float) -> None:
        if now < self._secret_until:
            return
        is_recent = now < self._secret_until + SECRET_SECONDS
        self._previous_secret = self._secret if is_recent else self._random_bytes(_SECRET_BYTES)
        self._secret = self._random_bytes(_SECRET_BYTES)
        self._secret_until = now + SECRET_SECONDS

    def _forget_closed(self, now: float) -> None:
        while self._closed and next(iter(self._closed.values()))[0] <= now:
            self._closed.popitem(last=False)


def _make_cookie(secret: bytes, source: bytes, connection: bytes) -> bytes:
    return blake2b(connection + source, key=secret, digest_size=packets.COOKIE_BYTES, person=b"KNL/1 cookie").digest()


def _refuse(packet: bytes, code: Code, reason: str) -> bytes:
    payload = packets.pack_reason(code, reason, len(packet) - knl.PACKET_HEADER_BYTES)
    return packets.control(Kind.REFUSE | knl.FROM_SERVER, packets.connection_of(packet), payload)
