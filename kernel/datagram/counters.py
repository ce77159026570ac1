"""What was not taken, counted: a datagram that is dropped makes no noise elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class GateCounters:
    """Packets that belong to no connection.

    Attributes:
        empty: datagrams without a byte; dropped.
        foreign: too short for a header, or without our magic number; dropped.
        own_direction: sent by a server, as we are; dropped.
        versions: of another version of the protocol.
        malformed: such as no sender of this protocol makes; dropped.
        cookies: INIT, answered with COOKIE.
        bad_cookies: CONNECT with a cookie that is wrong, expired, or another source's.
        admitted: CONNECT for which a connection may be made.
        unknown: of a connection that does not exist, or no longer.
        closing: INIT, while the listener takes no new connections.
    """

    empty: int = 0
    foreign: int = 0
    own_direction: int = 0
    versions: int = 0
    malformed: int = 0
    cookies: int = 0
    bad_cookies: int = 0
    admitted: int = 0
    unknown: int = 0
    closing: int = 0


@dataclass(slots=True)
class SessionCounters:
    """What came to a connection and changed nothing.

    Attributes:
        malformed: packets that no sender of this protocol makes.
        own_direction: packets from our own side of the protocol.
        foreign: packets of another connection, or that do not belong here or now.
        duplicates: data packets of messages that were delivered, or given up, before.
        rejected: data packets of messages over the limit, and such as contradict their message.
        late: messages after the end of their direction.
        overrun: messages for which the service left no room.
    """

    malformed: int = 0
    own_direction: int = 0
    foreign: int = 0
    duplicates: int = 0
    rejected: int = 0
    late: int = 0
    overrun: int = 0
