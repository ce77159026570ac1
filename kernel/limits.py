"""Every limit, in one place: its name, unit, default and reason.

A limit holds for one server (`Server(limits=...)`, `[limits]` in the configuration file) or one client. The sans-I/O
session and the link read the same object, so the number that is configured is the number in force.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

KIB = 1024
MIB = 1024 * KIB

# More than this is for who has measured what their services need for each connection.
_CONNECTIONS_DEFAULT_MAX = 10_000
# The process's own descriptors, and those of who is being told that there is no place for him.
_DESCRIPTORS_FREE_MIN = 48


def connections_for_descriptors() -> int:
    """How many connections this process has descriptors for, with some left for files, listeners and children."""
    try:
        import resource
    except ImportError:  # not a POSIX system: its own limit will tell
        return _CONNECTIONS_DEFAULT_MAX
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _CONNECTIONS_DEFAULT_MAX
    few = max(descriptors - _DESCRIPTORS_FREE_MIN, descriptors // 2)
    return max(1, min(_CONNECTIONS_DEFAULT_MAX, descriptors * 9 // 10, few))


@dataclass(frozen=True, slots=True)
class Limits:
    """See docs/limits.md for the reasons at length; the comment beside a field is its reason in a line.

    All sizes are payload bytes, without headers.
    """

    # Short enough that a ping waits little behind a frame on a slow line, long enough to cost nothing per byte.
    frame_bytes_max: int = 64 * KIB
    # What one peer can make us hold for one message; larger transfers are streamed in pieces.
    message_bytes_max: int = 16 * MIB
    # Unfinished long messages of one connection, all its channels together.
    assembly_bytes_max: int = 32 * MIB
    # Unread bytes that we hold for one channel; also what one channel can have in flight.
    channel_credit_bytes: int = 1 * MIB
    # Unread bytes that we hold for one connection, all its channels together.
    connection_credit_bytes: int = 4 * MIB
    # As frame_bytes_max, where large transfers are the purpose: fewer system calls a byte.
    bulk_frame_bytes_max: int = 1 * MIB
    # As both credits, there: what is in flight while the disk, and the way back, take their time.
    bulk_credit_bytes: int = 8 * MIB
    # What may wait for a peer that does not read, before it is evicted.
    write_buffer_bytes_max: int = 16 * MIB
    # Each costs some KiB; more than any browser or gateway opens.
    channels_max: int = 256
    # 90 % of RLIMIT_NOFILE, so that the server itself never runs out; 10,000 idle ones fit 80 MiB.
    connections_max: int = field(default_factory=connections_for_descriptors)
    # One address (IPv6: one /64, UNIX: one user) cannot take all the places. This machine itself is exempt.
    connections_per_source_max: int = 256
    # How fast one address may come back, once it has had `connections_per_source_max` at once. As above.
    accepts_per_second_per_source_max: int = 32
    # From connect to the end of TLS, HELLO and AUTH: a person on a bad line needs less.
    handshake_seconds_max: float = 10.0
    # On a plain framing, from connect to the first byte of either side: somebody may still have to type it.
    first_byte_seconds_max: float = 60.0
    # On a plain framing, which has no ping: nothing has moved in either direction.
    silence_seconds_max: float = 600.0
    # No byte from the peer, pings unanswered: it has vanished. Seen within 45 s, our clock ticking once a second.
    idle_seconds_max: float = 40.0
    # We ask a silent peer whether it is there.
    ping_interval_seconds: float = 15.0
    # A peer that sends only control frames makes us work for nothing.
    control_frames_per_second_max: int = 1000
    # Control frames that wait for a peer that does not read; some answer what it sends, so it could make them grow.
    control_buffer_bytes_max: int = 64 * KIB
    # Everything that an unauthenticated peer can send before the handshake ends.
    handshake_bytes_max: int = 4 * KIB
    # Everything that we say to it by then: prefaces, HELLO, AUTH and a reason need less.
    handshake_reply_bytes_max: int = 1 * KIB
    # What a TLS handshake may bring: a client's certificate with its chain.
    tls_handshake_bytes_max: int = 32 * KIB
    # Sources of datagrams that we remember; the one idle longest is forgotten first.
    datagram_peers_max: int = 1024
    # Unfinished datagram messages of all peers together.
    reassembly_bytes_max: int = 32 * MIB
    # After SIGTERM, channels may finish their work this long.
    drain_seconds_max: float = 10.0

    def for_bulk(self) -> Limits:
        """The same for a connection whose purpose are large transfers: larger frames, more in flight."""
        return replace(
            self,
            frame_bytes_max=max(self.frame_bytes_max, self.bulk_frame_bytes_max),
            channel_credit_bytes=max(self.channel_credit_bytes, self.bulk_credit_bytes),
            connection_credit_bytes=max(self.connection_credit_bytes, self.bulk_credit_bytes),
        )
