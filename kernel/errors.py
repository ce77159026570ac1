"""Every error that the kernel raises, and who is to blame for it.

    KernelError
    |-- UsageError          you called us wrongly, or asked for what cannot be      exit 2
    |   |-- EndpointError   an endpoint string that cannot be understood
    |   |-- OptionError     an option that is unknown, or a value out of range
    |   `-- PluginError     a plugin is missing, ambiguous or denied
    |       `-- BrokenPlugin    it is installed, and cannot be used
    |-- StartError          the outside world refused (busy port, missing file)     exit 3
    |   `-- NeedsCapability a service needs what the transport does not give
    |-- DialError           nobody answered, or the answer was not ours             exit 1
    `-- ChannelClosed       the conversation is over; `code` and `reason` say why   exit 1
        |-- PeerError       because the peer broke the protocol
        `-- Refused         before it began: the peer surely did not process it

Each message is one line that names what, where and the remedy: it is shown to people as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Code(IntEnum):
    """Why a channel or a connection ended, on the wire and in logs. docs/protocol.md holds the same list."""

    OK = 0
    PROTOCOL = 1
    VERSION = 2
    FRAME_TOO_LARGE = 3
    MESSAGE_TOO_LARGE = 4
    FLOW_CONTROL = 5
    BAD_CHECKSUM = 6
    NO_SUCH_SERVICE = 7
    REFUSED = 8
    CANCELLED = 9
    INTERNAL = 10
    UNAUTHENTICATED = 11
    FORBIDDEN = 12
    OVERLOADED = 13
    IDLE = 14
    HANDSHAKE_TIMEOUT = 15
    SLOW_READER = 16
    SHUTTING_DOWN = 17
    NEEDS_CAPABILITY = 18
    TOO_MANY_CHANNELS = 19
    RATE_LIMITED = 20
    LOST = 21

    @property
    def label(self) -> str:
        """The code as people and logs see it: `no such service`."""
        return self.name.lower().replace("_", " ")


class KernelError(Exception):
    """The root: catch it to catch everything that the kernel raises on purpose."""

    exit_code = 1


class UsageError(KernelError):
    """You misused us; the message says how to do it right."""

    exit_code = 2


class EndpointError(UsageError, ValueError):
    """An endpoint string that cannot be understood."""


class OptionError(UsageError, ValueError):
    """An option that nobody knows, or a value that does not fit it."""


class PluginError(UsageError):
    """A plugin is missing, ambiguous, denied or broken."""


class BrokenPlugin(PluginError):
    """A plugin is installed and cannot be used: its import fails, it is incomplete, or for another API version."""


class StartError(KernelError):
    """The outside world refused: a busy port, a missing directory, a forbidden bind."""

    exit_code = 3


class NeedsCapability(StartError):
    """A service needs something that the transport, or its framing, does not give."""


class DialError(KernelError):
    """Nobody answered, or what answered does not speak our protocol, or turned us away.

    Attributes:
        code: why, for programs.
    """

    def __init__(self, message: str, code: Code = Code.LOST) -> None:
        super().__init__(message)
        self.code = code


class ChannelClosed(KernelError):
    """The channel is over.

    Attributes:
        code: why, for programs.
        reason: why, for people; one line.
    """

    def __init__(self, code: Code, reason: str = "") -> None:
        super().__init__(f"{code.label}: {reason}" if reason else code.label)
        self.code = code
        self.reason = reason


class PeerError(ChannelClosed):
    """The peer broke the protocol; the connection is being closed."""


class Refused(ChannelClosed):
    """The peer turned the channel away before any service saw it: to try again elsewhere is safe."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that nobody knows: `did you mean 'x'?`, or nothing when nothing is close."""
    import difflib

    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean '{close[0]}'?" if close else ""
