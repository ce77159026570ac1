"""What a bad network does to packets, decided by a seed: the same seed, the same weather. No I/O and no clock.

A `Path` is one direction of one connection. Asked when a packet of so many bytes that leaves now will arrive, it
answers with a list of times: one as a rule, none when the packet is lost, two when it is duplicated.

On a stream the network below repairs what it breaks, as TCP would: nothing is lost, doubled or out of order, but what
was lost arrives later, when it was sent again. Only a cut ends a stream: the connection is reset.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from kernel.errors import OptionError
from kernel.options import Meta

# How long a stream's sender waits for an acknowledgement, at least, before it sends again; doubled each time.
_RESEND_SECONDS_MIN = 0.2
# So often is a packet of a stream sent; then the network is held for dead.
_SENDINGS_MAX = 8
# A packet that is overtaken is so late, at least: enough for some others to come first.
_OVERTAKEN_SECONDS_MIN = 0.01

Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Weather:
    """The part of a transport's options that says how bad its network is. The default is no weather at all."""

    seed: Annotated[int, Meta(ge=0, description="decides everything that happens by chance")] = 0
    delay_seconds: Annotated[float, Meta(ge=0, description="from one end to the other")] = 0.0
    jitter_seconds: Annotated[float, Meta(ge=0, description="up to so much more delay, by chance")] = 0.0
    bandwidth_bytes_per_second: Annotated[int, Meta(ge=0, description="of each connection and direction; 0: any")] = 0
    loss: Annotated[float, Meta(ge=0, le=1, description="share of packets lost; on a stream they come later")] = 0.0
    duplicate: Annotated[float, Meta(ge=0, le=1, description="share of datagrams that arrive twice")] = 0.0
    reorder: Annotated[float, Meta(ge=0, le=1, description="share of datagrams that others overtake")] = 0.0
    cut: Annotated[float, Meta(ge=0, le=1, description="share of packets with which the connection breaks")] = 0.0
    outage_every_seconds: Annotated[
        float, Meta(ge=0, description="mean time between outages, in which nothing passes; 0: none")
    ] = 0.0
    outage_seconds: Annotated[float, Meta(ge=0, description="how long an outage lasts")] = 1.0
    buffer_bytes: Annotated[
        int, Meta(ge=1, description="what is on its way at most: a stream's sender waits then, datagrams are lost")
    ] = 65536
    packet_bytes: Annotated[int, Meta(ge=1, le=65507, description="a stream is cut into pieces of at most that")] = 1448


class Cut(Exception):
    """The connection has broken."""


class Outages:
    """The times in which nothing passes between two ends, in either direction.

    Args:
        chance: a generator of this object's own.
    """

    def __init__(self, weather: Weather, chance: random.Random) -> None:
        self._weather = weather
        self._chance = chance
        self._begins_at = 0.0
        self._ends_at = 0.0
        self._started = False

    def end_of(self, now: float) -> float:
        """When the outage that holds now is over; now, when there is none."""
        if not self._weather.outage_every_seconds:
            return now
        if not self._started:
            self._started = True
            self._plan(now)
        while now >= self._ends_at:
            self._plan(self._ends_at)
        return self._ends_at if now >= self._begins_at else now

    def _plan(self, after: float) -> None:
        self._begins_at = after + self._chance.expovariate(1 / self._weather.outage_every_seconds)
        self._ends_at = self._begins_at + self._weather.outage_seconds


class Path:
    """One direction of one connection.

    Args:
        is_stream: what is lost is sent again, and nothing overtakes.
        outages: shared by both directions.
        chance: a generator of this object's own.
    """

    def __init__(self, weather: Weather, *, is_stream: bool, outages: Outages, chance: random.Random) -> None:
        self._weather = weather
        self._is_stream = is_stream
        self._outages = outages
        self._chance = chance
        self._line_free_at = 0.0
        self._last_arrival = 0.0
        self._is_cut = False

    def piece_bytes(self) -> int:
        """How many bytes of a stream travel together next: a full packet as a rule, fewer by chance."""
        full = self._weather.packet_bytes
        return full if self._chance.random() < 0.7 else self._chance.randint(1, full)

    def send(self, now: float, nbytes: int) -> list[float]:
        """When a packet that leaves now arrives.

        Raises:
            Cut: it does not, and the connection has broken (streams; datagrams are lost from then on).
        """
        if self._chance.random() < self._weather.cut:
            self._is_cut = True
        if self._is_cut:
            if self._is_stream:
                raise Cut("the connection was cut")
            return []
        return [self._stream_arrival(now, nbytes)] if self._is_stream else self._datagram_arrivals(now, nbytes)

    def _stream_arrival(self, now: float, nbytes: int) -> float:
        sent_at = self._off_the_line(now, nbytes)
        wait = max(_RESEND_SECONDS_MIN, 2 * (self._weather.delay_seconds + self._weather.jitter_seconds))
        for _ in range(_SENDINGS_MAX):
            if self._outages.end_of(sent_at) == sent_at and self._chance.random() >= self._weather.loss:
                self._last_arrival = max(self._last_arrival, sent_at + self._travel_seconds())
                return self._last_arrival
            sent_at += wait
            wait *= 2
        raise Cut(f"{_SENDINGS_MAX} times sent, never acknowledged")

    def _datagram_arrivals(self, now: float, nbytes: int) -> list[float]:
        waiting = max(0.0, self._line_free_at - now) * self._weather.bandwidth_bytes_per_second
        if waiting > self._weather.buffer_bytes or self._outages.end_of(now) > now:
            return []
        sent_at = self._off_the_line(now, nbytes)
        if self._chance.random() < self._weather.loss:
            return []
        copies = 1 + (self._chance.random() < self._weather.duplicate)
        return [sent_at + self._travel_seconds() + self._overtaken_seconds() for _ in range(copies)]

    def _off_the_line(self, now: float, nbytes: int) -> float:
        """When the last byte has left: what was sent before must have left by then."""
        if not self._weather.bandwidth_bytes_per_second:
            return now
        self._line_free_at = max(now, self._line_free_at) + nbytes / self._weather.bandwidth_bytes_per_second
        return self._line_free_at

    def _travel_seconds(self) -> float:
        return self._weather.delay_seconds + self._weather.jitter_seconds * self._chance.random()

    def _overtaken_seconds(self) -> float:
        if self._chance.random() >= self._weather.reorder:
            return 0.0
        return self._chance.random() * max(2 * self._weather.delay_seconds, _OVERTAKEN_SECONDS_MIN)


def paths(weather: Weather, connection: int, *, is_stream: bool) -> tuple[Path, Path]:
    """Both directions of a connection: the one away from who dialled, and the one back.

    Args:
        connection: its number; together with the seed it decides everything.
    """
    chances = [random.Random(f"{weather.seed}/{connection}/{use}") for use in ("outages", "there", "back")]
    outages = Outages(weather, chances[0])
    there, back = (Path(weather, is_stream=is_stream, outages=outages, chance=chance) for chance in chances[1:])
    return there, back


def check_stream(weather: Weather, owner: str) -> None:
    """Refuse what cannot happen to a stream.

    Raises:
        OptionError: the weather has it.
    """
    for name in ("duplicate", "reorder"):
        if getattr(weather, name):
            raise OptionError(f"{owner}: on a stream nothing is doubled or overtaken: leave '{name}' out")
