"""What becomes of output before it is written: encodings, piece by piece, and nothing that steers a terminal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies

from kernel import UsageError
from kernel.plugins.shell import views

from .conftest import Run, Serve


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(min(place, len(data)) for place in at)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def viewed(view: views.View | None, parts: list[bytes]) -> bytes:
    assert view is not None
    return b"".join([*map(view.feed, parts), view.feed(b"", last=True)])


@given(strategies.text("中文ab\r\n\t ü"), strategies.lists(strategies.integers(0, 40)))
def test_characters_that_are_cut_anywhere_come_whole(text: str, at: list[int]):
    encoded = text.replace("ü", "").encode("gbk")
    assert viewed(views.make("gbk", harmless=False), pieces(encoded, at)).decode() == text.replace("ü", "")


@given(strategies.binary(), strategies.lists(strategies.integers(0, 40)))
def test_nothing_that_steers_a_terminal_comes_through(data: bytes, at: list[int]):
    text = viewed(views.make("", harmless=True), pieces(data, at)).decode()
    assert all(char.isprintable() or char in "\n\t" for char in text)
    assert text == viewed(views.make("", harmless=True), [data]).decode()


def test_what_prints_stays_as_it_is():
    text = "grün 中文 \t x\ny\r\nz"
    assert viewed(views.make("", harmless=True), [text.encode()]).decode() == text.replace("\r\n", "\n")
    assert views.make("", harmless=False) is None


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13"])
def test_an_encoding_that_is_none(name: str):
    with pytest.raises(UsageError, match=f"--output-encoding {name}: there is no such encoding"):
        views.make(name, harmless=False)


def test_gbk_becomes_ours_on_both_streams(serve: Serve, run: Run):
    endpoint = serve("[plugin.shell]\nfree = true").endpoints[0]
    text = "中文" * 50_000
    done = run(
        endpoint, "--output-encoding", "gbk", "--", "sh", "-c", "cat; printf '\\326\\320' >&2", stdin=text.encode("gbk")
    )
    assert (done.code, done.out.decode(), done.err) == (0, text, "中")
