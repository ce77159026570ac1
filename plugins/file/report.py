"""What the commands print: listings as `ls -l` has them, summaries, JSON."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator

from .messages import Entry
from .names import shown
from .progress import size
from .transfer import Outcome

_TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "other": stat.S_IFIFO}
_HALF_A_YEAR_SECONDS = 182 * 24 * 3600


def name(entry: Entry) -> str:
    """A name for a terminal; directories have a slash behind."""
    return shown(entry.name) + ("/" if entry.kind == "directory" else "")


def listing(entries: list[Entry]) -> Iterator[str]:
    """Lines as of `ls -l`, the columns as wide as they must be."""
    links = max((len(str(entry.links)) for entry in entries), default=0)
    owner = max((len(entry.owner) for entry in entries), default=0)
    group = max((len(entry.group) for entry in entries), default=0)
    width = max((len(str(entry.size)) for entry in entries), default=0)
    for entry in entries:
        yield (
            f"{_mode(entry)} {entry.links:{links}} {entry.owner:{owner}} {entry.group:{group}} "
            f"{entry.size:{width}} {when(entry.mtime_ns)} {name(entry)}"
        )


def _mode(entry: Entry) -> str:
    return stat.filemode(_TYPES[entry.kind] | entry.mode)


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
            f"mode      {_mode(entry)} ({entry.mode:04o})",
            f"owner     {entry.owner}:{entry.group}",
            f"modified  {moment}",
        )
    )


def entries_as_json(entries: list[Entry], *, single: bool = False) -> str:
    """One object, or a list of them under `entries`."""
    made = [_entry(entry) for entry in entries]
    return json.dumps(made[0] if single else {"entries": made})


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
            "bytes": sum(report.size for report in outcome.reports),
            "moved": outcome.moved_bytes,
            "seconds": round(seconds, 6),
            "error": str(error) if error is not None else "",
        }
    )


def summary(outcome: Outcome, seconds: float, verb: str, *, verified: bool) -> str:
    """`stored 3 files, 1.2 GiB in 0.9 s (1.3 GiB/s), verified`."""
    reports = outcome.reports
    moved = outcome.moved_bytes
    what = shown(reports[0].path) if len(reports) == 1 else f"{len(reports)} files"
    total = sum(report.size for report in reports)
    text = f"{verb} {what}, {size(total)} in {seconds:.1f} s ({size(moved / max(seconds, 1e-6))}/s)"
    if verified and len(reports) == 1 and reports[0].digest:
        text += f", verified: xxh3 {reports[0].digest.hex()}"
    else:
        text += ", verified" if verified and reports else ", not verified" if reports else ""
    notes = [f"{shown(report.path)}: {report.note}" for report in reports if report.note]
    if outcome.failures:
        notes.append(f"{len(outcome.failures)} failed")
    return "\n".join([text, *notes])
