"""What transfers that are under way may hold of a server: so many places, for so long without a byte.

A transfer costs an open file, a thread and some blocks of memory; an upload also a name that nobody else can send to
meanwhile. So each takes a place first, of the server's and of its principal's, and an upload whose client falls silent
loses it. What such an upload had brought is kept for its next attempt, as after a cut. Of a download nothing is asked:
who reads it through a pager may take all day, in his place.

All of this belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from kernel.api import Peer

from .errors import FileError
from .silence import Listening, allowed, watching


class Stalled(FileError):
    """A client that had more to send has sent nothing for too long."""


class Places:
    """Places for transfers of one direction.

    Args:
        what: their name: `uploads`.
        total_max, principal_max: at once; 0: no limit.
    """

    def __init__(self, what: str, total_max: int = 0, principal_max: int = 0) -> None:
        self._what = what
        self._total_max = total_max
        self._principal_max = principal_max
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(self, peer: Peer) -> Iterator[None]:
        """Take a place for the length of the `with`.

        Raises:
            FileError: there is none.
        """
        account = account_of(peer)
        if self._principal_max and self._taken[account] >= self._principal_max:
            raise FileError("busy", self._refusal("of yours ", self._principal_max, f"{self._what}_per_principal_max"))
        if self._total_max and self._taken.total() >= self._total_max:
            raise FileError("busy", self._refusal("", self._total_max, f"{self._what}_max"))
        self._taken[account] += 1
        try:
            yield
        finally:
            self._taken[account] -= 1
            if not self._taken[account]:
                del self._taken[account]

    def _refusal(self, whose: str, limit: int, option: str) -> str:
        return f"{limit} {self._what} {whose}are under way, which is the limit ({option}): repeat when one has ended"


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """What transfers may hold of a server."""

    uploads: Places
    downloads: Places
    stalled_seconds_max: float


def account_of(peer: Peer) -> str:
    """On whose account a transfer goes: who the peer has proved to be; of one that has proved nothing, where it is."""
    if peer.principal.mechanism != "none":
        return str(peer.principal)
    return peer.address.rpartition(":")[0]


@contextlib.asynccontextmanager
async def patience(client: Listening, seconds: float, held_blocks: int = 0) -> AsyncIterator[None]:
    """End what waits for a client that sends nothing for so long. The time that our own disk takes does not count.

    Args:
        seconds: 0: for ever.
        held_blocks: it sums up so many blocks first.

    Raises:
        Stalled: it has sent nothing.
    """
    if not seconds:
        yield
        return
    loop, limit = asyncio.get_running_loop(), allowed(seconds, held_blocks)
    try:
        async with asyncio.timeout(None) as timeout:
            with watching(client, limit, lambda: timeout.reschedule(loop.time())):
                yield
    except TimeoutError:
        if not timeout.expired():
            raise
        text = f"nothing has come for {limit:g} s (stalled_seconds_max): what has come is kept, repeat to continue"
        raise Stalled("stalled", text) from None
