"""What people write, made harmless: no character that steers a terminal, hides or reverses text gets through.

Used twice, on purpose: the server cleans what it takes in, for simple clients print what they get; and our client
cleans what it shows, for it trusts no server.
"""

from __future__ import annotations

import re
import unicodedata

# C0 but newline and tab, DEL, C1; line and paragraph separators; bidirectional controls; zero-width and invisible
# characters but the joiners that scripts and emoji need; surrogates; tag characters and other planes of no use.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\u00ad\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def clean(text: str) -> str:
    """The text with each harmful character written as its escape: `\\x1b`, `\\u202e`. Newlines and tabs stay."""
    return _HARMFUL.sub(_escaped, text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """The same on one line."""
    return " ".join(clean(text).split())


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """How many columns a terminal takes for it."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
