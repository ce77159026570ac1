"""A payload read in parts is the payload read at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given, strategies as st

from kernel.plugins.echo.payload import generated, of_bytes, of_file


@given(st.integers(1, 2**40), st.integers(0, 200_000), st.lists(st.integers(0, 200_000), max_size=5))
def test_parts_of_a_generated_payload_join_to_the_whole(sequence: int, size: int, cuts: list[int]) -> None:
    payload = generated(sequence, size)
    whole = payload.whole()
    assert len(whole) == size
    edges = sorted({0, size, *(cut for cut in cuts if cut <= size)})
    parts = [payload.read(start, end - start) for start, end in pairwise(edges)]
    assert b"".join(parts) == whole


def test_reading_beyond_the_end_gives_what_there_is() -> None:
    assert len(generated(1, 100).read(90, 1000)) == 10
    assert of_bytes(b"hello").read(3, 100) == b"lo"


def test_generated_payloads_in_a_row_differ() -> None:
    assert len({generated(sequence, 8).whole() for sequence in range(1, 1000)}) == 999


def test_generated_payloads_stay_different_in_upper_case() -> None:
    assert len({generated(sequence, 8).whole().upper() for sequence in range(1, 1000)}) == 999


def test_a_generated_payload_holds_every_byte_value_unless_printable() -> None:
    assert set(generated(1, 10_000).whole()) == set(range(256))
    assert generated(1, 10_000, printable=True).whole().isascii()
    assert b"\n" not in generated(1, 10_000, printable=True).whole()


def test_a_file_is_read_from_its_position(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(100)))
    with path.open("rb", buffering=0) as file:
        file.seek(10)
        payload = of_file(file.fileno())
        assert payload.size == 90
        assert payload.read(80, 100) == bytes(range(90, 100))
        assert payload.whole() == bytes(range(10, 100))
