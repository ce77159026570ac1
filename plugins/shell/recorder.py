"""A terminal session as an asciicast v2 file, which `asciinema play` plays.

What is shown is recorded, not what is typed: passwords are not shown. A recording that cannot be written ends its
session: who asked for it does not want sessions without.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from typing import Any

from .protocol import Terminal

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_PRINCIPAL_CHARS_MAX = 64


class Recorder:
    """One recording. Made with its file.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, directory: str, principal: str, session: str, terminal: Terminal, title: str) -> None:
        now = time.time()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        who = _UNSAFE.sub("-", principal)[:_PRINCIPAL_CHARS_MAX]
        self.path = os.path.join(directory, f"{moment}-{who}-{session}.cast")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # A title may hold bytes that are no text.
        self._file = open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n")  # noqa: SIM115  # closed by `close`
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = time.monotonic()
        header = {
            "version": 2,
            "width": terminal.columns,
            "height": terminal.rows,
            "timestamp": int(now),
            "title": title,
            "env": {"TERM": terminal.term},
        }
        self._write(header)

    def output(self, data: bytes) -> None:
        """What the terminal showed."""
        text = self._decoder.decode(data)
        if text:
            self._event("o", text)

    def resized(self, columns: int, rows: int) -> None:
        """It has another size."""
        self._event("r", f"{columns}x{rows}")

    def close(self) -> None:
        """The session is over."""
        if text := self._decoder.decode(b"", final=True):
            self._event("o", text)
        self._file.close()

    def _event(self, kind: str, text: str) -> None:
        self._write([round(time.monotonic() - self._started, 6), kind, text])

    def _write(self, line: Any) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
