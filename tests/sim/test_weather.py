"""The weather alone: what a path answers, without a network around it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from kernel import OptionError
from kernel.transports.weather import Cut, Path, Weather, check_stream, paths

PACKETS = 10_000


def stream(**weather: Any) -> Path:
    return paths(Weather(**weather), 1, is_stream=True)[0]


def datagrams(**weather: Any) -> Path:
    return paths(Weather(**weather), 1, is_stream=False)[0]


def test_without_weather_everything_arrives_at_once():
    assert stream().send(5.0, 1000) == [5.0]
    assert datagrams().send(5.0, 1000) == [5.0]


def test_delay_and_bandwidth_add_up():
    path = stream(delay_seconds=0.5, bandwidth_bytes_per_second=1000)
    assert path.send(0.0, 1000) == [pytest.approx(1.5)]
    assert path.send(0.0, 1000) == [pytest.approx(2.5)]
    assert path.send(10.0, 500) == [pytest.approx(11.0)]


def test_a_stream_is_never_out_of_order_and_loses_nothing():
    path = stream(jitter_seconds=0.5, loss=0.2)
    arrivals = [path.send(number / 100, 100) for number in range(PACKETS)]
    assert all(len(times) == 1 for times in arrivals)
    assert all(a <= b for a, b in itertools.pairwise(times[0] for times in arrivals))


def test_what_a_stream_loses_comes_later():
    path = stream(delay_seconds=0.1, loss=0.2)
    late = sum(path.send(number * 1000.0, 100)[0] > number * 1000.0 + 0.15 for number in range(PACKETS))
    assert late == pytest.approx(0.2 * PACKETS, rel=0.1)


def test_a_stream_through_which_nothing_comes_breaks():
    with pytest.raises(Cut, match="never acknowledged"):
        stream(loss=1.0).send(0.0, 100)


def test_datagrams_are_lost_doubled_and_overtaken_as_often_as_asked():
    path = datagrams(loss=0.1, duplicate=0.2, reorder=0.3)
    arrivals = [path.send(float(number), 100) for number in range(PACKETS)]
    delivered = [times for times in arrivals if times]
    assert len(arrivals) - len(delivered) == pytest.approx(0.1 * PACKETS, rel=0.1)
    assert sum(len(times) == 2 for times in delivered) == pytest.approx(0.2 * len(delivered), rel=0.1)
    late = sum(at != int(at) for times in delivered for at in times)
    assert late == pytest.approx(0.3 * sum(map(len, delivered)), rel=0.1)


def test_a_full_line_drops_datagrams():
    path = datagrams(bandwidth_bytes_per_second=1000, buffer_bytes=5000)
    delivered = sum(bool(path.send(0.0, 1000)) for _ in range(100))
    assert delivered == 6  # five wait, one more is found to be too many only behind it


def test_a_cut_is_for_ever():
    path = stream(cut=1.0)
    with pytest.raises(Cut):
        path.send(0.0, 1)
    path = datagrams(cut=0.01)
    first_lost = next(number for number in range(PACKETS) if not path.send(float(number), 1))
    assert not any(path.send(float(first_lost + number), 1) for number in range(100))


def test_in_an_outage_nothing_passes_in_either_direction():
    there, back = paths(Weather(outage_every_seconds=10, outage_seconds=2), 1, is_stream=False)
    passes = [(bool(there.send(at / 10, 1)), bool(back.send(at / 10, 1))) for at in range(PACKETS)]
    assert all(one == other for one, other in passes)
    assert sum(not one for one, _ in passes) == pytest.approx(PACKETS / 6, rel=0.3)


def test_a_stream_gets_through_when_the_outage_is_over():
    path = stream(outage_every_seconds=10, outage_seconds=2)
    delays = [path.send(float(at), 100)[0] - at for at in range(1000)]
    assert delays.count(0.0) > 500
    assert 1.0 < max(delays) < 60.0


def test_the_seed_decides_and_connections_differ():
    weather = Weather(seed=7, jitter_seconds=1.0)

    def times(connection: int, weather: Weather = weather) -> list[list[float]]:
        there, back = paths(weather, connection, is_stream=True)
        return [path.send(at / 10, 1) for path in (there, back) for at in range(20)]

    assert times(1) == times(1)
    assert times(1) != times(2)
    assert times(1) != times(1, dataclasses.replace(weather, seed=8))
    assert times(1)[:20] != times(1)[20:]


def test_pieces_of_a_stream_are_of_all_sizes():
    path = stream(packet_bytes=100)
    sizes = [path.piece_bytes() for _ in range(PACKETS)]
    assert set(sizes) == set(range(1, 101))
    assert sizes.count(100) > PACKETS / 2


@pytest.mark.parametrize("name", ["duplicate", "reorder"])
def test_what_cannot_happen_to_a_stream_is_refused(name: str):
    with pytest.raises(OptionError, match=f"sim://x: on a stream nothing is doubled or overtaken: leave '{name}' out"):
        check_stream(Weather(**{name: 0.1}), "sim://x")
