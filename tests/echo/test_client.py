"""What the checking client does that no command line shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from kernel import MIB, Server
from kernel.plugins.echo.client import Plan, run
from kernel.plugins.echo.payload import Payload, generated
from kernel.plugins.echo.report import Tally

GUARD_SECONDS = 20


async def test_a_long_message_that_is_slow_to_read_is_not_overdue() -> None:
    whole = generated(1, 2 * MIB)

    def slowly(offset: int, nbytes: int) -> bytes:
        time.sleep(0.015)  # a slow disk, for longer than the time-out in all
        return whole.read(offset, nbytes)

    async def payloads(_boundaries: bool) -> AsyncIterator[Payload]:
        yield Payload(whole.size, slowly)

    tally = Tally()
    async with asyncio.timeout(GUARD_SECONDS), Server(["echo?mode=sink"], ["tcp://127.0.0.1:0"]) as server:
        await run(Plan(str(server.endpoints[0]), "echo", payloads, None, timeout_seconds=0.3), tally)
    assert tally.seconds >= 0.7
    assert (tally.sent, tally.lost) == (1, 1)
