"""What the commands print: listings as `ls -l` has them, summaries, JSON."""

from __future__ import annotations

import json
import stat
import time

from .messages import Entry
from .names import printable, shown
from .progress import size
from .transfer import Outcome

_TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "other": stat.S_IFIFO}
_HALF_A_YEAR_SECONDS = 182 * 24 * 3600


def name(entry: Entry) -> str:
    """A name for a terminal; directories have a slash behind."""
    return shown(entry.name) + ("/" if entry.kind == "directory" else "")


class Names:
    """A listing, some entries at a time: names alone, a line each."""

    def text(self, entries: list[Entry]) -> str:
        """These entries, behind those before."""
        return "".join(f"{name(entry)}\n" for entry in entries)

    def end(self) -> str:
        """What comes behind the last one."""
        return ""


class Listing(Names):
    """Lines as of `ls -l`, the columns as wide as they had to be so far."""

    def __init__(self) -> None:
        self._widths = [0, 0, 0, 0]

    def text(self, entries: list[Entry]) -> str:
        rows = [
            (str(entry.links), printable(entry.owner), printable(entry.group), str(entry.size)) for entry in entries
        ]
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        links, owner, group, size = self._widths
        return "".join(
            f"{_mode(entry)} {row[0]:>{links}} {row[1]:{owner}} {row[2]:{group}} {row[3]:>{size}} "
            f"{when(entry.mtime_ns)} {name(entry)}\n"
            for entry, row in zip(entries, rows, strict=True)
        )


class JsonListing(Names):
    """One object with the list of them under `entries`."""

    def __init__(self) -> None:
        self._before = '{"entries": ['

    def text(self, entries: list[Entry]) -> str:
        if not entries:
            return ""
        text = self._before + ", ".join(json.dumps(_entry(entry)) for entry in entries)
        self._before = ", "
        return text

    def end(self) -> str:
        return ("" if self._before == ", " else self._before) + "]}\n"


def _mode(entry: Entry) -> str:
    return stat.filemode(_TYPES[entry.kind] | (entry.mode & 0o7777))


def when(mtime_ns: int) -> str:
    """`Nov 24 15:02`, or `Nov 24  2019` where it is long ago."""
    seconds = mtime_ns / 1e9
    moment = time.localtime(seconds)
    recent = abs(time.time() - seconds) < _HALF_A_YEAR_SECONDS
    return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", moment)


def details(entry: Entry, path: str) -> str:
    """What is known of one file, a line each."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(entry.mtime_ns / 1e9))
    return "\n".join(
        (
            f"path      {shown(path.encode('utf-8', 'surrogateescape'))}",
            f"kind      {entry.kind}",
            f"size      {entry.size} bytes ({size(entry.size)})",
            f"mode      {_mode(entry)} ({entry.mode & 0o7777:04o})",
            f"owner     {printable(entry.owner)}:{printable(entry.group)}",
            f"modified  {moment}",
        )
    )


def entry_as_json(entry: Entry) -> str:
    """One object."""
    return json.dumps(_entry(entry))


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": _text(entry.name),
        "kind": entry.kind,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:04o}",
        "owner": entry.owner,
        "group": entry.group,
        "links": entry.links,
    }


def _text(path: bytes) -> str:
    """A name in JSON: bytes that are no UTF-8 become lone surrogates, as Python has them; nothing is lost."""
    return path.decode("utf-8", "surrogateescape")


def as_json(outcome: Outcome, seconds: float, error: Exception | None) -> str:
    """Everything that a program could ask about a transfer."""
    return json.dumps(
        {
            "files": [
                {
                    "path": _text(report.path),
                    "size": report.size,
                    "moved": report.moved,
                    "digest": report.digest.hex(),
                    "note": report.note,
                }
                for report in outcome.reports
            ],
            "failed": [
                {"path": _text(failure.path), "kind": failure.kind, "error": failure.why}
                for failure in outcome.failures
            ],
            "skipped": [_text(skipped.path) for skipped in outcome.skipped],
            "omitted": outcome.omitted,
            "bytes": outcome.nbytes,
            "moved": outcome.moved_bytes,
            "seconds": round(seconds, 6),
            "error": str(error) if error is not None else "",
        }
    )


def summary(outcome: Outcome, seconds: float, verb: str, *, verified: bool) -> str:
    """`stored 3 files, 1.2 GiB in 0.9 s (1.3 GiB/s), verified`."""
    reports, files = outcome.reports, outcome.files
    what = shown(reports[0].path) if files == 1 else f"{files} files"
    rate = size(outcome.moved_bytes / max(seconds, 1e-6))
    text = f"{verb} {what}, {size(outcome.nbytes)} in {seconds:.1f} s ({rate}/s)"
    if verified and files == 1 and reports[0].digest:
        text += f", verified: xxh3 {reports[0].digest.hex()}"
    else:
        text += ", verified" if verified and files else ", not verified" if files else ""
    notes = [f"{shown(report.path)}: {report.note}" for report in reports if report.note]
    if outcome.failures:
        notes.append(f"{len(outcome.failures)} failed")
    return "\n".join([text, *notes])
