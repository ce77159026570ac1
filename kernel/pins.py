"""Pins: a plugin is used only as long as its distribution is, file by file, the one that somebody has looked at.

A pin is the hash of the distribution's RECORD, the list that the installer wrote of all its files with a hash of each.
A distribution keeps its pin while its RECORD has that hash and its files are those of the RECORD; so a new version, a
file that is gone or an edit in place is noticed before anything is imported. Compiled files have no hash in a RECORD,
and it does not tell of files that others have added: a pin guards against surprises, not against somebody who may
write where Python's packages lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kernel.registry import Plugin


class Pin(NamedTuple):
    """`DISTRIBUTION=sha256:HASH`, as a person writes it and `kernel plugins info` shows it."""

    distribution: str
    digest: str

    def __str__(self) -> str:
        return f"{self.distribution}=sha256:{self.digest}"


def parse(text: str) -> Pin | None:
    """The pin that a text says; None: it says none."""
    distribution, _, digest = text.partition("=sha256:")
    if not distribution or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        return None
    return Pin(distribution, digest)


def pin_of(plugin: Plugin) -> Pin | None:
    """The pin that would hold the distribution as it lies there now; None: it has no RECORD."""
    record = _record(plugin.path)
    return None if record is None else Pin(plugin.distribution, _sha256(record))


def fault(plugin: Plugin, pins: Iterable[Pin]) -> str:
    """How a plugin's distribution differs from its pins, in words; empty when it does not, or has none."""
    from kernel.registry import normalised

    own = normalised(plugin.distribution)
    wanted = {pin.digest for pin in pins if normalised(pin.distribution) == own}
    if not wanted:
        return ""
    record = _record(plugin.path)
    if record is None:
        return "it has no RECORD, by which it could be pinned"
    if _sha256(record) not in wanted:
        return "its RECORD is not the one that plugins_pinned names"
    changed = next(_changed(record, os.path.dirname(plugin.path)), "")
    return changed and f"{changed} is not as its RECORD says"


def _sha256(data: bytes) -> str:
    import hashlib  # takes milliseconds, and most people pin nothing

    return hashlib.sha256(data).hexdigest()


def _record(metadata: str) -> bytes | None:
    try:
        with open(os.path.join(metadata, "RECORD"), "rb") as file:
            return file.read()
    except OSError:
        return None


def _changed(record: bytes, place: str) -> Iterator[str]:
    """The files that are not as a RECORD says."""
    import base64
    import csv
    import hashlib

    for name, digest, *_ in csv.reader(record.decode("utf-8", "replace").splitlines()):
        algorithm, _, expected = digest.partition("=")
        if not expected:  # compiled files, and the RECORD itself
            continue
        try:
            with open(os.path.join(place, name), "rb") as file:
                found = hashlib.new(algorithm, file.read()).digest()
        except (OSError, ValueError):
            yield name
            continue
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != expected:
            yield name
