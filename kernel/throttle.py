"""Records that strangers can cause: at most one a second, and what was left out is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_SECONDS = 1.0


class Throttle:
    """One kind of record of one logger.

    Args:
        log: where the records go.
        clock: seconds that never run backwards.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._quiet_until = float("-inf")
        self._left_out = 0

    def record(self, level: int, message: str, *args: object, **fields: object) -> None:
        """Log it with `fields` behind it, unless a record was logged within the last second."""
        now = self._clock()
        if now < self._quiet_until:
            self._left_out += 1
            return
        if self._left_out:
            fields["left_out"] = self._left_out
        self._left_out = 0
        self._quiet_until = now + _SECONDS
        self._log.log(level, message, *args, extra=fields)
