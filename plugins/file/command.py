"""`kernel file`: put, get, ls, stat, rm, mkdir, sync.

stdout gets what was asked for (listings, a file for `-`, one JSON object with --json), stderr progress, notes and the
summary. The exit code is 0 when everything is where it should be, 1 when something is not, 130 when interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kernel.commands import byte_count, run as run_command, secret_options
from kernel.errors import KernelError, UsageError

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

    from .client import FileClient
    from .messages import Entry, Policy
    from .progress import Progress
    from .sending import Limiter
    from .transfer import Outcome

T = TypeVar("T")

INTERRUPTED = 130
_PARALLEL_DEFAULT = 2
_LISTED_AT_ONCE = 1000


@click.group(short_help="Send, fetch and look at files on a file service.")
def file() -> None:
    """Send and fetch files: verified, resumable, and there only when whole.

    \b
    Examples:
      kernel serve --plugin 'file?root=/srv/files&writable=1'      (on the other side)
      kernel file put tcp://127.0.0.1:7420 disk.img
      kernel file put tcp://127.0.0.1:7420 -r photos backup/photos
      kernel file get tcp://127.0.0.1:7420 disk.img
      kernel file ls  tcp://127.0.0.1:7420 -r backup
      kernel file sync tcp://127.0.0.1:7420 photos backup/photos

    A transfer that was cut is continued by the same command.
    """


def _common(command: Callable[..., T]) -> Callable[..., T]:
    """What all of them take."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress and no summary, only errors."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--service", default="file", metavar="NAME", help="The service's name there [file]."),
    ):
        command = option(command)
    return secret_options(command)


def _transfer_options(command: Callable[..., T]) -> Callable[..., T]:
    """What moves bytes takes."""
    for option in (
        click.option(
            "--overwrite",
            "policy",
            type=click.Choice(["refuse", "replace", "rename"]),
            default="refuse",
            help="What to do with a file that exists [refuse].",
        ),
        click.option("--no-resume", is_flag=True, help="Start over, whatever is there of an earlier attempt."),
        click.option("--no-verify", is_flag=True, help="No checksums. Then nothing can be continued, either."),
        click.option("--limit-rate", callback=byte_count, metavar="BYTES", help="At most so much a second: 10MiB."),
        click.option("--compress", type=click.Choice(["zstd"]), help="Compress on the way; needs zstd on both sides."),
        click.option(
            "--parallel",
            type=click.IntRange(1, 64),
            metavar="N",
            help=f"So many connections for several files [{_PARALLEL_DEFAULT}].",
        ),
    ):
        command = option(command)
    return _common(command)


@dataclass(frozen=True)
class _Way:
    """What the command line says about the way there."""

    endpoint: str
    service: str
    keys: Keyring | None
    as_json: bool
    quiet: bool
    policy: Policy = "refuse"
    no_resume: bool = False
    no_verify: bool = False
    limit_rate: int | None = None
    compress: str | None = None
    parallel: int | None = None

    def client(self, limiter: Limiter | None = None) -> FileClient:
        from .client import FileClient

        return FileClient(
            self.endpoint,
            service=self.service,
            keys=self.keys,
            summed=not self.no_verify,
            packed=self.compress is not None,
            limiter=limiter,
        )

    def limiter(self) -> Limiter:
        from .sending import Limiter

        if self.limit_rate == 0:
            raise UsageError("--limit-rate 0 would never end: leave it out for no limit")
        return Limiter(self.limit_rate or 0)

    def progress(self) -> Progress:
        from .progress import Progress

        return Progress(shown=not (self.quiet or self.as_json))


def _run(main: Coroutine[Any, Any, T]) -> T:
    return run_command(main, "auto")


# --- put and get ---------------------------------------------------------------------------------------------------


@file.command(short_help="Store files or directories.")
@click.argument("endpoint")
@click.argument("paths", nargs=-1, required=True, metavar="LOCAL... [REMOTE]")
@click.option("--to", "directory", metavar="DIRECTORY", help="Put everything named into this directory there.")
@click.option("-r", "--recursive", is_flag=True, help="Directories too, with all that is in them.")
@_transfer_options
def put(endpoint: str, paths: tuple[str, ...], directory: str | None, recursive: bool, **given: Any) -> int:
    """Store LOCAL files under REMOTE, or under their own names.

    \b
    Examples:
      kernel file put ENDPOINT disk.img
      kernel file put ENDPOINT disk.img images/today.img
      kernel file put ENDPOINT -r photos letters --to backup
      tar c . | kernel file put ENDPOINT - backup.tar

    As with cp, the last of several paths is where the others go, and a directory when it ends with '/' or is one.
    A file that exists is left alone unless --overwrite says otherwise.
    """
    from . import put as putting, transfer

    way = _Way(endpoint, **given)
    locals_, target = _shared_out(paths, directory, "what")
    if "-" in locals_:
        return _put_stream(way, locals_, target)
    outcome = transfer.Outcome(detailed=way.as_json)

    async def main() -> None:
        limiter, progress = way.limiter(), way.progress()
        async with progress:
            async with way.client() as files:
                into = await _is_remote_directory(files, target, several=len(locals_) > 1, given=directory is not None)
            roots = [(os.fsencode(local), _name_there(local, target, into)) for local in locals_]
            walk = putting.walk(roots, recursive=recursive)
            mover = putting.PutMover(way.policy, progress, resume=not way.no_resume)
            parallel = _parallel(way, recursive or len(locals_) > 1)
            async with transfer.closing(walk):
                await transfer.move(walk, mover, lambda: way.client(limiter), parallel, progress, outcome)

    return _reported(way, main(), outcome, "stored")


def _put_stream(way: _Way, locals_: list[str], target: str) -> int:
    from . import transfer

    if len(locals_) != 1 or not target or target.endswith("/"):
        raise UsageError("standard input needs a name there: kernel file put ENDPOINT - NAME")
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe something into it, or name a file")
    outcome = transfer.Outcome(detailed=way.as_json)

    async def main() -> None:
        progress = way.progress()
        async with progress, way.client(way.limiter()) as files:
            report = await files.put_stream(
                sys.stdin.fileno(), os.fsencode(target), policy=way.policy, moved=progress.moved
            )
            outcome.done(report)

    return _reported(way, main(), outcome, "stored", resumes=False)


@file.command(short_help="Fetch files or directories.")
@click.argument("endpoint")
@click.argument("paths", nargs=-1, required=True, metavar="REMOTE... [LOCAL]")
@click.option("--to", "directory", metavar="DIRECTORY", help="Put everything named into this local directory.")
@click.option("-r", "--recursive", is_flag=True, help="Directories too, with all that is in them.")
@_transfer_options
def get(endpoint: str, paths: tuple[str, ...], directory: str | None, recursive: bool, **given: Any) -> int:
    """Fetch REMOTE files to LOCAL, or to their own names here.

    \b
    Examples:
      kernel file get ENDPOINT images/today.img
      kernel file get ENDPOINT images/today.img disk.img
      kernel file get ENDPOINT -r backup/photos --to .
      kernel file get ENDPOINT backup.tar - | tar x

    As with cp, the last of several paths is where the others go, and a directory when it ends with '/' or is one.
    A file that exists is left alone unless --overwrite says otherwise.
    """
    from . import download, get as getting, transfer

    way = _Way(endpoint, **given)
    remotes, target = _shared_out(paths, directory, "what")
    if target == "-":
        return _get_stream(way, remotes)
    into = len(remotes) > 1 or directory is not None or not target or target.endswith("/") or os.path.isdir(target)
    base = (target or ".") if into else (os.path.dirname(target) or ".")
    outcome = transfer.Outcome(detailed=way.as_json)

    async def main() -> None:
        limiter, progress = way.limiter(), way.progress()
        destination = download.Destination(base, way.policy)
        try:
            async with progress, way.client() as files:
                names = [
                    os.path.basename(remote.rstrip("/")) if into else os.path.basename(target) for remote in remotes
                ]
                roots = [(os.fsencode(remote), os.fsencode(name)) for remote, name in zip(remotes, names, strict=True)]
                walk = getting.walk(files, roots, recursive=recursive)
                mover = getting.GetMover(destination, progress, resume=not way.no_resume)
                parallel = _parallel(way, recursive or len(remotes) > 1)
                async with transfer.closing(walk):
                    await transfer.move(walk, mover, lambda: way.client(limiter), parallel, progress, outcome)
        finally:
            destination.close()

    return _reported(way, main(), outcome, "fetched")


def _get_stream(way: _Way, remotes: list[str]) -> int:
    from . import get as getting, transfer

    outcome = transfer.Outcome(detailed=way.as_json)
    if way.as_json:
        raise UsageError("--json and the file cannot both go to standard output: leave one out")

    async def main() -> None:
        progress = way.progress()
        async with progress, way.client(way.limiter()) as files:
            for remote in remotes:
                fetched = await getting.fetch_to(files, os.fsencode(remote), sys.stdout.fileno(), moved=progress.moved)
                outcome.done(fetched)

    return _reported(way, main(), outcome, "fetched", resumes=False)


@file.command(short_help="Make a directory there like one here, or the other way round.")
@click.argument("endpoint")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--pull", is_flag=True, help="FROM is there and TO is here.")
@click.option("--delete", is_flag=True, help="Remove from TO what is not in FROM.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--no-verify", is_flag=True, help="No checksums.")
@click.option("--limit-rate", callback=byte_count, metavar="BYTES", help="At most so much a second: 10MiB.")
@click.option("--compress", type=click.Choice(["zstd"]), help="Compress on the way; needs zstd on both sides.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help=f"So many connections [{_PARALLEL_DEFAULT}].")
@_common
def sync(endpoint: str, source: str, target: str, pull: bool, delete: bool, dry_run: bool, **given: Any) -> int:
    """Make the directory TO, on the server, like the local directory FROM.

    \b
    Examples:
      kernel file sync ENDPOINT photos backup/photos
      kernel file sync ENDPOINT --pull backup/photos photos
      kernel file sync ENDPOINT --dry-run --delete photos backup/photos

    A file is moved when its size or its time is another one there. What exists is replaced: a server must allow that
    (overwrite=1).
    """
    from . import mirror, transfer

    way = _Way(endpoint, **given)
    outcome = transfer.Outcome(detailed=way.as_json)
    limiter = way.limiter()

    async def main() -> None:
        plan = await (mirror.pull if pull else mirror.push)(
            lambda: way.client(limiter),
            source,
            target,
            delete=delete,
            dry_run=dry_run,
            parallel=way.parallel or _PARALLEL_DEFAULT,
            progress=way.progress(),
            outcome=outcome,
        )
        if dry_run and not way.as_json:
            for line in mirror.lines(plan):
                click.echo(line)

    return _reported(way, main(), outcome, "synced")


def _shared_out(paths: tuple[str, ...], directory: str | None, what: str) -> tuple[list[str], str]:
    """Which of the paths are sources, and where they go; empty: to their own names."""
    if directory is not None:
        return list(paths), directory or "/"
    if len(paths) == 1:
        return [paths[0]], ""
    return list(paths[:-1]), paths[-1]


async def _is_remote_directory(files: FileClient, target: str, *, several: bool, given: bool) -> bool:
    """Whether sources go into `target`, or one of them becomes it."""
    from .errors import FileError

    if not target or several or given or target.endswith("/"):
        return True
    try:
        return (await files.stat(os.fsencode(target))).kind == "directory"
    except FileError as error:
        if error.kind != "missing":
            raise
        return False


def _name_there(local: str, target: str, into: bool) -> bytes:
    if not into:
        return os.fsencode(target)
    name = os.path.basename(os.path.abspath(local))
    return os.fsencode(f"{target.rstrip('/')}/{name}".lstrip("/"))


def _parallel(way: _Way, several: bool) -> int:
    return (way.parallel or _PARALLEL_DEFAULT) if several else 1


def _reported(way: _Way, main: Coroutine[Any, Any, None], outcome: Outcome, verb: str, *, resumes: bool = True) -> int:
    """Do it, and say what came of it."""
    import time

    from . import report

    began = time.monotonic()
    interrupted, error = False, None
    try:
        _run(main)
    except KeyboardInterrupt:
        interrupted = True
    except KernelError as failure:
        error = failure
    seconds = time.monotonic() - began
    if way.as_json:
        click.echo(report.as_json(outcome, seconds, error))
    else:
        for failure_ in [*outcome.failures, *([] if way.quiet else outcome.skipped)]:
            click.echo(f"kernel: {'error: ' if failure_.kind != 'skipped' else ''}{failure_.why}", err=True)
        if outcome.omitted:
            click.echo(f"kernel: and {outcome.omitted:,} more", err=True)
        if not way.quiet and (outcome.files or interrupted):
            click.echo(report.summary(outcome, seconds, verb, verified=not way.no_verify), err=True)
        if not way.quiet and interrupted and resumes:
            click.echo("kernel: interrupted: the same command continues", err=True)
    if interrupted:
        return INTERRUPTED
    if error is not None:
        raise error
    return 1 if outcome.failures else 0


# --- looking and changing --------------------------------------------------------------------------------------------


@file.command(short_help="List a directory.")
@click.argument("endpoint")
@click.argument("path", default="")
@click.option("-r", "--recursive", is_flag=True, help="With all that is below it.")
@click.option("-1", "names_only", is_flag=True, help="Names alone, a line each.")
@_common
def ls(endpoint: str, path: str, recursive: bool, names_only: bool, **given: Any) -> int:
    """List what is in PATH, as `ls -l` does.

    \b
    Examples:
      kernel file ls ENDPOINT
      kernel file ls ENDPOINT backup/photos
    """
    from . import report

    way = _Way(endpoint, **given)

    async def main() -> None:
        listing = report.JsonListing() if way.as_json else report.Names() if names_only else report.Listing()
        entries: list[Entry] = []
        async with way.client() as files:
            async for entry in files.entries(os.fsencode(path), recursive=recursive):
                entries.append(entry)
                if len(entries) == _LISTED_AT_ONCE:
                    click.echo(listing.text(entries), nl=False)
                    entries.clear()
        click.echo(listing.text(entries) + listing.end(), nl=False)

    _run(main())
    return 0


@file.command(short_help="Show what is known of a file.")
@click.argument("endpoint")
@click.argument("path")
@_common
def stat(endpoint: str, path: str, **given: Any) -> int:
    """Show kind, size, mode, owner and time of PATH.

    \b
    Example:
      kernel file stat ENDPOINT images/today.img
    """
    from . import report

    way = _Way(endpoint, **given)

    async def main() -> Entry:
        async with way.client() as files:
            return await files.stat(os.fsencode(path))

    entry = _run(main())
    click.echo(report.entry_as_json(entry) if way.as_json else report.details(entry, path))
    return 0


@file.command(short_help="Remove files or directories.")
@click.argument("endpoint")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Directories too, with all that is in them.")
@_common
def rm(endpoint: str, paths: tuple[str, ...], recursive: bool, **given: Any) -> int:
    """Remove each PATH. The server must allow it: overwrite=1.

    \b
    Examples:
      kernel file rm ENDPOINT old.img
      kernel file rm ENDPOINT -r backup/2019
    """
    return _each(_Way(endpoint, **given), paths, lambda files, path: files.remove(path, recursive=recursive))


@file.command(short_help="Make directories.")
@click.argument("endpoint")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-p", "--parents", is_flag=True, help="With those above, and no error where it exists.")
@_common
def mkdir(endpoint: str, paths: tuple[str, ...], parents: bool, **given: Any) -> int:
    """Make each PATH a directory.

    \b
    Example:
      kernel file mkdir ENDPOINT -p backup/2026/january
    """
    return _each(_Way(endpoint, **given), paths, lambda files, path: files.make_directory(path, parents=parents))


def _each(way: _Way, paths: tuple[str, ...], do: Callable[[FileClient, bytes], Coroutine[Any, Any, None]]) -> int:
    """Do something with each path; what fails is told, and the others are done."""
    from .errors import FileError

    failures: list[dict[str, str]] = []

    async def main() -> None:
        async with way.client() as files:
            for path in paths:
                try:
                    await do(files, os.fsencode(path))
                except FileError as error:
                    failures.append({"path": path, "kind": error.kind, "error": str(error)})

    _run(main())
    if way.as_json:
        import json

        click.echo(json.dumps({"done": len(paths) - len(failures), "failed": failures}))
    else:
        for failure in failures:
            click.echo(f"kernel: error: {failure['error']}", err=True)
    return 1 if failures else 0
