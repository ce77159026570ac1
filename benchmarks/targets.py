"""What this project promises about its echo path: ratios to peers, measured in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import servers
from kernel.bench.load import Sample
from kernel.bench.timing import Spread, ratios

Series = Mapping[tuple[str, str, str], Sequence[Sample]]
"""Samples, round by round, by (server, transport, cell)."""


@dataclass(frozen=True)
class Target:
    """`server` is to reach at least `ratio` times what `peer` does, in each of the cells."""

    server: str
    peer: str
    ratio: float
    transport: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """A target's ratio in one cell.

    Attributes:
        measured: by messages per second, which decides.
        by_cost: by the server's processor time for a message. Where the server is the bottleneck both are the same on a
            quiet machine; on a busy one this is the better estimate.
    """

    target: Target
    cell: str
    measured: Spread
    by_cost: Spread

    @property
    def met(self) -> bool:
        """By the median."""
        return self.measured.median >= self.target.ratio


_ALL = ("16 B x 1", "16 B x 128", "1 KiB x 128", "64 KiB x 16", "1 MiB x 1", "64 conns x 1 KiB")
_DEEP = ("16 B x 128", "1 KiB x 128")


def _stream_targets(transport: str) -> Iterator[Target]:
    for ours in (servers.OURS, servers.OURS_ASYNCIO):
        yield Target(ours, servers.UVLOOP_PROTOCOL, 1.0, transport, _ALL)
        yield Target(ours, servers.UVLOOP_PROTOCOL, 1.5, transport, _DEEP)
        yield Target(ours, servers.UVLOOP_PROTOCOL, 3.0, transport, ("1 MiB x 1",))
        yield Target(ours, servers.ASYNCIO_STREAMS, 8.0, transport, _DEEP)
    yield Target(servers.OURS_KNL, servers.OURS, 0.7, transport, _ALL)
    yield Target(servers.OURS, servers.PYZMQ, 5.0, transport, _DEEP)


TARGETS = (
    *_stream_targets("tcp"),
    *_stream_targets("unix"),
    Target(servers.OURS_UDP, servers.UDP_ASYNCIO, 4.0, "udp", ("1 KiB x 64",)),
    Target(servers.OURS_UDP, servers.UDP_UVLOOP, 1.0, "udp", ("1 KiB x 64",)),
)


def verdicts(series: Series) -> Iterator[Verdict]:
    """Of the targets, those of which both sides were measured."""
    for target in TARGETS:
        for cell in target.cells:
            ours = series.get((target.server, target.transport, cell))
            theirs = series.get((target.peer, target.transport, cell))
            if ours and theirs:
                rate = ratios([one.messages_per_second for one in ours], [one.messages_per_second for one in theirs])
                cost = ratios([one.server_us for one in theirs], [one.server_us for one in ours])
                yield Verdict(target, cell, rate, cost)
