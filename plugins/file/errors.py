"""What goes wrong with a file, in words: what, where, remedy. The same on both sides, and on the wire."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from kernel.errors import KernelError

from .names import printable, shown


class FileError(KernelError):
    """Something about one file; the transfer of others goes on.

    Attributes:
        kind: for programs, one word; docs/protocol-file.md lists them.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


KINDS = {
    "missing", "exists", "denied", "directory", "not-directory", "not-empty", "link", "name", "full", "quota", "busy",
    "changed", "digest", "large", "io", "protocol", "stalled",
}  # fmt: skip
_TEXT_CHARACTERS_MAX = 1000
_NAMED_MAX = 10

_KINDS = {
    errno.ENOENT: ("missing", "there is no such file or directory"),
    errno.EEXIST: ("exists", "it exists: choose --overwrite replace or rename, or another name"),
    errno.EACCES: ("denied", "permission denied: look at its mode and owner"),
    errno.EPERM: ("denied", "permission denied: look at its mode and owner"),
    errno.EROFS: ("denied", "its file system is mounted read-only"),
    errno.ENOSPC: ("full", "the disk is full: make room, then repeat; what has arrived is kept"),
    errno.EDQUOT: ("full", "the disk quota is used up: make room, then repeat; what has arrived is kept"),
    errno.EFBIG: ("full", "it is larger than its file system takes"),
    errno.ELOOP: ("link", "symbolic links are not followed: name the file itself"),
    errno.ENOTDIR: ("not-directory", "a part of its path is no directory"),
    errno.EISDIR: ("directory", "it is a directory: add -r, or name a file"),
    errno.ENOTEMPTY: ("not-empty", "the directory is not empty: add -r"),
    errno.EXDEV: ("denied", "it is on another file system, on which it could not appear at once"),
    errno.ENAMETOOLONG: ("name", "its name is too long"),
    errno.EIO: ("io", "the disk failed (EIO): look into the system's log"),
}


def from_peer(kind: str, text: str) -> FileError:
    """What a peer says went wrong: in one line, and of a kind that we know."""
    return FileError(kind if kind in KINDS else "io", printable(text[:_TEXT_CHARACTERS_MAX]))


def named(blocks: Sequence[int]) -> str:
    """`block 3`, `blocks 3, 7`; of many the first ones."""
    some = ", ".join(map(str, blocks[:_NAMED_MAX]))
    more = f" and {len(blocks) - _NAMED_MAX} more" if len(blocks) > _NAMED_MAX else ""
    return f"{'block' if len(blocks) == 1 else 'blocks'} {some}{more}"


def sent_again(blocks: Sequence[int]) -> str:
    """What is to be said of blocks that came right the second time; nothing of none."""
    return f"{named(blocks)} came damaged and {'was' if len(blocks) == 1 else 'were'} sent again" if blocks else ""


def in_words(path: bytes, error: OSError) -> FileError:
    """A system's error about a path."""
    number = error.errno or 0
    kind, words = _KINDS.get(number, ("io", (error.strerror or str(error)).lower()))
    return FileError(kind, f"{shown(path)}: {words}")
