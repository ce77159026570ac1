"""The access log: a record for each channel that was served, when it is over: who, what, for how long, why it ended.

Connections that come to no channel are in the log of `kernel.server`: turned away, refused, ended with a reason.
"""

from __future__ import annotations

import logging
import time

from kernel.channel import Channel
from kernel.errors import Code

LOGGER = "kernel.access"

log = logging.getLogger(LOGGER)


def record(channel: Channel) -> None:
    """Log the channel's end; it has just begun."""
    began = time.monotonic()

    def ended() -> None:
        code = Code.LOST if channel.code is None else channel.code
        told = {
            "peer": channel.peer.address,
            "principal": str(channel.peer.principal),
            "transport": channel.peer.transport,
            "service": channel.service,
            "code": code.label,
            "reason": channel.reason,
            "seconds": round(time.monotonic() - began, 3),
        }
        log.info("a channel ended", extra=told)

    if channel.code is None:
        channel.on_over(ended)
    else:
        ended()
