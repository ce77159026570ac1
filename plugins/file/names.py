"""Paths on the wire: bytes, relative to the root, `/` between their parts. What is no such path is refused here.

Names are bytes because that is what they are on disk: every byte but `/` and NUL may occur. Control characters are
refused in new names unless the server allows them (`any_names`), since they have no use but to deceive a terminal;
files that have them already can be listed, read and removed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

STATE_DIRECTORY = b".kernel-file"
"""Where a server keeps unfinished uploads, below its root; no path leads there."""

NAME_BYTES_MAX = 255
_CONTROL = bytes([*range(32), 127])


class BadPathError(ValueError):
    """The text says why, without the path."""


@dataclass(frozen=True, slots=True)
class NameRules:
    """What names may be.

    Attributes:
        depth_max: parts of a path.
        name_bytes_max: bytes of one part.
        any_names: control characters too.
    """

    depth_max: int = 64
    name_bytes_max: int = NAME_BYTES_MAX
    any_names: bool = False


def split(path: bytes) -> list[bytes]:
    """The parts of a path; none: the root itself. A slash before or behind changes nothing.

    Raises:
        BadPathError: it leads elsewhere, or nowhere.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadPathError("'..' leads out of it: paths go down only")
    if b"\0" in path:
        raise BadPathError("a path holds no NUL")
    if any(len(part) > NAME_BYTES_MAX for part in parts):
        raise BadPathError(f"a name has at most {NAME_BYTES_MAX} bytes")
    if parts and parts[0] == STATE_DIRECTORY:
        raise BadPathError("the server keeps unfinished uploads there")
    return parts


def check_new(parts: list[bytes], rules: NameRules) -> None:
    """Whether something may be made under this path.

    Raises:
        BadPathError: it may not.
    """
    if len(parts) > rules.depth_max:
        raise BadPathError(f"it is {len(parts)} levels deep, the limit is {rules.depth_max} (depth_max)")
    for part in parts:
        if len(part) > rules.name_bytes_max:
            raise BadPathError(f"a name has at most {rules.name_bytes_max} bytes (name_bytes_max)")
        if not rules.any_names and part.translate(None, _CONTROL) != part:
            raise BadPathError("its name holds control characters: rename it, or let the server take any_names=1")


def shown(path: bytes) -> str:
    """A path as people see it: UTF-8, and visible escapes for whatever could play tricks with a terminal."""
    return printable(path.decode("utf-8", "surrogateescape")) or "/"


def printable(text: str) -> str:
    """A text that a peer wrote, as people see it: what does not print as its escape."""
    return text if text.isprintable() else "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def encode(path: str) -> bytes:
    """A path that was typed, or came from this system's file names."""
    return os.fsencode(path)
