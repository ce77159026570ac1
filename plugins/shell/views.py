"""What becomes of the output's bytes before they are written here: nothing, unless somebody asked, or could be harmed.

`--output-encoding` turns text of the remote side's encoding into ours, piece by piece, however its characters are cut.
And where output that is no terminal session's comes to a terminal, control characters are shown as escapes: they were
not meant for it, and whoever wrote them decides what they would do to it.
"""

from __future__ import annotations

import codecs
import locale

from kernel.errors import UsageError

_TARGET = "utf-8"
_KEPT = "\n\t"


class View:
    """One stream on its way; keeps what is left of a character that was cut.

    Args:
        encoding: of the bytes that come.
        harmless: no control characters shall come out, but newlines and tabs.
    """

    def __init__(self, encoding: str, *, harmless: bool) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
        self._target = locale.getpreferredencoding(False) or _TARGET
        self._harmless = harmless
        self._carriage_return = False

    def feed(self, data: bytes | memoryview, *, last: bool = False) -> bytes:
        """What is to be written for these bytes; `last`: no more will come."""
        text = self._decoder.decode(bytes(data), last)
        if self._harmless:
            text = self._escaped(text, last)
        return text.encode(self._target, "backslashreplace")

    def _escaped(self, text: str, last: bool) -> str:
        if self._carriage_return:
            text = "\r" + text
        self._carriage_return = text.endswith("\r") and not last  # the newline may be the next to come
        if self._carriage_return:
            text = text[:-1]
        text = text.replace("\r\n", "\n")
        if text.isprintable():
            return text
        return "".join(char if char.isprintable() or char in _KEPT else repr(char)[1:-1] for char in text)


def make(encoding: str, *, harmless: bool) -> View | None:
    """The view of a stream; None: its bytes stay as they are.

    Raises:
        UsageError: there is no such encoding.
    """
    try:
        text = codecs.lookup(encoding or _TARGET)
        if not text._is_text_encoding:
            raise LookupError
    except LookupError:
        raise UsageError(
            f"--output-encoding {encoding}: there is no such encoding: write gbk, latin-1, utf-16"
        ) from None
    return View(text.name, harmless=harmless) if encoding or harmless else None
