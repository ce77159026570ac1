"""The log: a line a record, nothing that a terminal would obey, fields that a program can read."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given, strategies as st

from kernel import logs

log = logging.getLogger("kernel.test")


@pytest.fixture(autouse=True)
def root_as_it_was():
    root = logging.getLogger()
    before = (root.level, root.handlers[:], logging.raiseExceptions)
    yield
    root.level, root.handlers[:], logging.raiseExceptions = before


def lines_of(log_format: logs.Format, level: logs.Level = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, log_format, stream)
    return stream


def test_a_text_line_holds_time_level_logger_message_and_fields():
    stream = lines_of("text")

    log.warning("peer %s left", "a", extra={"code": 7, "reason": "no such service", "empty": ""})

    time, rest = stream.getvalue().split(" ", 1)
    assert rest == 'warning kernel.test: peer a left code=7 reason="no such service" empty=""\n'
    assert time.endswith("Z")
    assert len(time) == len("2026-11-20T19:00:00.123Z")


def test_a_json_line_holds_the_same_as_keys():
    stream = lines_of("json")

    log.info("peer left", extra={"code": 7, "ratio": 0.5, "reason": ("a", "b"), "nothing": None})

    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "kernel.test",
        "message": "peer left",
        "code": 7,
        "ratio": 0.5,
        "reason": "('a', 'b')",
        "nothing": None,
    }


HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egnp.exe \u2028 \r\n \x7f \ud800"


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_what_a_terminal_could_obey_is_written_as_its_escape(log_format: logs.Format):
    stream = lines_of(log_format)

    log.info("nick %s", HOSTILE, extra={"reason": HOSTILE})

    written = stream.getvalue()
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert written.count("u202egnp.exe") == 2


@given(st.text())
def test_nothing_that_does_not_print_passes(text: str):
    assert logs.printable(text).isprintable()
    assert logs.printable(logs.printable(text)) == logs.printable(text)
    if text.isprintable():
        assert logs.printable(text) == text


def test_a_traceback_is_indented_text_and_one_json_key():
    written = {}
    for log_format in logs.FORMATS:
        stream = lines_of(log_format)
        try:
            raise ValueError("bad\x1b[2J")
        except ValueError:
            log.exception("failed")
        written[log_format] = stream.getvalue()

    first, *rest = written["text"].splitlines()
    assert first.endswith("error kernel.test: failed")
    assert rest[-1] == "  ValueError: bad\\x1b[2J"
    assert all(line.startswith("  ") for line in rest)
    assert json.loads(written["json"])["exception"].endswith("ValueError: bad\\x1b[2J")


def test_the_level_is_kept_and_can_be_changed():
    stream = lines_of("text", "warning")
    log.info("unheard")
    logs.set_level("debug")
    log.debug("heard")
    assert stream.getvalue().endswith("debug kernel.test: heard\n")
    assert "unheard" not in stream.getvalue()


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
    ],
)
def test_colours_are_for_terminals_unless_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_terminal: bool, expected: bool
):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal

    assert logs.wants_colour(stream) is expected
    logs.configure("info", "text", stream)
    log.error("red")
    assert ("\x1b[31merror\x1b[0m" in stream.getvalue()) is expected


def test_a_log_that_cannot_be_written_is_no_error_of_its_own(capsys: pytest.CaptureFixture[str]):
    stream = lines_of("text")
    stream.close()
    log.error("into the void")
    assert capsys.readouterr().err == ""
