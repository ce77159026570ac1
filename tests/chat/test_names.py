"""Which names there may be, which look alike, and what of a text is made harmless."""

from __future__ import annotations

import unicodedata

import pytest

from kernel.plugins.chat.names import check_nick, check_room, fold, is_logged
from kernel.plugins.chat.text import clean, clean_line


@pytest.mark.parametrize("nick", ["ada", "Ada-2", "a.b_c", "Zoë", "李雷", "Ольга", "עדה", "x" * 24])
def test_people_may_be_called_as_they_are(nick: str) -> None:
    assert check_nick(nick) == unicodedata.normalize("NFKC", nick)


@pytest.mark.parametrize(
    ("nick", "why"),
    [
        ("", "a nickname is needed"),
        ("x" * 25, "at most 24 characters, not 25"),
        ("-ada", "begins with a letter or a digit"),
        ("a b", "' ' is none of them"),
        ("a\x1bb", "'\\x1b' is none of them"),
        ("a\u202eb", "'\\u202e' is none of them"),
        ("a\u200bb", "'\\u200b' is none of them"),
        ("a\u00adb", "'\\xad' is none of them"),
        ("a" + "\u0301" * 9, "none of them"),
        *((f"ada{char}", "none of them") for char in "\u034f\u115f\u1160\u17b4\u180b\u3164\ufe0f\uffa0\U000e0100"),
        ("\u3164", "none of them"),
        ("@ada", "begins with"),
        ("ada\n", "'\\n' is none of them"),
        ("a😀", "none of them"),
    ],
)
def test_no_name_hides_or_steers(nick: str, why: str) -> None:
    with pytest.raises(ValueError, match="nickname") as caught:
        check_nick(nick)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada", "ADA"), ("ada", "аԁа"), ("paypal", "раураl"), ("Bill", "BiII"), ("Bill", "B1ll"), ("modern", "modem"),
        ("root", "r00t"), ("αda", "ada"), ("straße", "STRASSE"), ("ﬁn", "fin"), ("ａｄａ", "ada"), ("vvv", "wv"),
    ],
)  # fmt: skip
def test_what_looks_alike_is_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("ada", "bob"), ("anna", "hanna"), ("Ольга", "Olga"), ("李", "雷")])
def test_what_looks_different_is_different(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_rooms_may_have_a_sign_in_front_and_are_all_lower_case() -> None:
    assert [check_room(room) for room in ("#Tea", "tea", "~Secret", "#~secret")] == ["tea", "tea", "~secret", "~secret"]
    assert (is_logged("tea"), is_logged("~tea")) == (True, False)
    for bad in ("", "#", "~", "@box", "a room", "../x"):
        with pytest.raises(ValueError, match="room name"):
            check_room(bad)


def test_no_control_or_bidi_character_survives() -> None:
    for code in range(0x110000):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        ):  # fmt: skip
            assert char in "\n\t" or char not in clean(f"a{char}b"), hex(code)


def test_cleaning_keeps_what_people_write_and_is_done_once() -> None:
    text = "Größe 李雷 👩‍👩‍👧 عربي\tx\r\ny"
    assert clean(text) == text.replace("\r", "")
    assert clean(clean("\x1b[2J")) == clean("\x1b[2J") == "\\x1b[2J"
    assert clean_line("a\n b\t\x07") == "a b \\x07"
