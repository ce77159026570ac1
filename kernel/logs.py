"""The log: one line a record on stderr, as text for people or as JSON for programs.

What a peer sent may stand in any record, so nothing that a terminal could obey passes raw: each character that does not
print (control characters of both kinds, bidirectional overrides, line separators) is written as its escape. A traceback
is the only thing that takes more than one line, and only in text. Fields given with `extra={...}` stand behind the
message as `key=value`, in JSON as keys of their own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]
LEVELS: tuple[Level, ...] = get_args(Level)
FORMATS: tuple[Format, ...] = get_args(Format)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


def configure(level: Level, log_format: Format, stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream` (stderr), in place of what was configured before."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(wants_colour(stream)))
    # A log that cannot be written must not become an error of its own.
    logging.raiseExceptions = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def set_level(level: Level) -> None:
    """Change the level of what `configure` has set up."""
    logging.getLogger().setLevel(level.upper())


def wants_colour(stream: TextIO) -> bool:
    """Whether colours help: FORCE_COLOR says yes, NO_COLOR says no, else a terminal that can show them does."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def printable(text: str) -> str:
    """The text with every character that does not print as its escape: `\\x1b`, `\\u202e`, `\\n`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave with `extra={...}`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`2026-11-20T19:00:00.123Z warning kernel.server: message key=value`"""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        if self._colour and record.levelno in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelno]}m{level}\x1b[0m"
        fields = "".join(f" {key}={_quoted(str(value))}" for key, value in fields_of(record).items())
        line = f"{_timestamp(record)} {level} {record.name}: {printable(record.getMessage())}{fields}"
        return "\n  ".join([line, *_traceback(self.formatException, record)])


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, the fields, and `exception` where there was one."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        entry: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        for key, value in fields_of(record).items():
            entry[key] = value if isinstance(value, int | float | None) else printable(str(value))
        if lines := _traceback(self.formatException, record):
            entry["exception"] = "\n".join(lines)
        return json.dumps(entry, ensure_ascii=False)


def _timestamp(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _quoted(text: str) -> str:
    """A value that reads as one word, in quotes when it holds a space, a quote or nothing."""
    text = printable(text)
    if text and not set(text) & set(' "='):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _traceback(format_exception: Callable[..., str], record: logging.LogRecord) -> list[str]:
    if not record.exc_info or record.exc_info[1] is None:
        return []
    return [printable(line) for line in format_exception(record.exc_info).splitlines()]
