"""The numbers of a channel, or of a whole connection, that a lane changes too: credit, and how far a long message is.

What they mean, and what follows from them, is the session's affair alone (inbox and outbox). They stand in a place of
their own because a lane moves frames without the session's knowing, and pays for them: kernel/lane.py. Where there
are lanes, accounts are made in C (csrc/bridge_account.c) with the same attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel.framing.interface import Engine

NOTHING: Final = -1
"""No message is under way."""


class Account:
    """Attributes:

    receive_credit_bytes: what the peer may still send.
    ungranted_bytes: consumed, and not yet announced to the peer.
    send_credit_bytes: what we may still send.
    arriving_bytes: length of the long message that is arriving, or `NOTHING`.
    arriving_rest_bytes: what is missing of it.
    sending_rest_bytes: what is missing of the message that is being sent in pieces, or `NOTHING`.
    unfinished_bytes: what the long message that is being sent counts among the peer's unfinished ones.
    """

    __slots__ = (
        "arriving_bytes", "arriving_rest_bytes", "receive_credit_bytes", "send_credit_bytes", "sending_rest_bytes",
        "unfinished_bytes", "ungranted_bytes",
    )  # fmt: skip

    def __init__(self, receive_credit_bytes: int, send_credit_bytes: int) -> None:
        self.receive_credit_bytes = receive_credit_bytes
        self.ungranted_bytes = 0
        self.send_credit_bytes = send_credit_bytes
        self.arriving_bytes = NOTHING
        self.arriving_rest_bytes = 0
        self.sending_rest_bytes = NOTHING
        self.unfinished_bytes = 0


def account_maker(engine: Engine) -> Callable[[int, int], Account]:
    """Accounts as the engine's lanes know them."""
    if engine.name != "c":
        return Account
    from kernel.framing.native import make_account  # there for sure only where the engine is C

    make: Callable[[int, int], Account] = make_account
    return make
