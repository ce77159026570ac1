"""Every limit, in one place: its name, unit, default and reason.

A limit holds for one server (`Server(limits=...)`, `[limits]` in the configuration file) or one client. The sans-I/O
session and the link read the same object, so the number that is configured is the number in force.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


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
    # What may wait for a peer that does not read, before it is evicted.
    write_buffer_bytes_max: int = 16 * MIB
    # Each costs some KiB; more than any browser or gateway opens.
    channels_max: int = 256
    # Below 90 % of the usual 1,024 descriptors; raised together with RLIMIT_NOFILE.
    connections_max: int = 900
    # From connect to the end of HELLO (and AUTH): a person on a bad line needs less.
    handshake_seconds_max: float = 10.0
    # No byte from the peer, pings unanswered: it has vanished.
    idle_seconds_max: float = 45.0
    # We ask a silent peer whether it is there.
    ping_interval_seconds: float = 15.0
    # A peer that sends only control frames makes us work for nothing.
    control_frames_per_second_max: int = 1000
    # Everything that an unauthenticated peer can send before the handshake ends.
    handshake_bytes_max: int = 4 * KIB
    # Sources of datagrams that we remember; the one idle longest is forgotten first.
    datagram_peers_max: int = 1024
    # Unfinished datagram messages of all peers together.
    reassembly_bytes_max: int = 32 * MIB
    # After SIGTERM, channels may finish their work this long.
    drain_seconds_max: float = 10.0
