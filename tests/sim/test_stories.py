"""Every seed's story ends exactly, or cleanly; it never hangs; and told again it is the same.

A seed that fails is in the message: `run(SEED, stream_weather(random.Random(SEED)))` replays it.
Each engine has seeds of its own; a run on each tells 1,000 stories, and 10,000 with the long ones.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest
import sim.story
from sim.story import Telling, datagram_weather, is_mild, run, stream_weather

from kernel.framing import engine_name

STREAMS = 350
DATAGRAMS = 150
CHUNK = 50
LONG = 10
SHARE = 0 if engine_name() == "c" else 1

MakeWeather = Callable[[random.Random], dict[str, str]]


def of_this_engine(count: int, step: int) -> range:
    """Every `step`-th seed of those that are this engine's."""
    return range(SHARE * count, (SHARE + 1) * count, step)


def tell_all(seeds: Iterable[int], weather_of: MakeWeather, extra: str = "", scheme: str = "sim") -> list[Telling]:
    """Tell the stories of some seeds; in mild weather nothing may fail."""
    tellings = []
    for seed in seeds:
        weather = weather_of(random.Random(seed))
        try:
            told = run(seed, weather, extra, scheme)
            assert told.exact or told.failed
            assert not (is_mild(weather) and told.failed), told.failed
        except Exception as error:
            raise AssertionError(f"{scheme} seed {seed}{extra} in the weather {weather}: {error!r}") from error
        tellings.append(told)
    return tellings


@pytest.mark.parametrize("first", of_this_engine(STREAMS, CHUNK))
def test_streams(first: int):
    tell_all(range(first, first + CHUNK), stream_weather)


@pytest.mark.parametrize("first", of_this_engine(DATAGRAMS, CHUNK))
def test_datagrams(first: int):
    tell_all(range(first, first + CHUNK), datagram_weather)


@pytest.mark.parametrize("framing", ["length", "length&width=2&endian=little"])
def test_plain_framings(framing: str):
    tell_all(range(CHUNK), stream_weather, f"&framing={framing}")


@pytest.mark.parametrize("weather_of", [stream_weather, datagram_weather])
def test_chaos_around_a_transport(weather_of: MakeWeather):
    tell_all(range(CHUNK), weather_of, scheme="chaos+sim")


def test_the_stories_are_of_all_sorts():
    tellings = tell_all(range(CHUNK), stream_weather)
    assert sum(told.exact for told in tellings) > CHUNK / 2
    reasons = {reason.partition(":")[0] for told in tellings for reason in told.failed}
    assert {"lost", "dial"} <= reasons
    assert sum(told.lost for told in tell_all(range(CHUNK), datagram_weather)) > 10


@pytest.mark.parametrize("weather_of", [stream_weather, datagram_weather])
@pytest.mark.parametrize("seed", [3, 11, 20])
def test_a_seed_replays_exactly(seed: int, weather_of: MakeWeather):
    weather = weather_of(random.Random(seed))
    first, again = run(seed, weather), run(seed, weather)
    assert len(first.events) > 1
    assert first == again


def test_a_seed_replays_in_another_process():
    """Nothing of a story hangs on what a process decides for itself, as the order of sets."""
    program = "import random, sim.story as s; print(s.run(11, s.stream_weather(random.Random(11))))"
    place = os.path.dirname(os.path.dirname(sim.story.__file__))
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": place, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    ]
    assert told[0].count("got") > 1
    assert told[0] == told[1]


@pytest.mark.long
@pytest.mark.parametrize("first", of_this_engine(LONG * STREAMS, 10 * CHUNK))
def test_many_streams(first: int):
    tell_all(range(first, first + 10 * CHUNK), stream_weather)


@pytest.mark.long
@pytest.mark.parametrize("first", of_this_engine(LONG * DATAGRAMS, 10 * CHUNK))
def test_many_datagrams(first: int):
    tell_all(range(first, first + 10 * CHUNK), datagram_weather)
