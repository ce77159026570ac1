"""From there to here: the walk over the server's files, and how each is put into a local directory."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

from .client import FileClient, Report
from .download import Destination, Download, Output, split
from .errors import FileError, in_words, sent_again
from .messages import Directory, Entry, Failed, SmallFile
from .names import shown
from .progress import Progress
from .receiving import ROUNDS_MAX
from .sending import Moved, ignore
from .small import SmallWriter
from .sums import BLOCK_BYTES, small_digest
from .transfer import Batch, Item, Mover, Skipped


async def walk(files: FileClient, roots: list[tuple[bytes, bytes]], *, recursive: bool) -> AsyncIterator[Batch]:
    """Everything to be fetched: for each path there, under which path here."""
    for path, target in roots:
        try:
            entry = await files.stat(path)
            if entry.kind == "file":
                yield [Item(path, target, entry.size)]
            elif entry.kind != "directory":
                yield [Skipped(path, "link", f"{shown(path)}: it is no regular file")]
            elif not recursive:
                yield [Skipped(path, "directory", f"{shown(path)}: it is a directory: add -r")]
            else:
                yield [Item(path, target, None, entry.mode, entry.mtime_ns)]
                async for entries in files.entry_batches(path, recursive=True):
                    yield [_item(entry, path, target) for entry in entries]
        except FileError as error:
            if error.kind == "protocol":
                raise
            yield [Skipped(path, error.kind, str(error))]


def _item(entry: Entry, path: bytes, target: bytes) -> Item | Skipped:
    source = b"/".join(filter(None, (path, entry.name)))
    try:
        inner = b"/".join(filter(None, (target, *split(entry.name))))
    except FileError as error:
        return Skipped(source, error.kind, str(error))
    if entry.kind == "file":
        return Item(source, inner, entry.size)
    if entry.kind == "directory":
        return Item(source, inner, None, entry.mode, entry.mtime_ns)
    what = "a symbolic link" if entry.kind == "link" else "no regular file"
    return Skipped(source, "skipped", f"{shown(source)}: it is {what}: skipped")


class GetMover(Mover):
    """Fetches files into a directory."""

    def __init__(self, destination: Destination, progress: Progress, *, resume: bool = True) -> None:
        self._destination = destination
        self._progress = progress
        self._resume = resume

    async def large(self, files: FileClient, item: Item) -> Report:
        return await fetch(
            files, item.source, item.target, self._destination, resume=self._resume, moved=self._progress.moved
        )

    async def small(self, files: FileClient, items: list[Item]) -> list[Report | Failed]:
        got = [file async for file in files.get_small([item.source for item in items])]
        return await files.do(self._store_all, items, got)

    def _store_all(self, items: list[Item], got: list[SmallFile | Failed]) -> list[Report | Failed]:
        """A batch; what went into a directory that could not be synced is not fetched."""
        writer = self._destination.small_writer()
        results: list[Report | Failed] = []
        sure = 0
        try:
            for item, file in zip(items, got, strict=True):
                if not writer.is_in(item.target.split(b"/")[:-1]):
                    self._leave(writer, items, results, sure)
                    sure = len(results)
                results.append(self._store(writer, item, file))
            self._leave(writer, items, results, sure)
        finally:
            writer.close()
        return results

    def _leave(self, writer: SmallWriter, items: list[Item], results: list[Report | Failed], sure: int) -> None:
        try:
            writer.leave()
        except OSError as error:
            for at in range(sure, len(results)):
                told = in_words(items[at].target, error)
                results[at] = Failed(told.kind, str(told))

    def _store(self, writer: SmallWriter, item: Item, file: SmallFile | Failed) -> Report | Failed:
        if isinstance(file, Failed):
            return file
        try:
            name = self._destination.small(writer, file, item.target)
        except FileError as error:
            return Failed(error.kind, str(error))
        except OSError as error:
            told = in_words(item.target, error)
            return Failed(told.kind, str(told))
        path = b"/".join([*item.target.split(b"/")[:-1], name])
        return Report(path, len(file.data), len(file.data), small_digest(file.sum, len(file.data)))

    async def directories(self, files: FileClient, directories: list[Directory]) -> None:
        for directory in directories:
            await files.do(self._destination.set_directory, directory)


async def fetch(
    files: FileClient,
    path: bytes,
    target: bytes,
    destination: Destination,
    *,
    resume: bool = True,
    moved: Moved = ignore,
) -> Report:
    """Fetch one file into a directory, and continue what an earlier attempt has left.

    Raises:
        FileError: it could not be fetched; nothing is under its name.
        ChannelClosed: the connection ended; the same call continues what was begun.
    """
    download = await files.open(functools.partial(destination.file, target), lambda opened: opened.end(keep=True))
    keep = True
    try:
        held, version = await files.do(download.left) if resume else (0, b"")
        begin = functools.partial(Download.begin, download, resume=resume)
        head, end, again = await files.get(path, begin, held=held, version=version, moved=moved)
        name = await files.do(download.commit, end)
        notes = [again]
        if held:
            bytes_there = head.first * BLOCK_BYTES
            notes.append(
                f"continued behind {bytes_there:,} bytes that were there"
                if head.first
                else "the file is another one than that of which a part had come: starting over"
            )
        moved_bytes = head.size - min(head.first * BLOCK_BYTES, head.size)
        final = b"/".join([*target.split(b"/")[:-1], name])
        note = "; ".join(filter(None, notes))
        return Report(final, head.size, moved_bytes, download.digest if end.digest else b"", note)
    except FileError as error:
        keep = error.kind not in ("changed", "digest", "protocol")
        raise
    finally:
        files.always(functools.partial(download.end, keep=keep))


async def fetch_to(files: FileClient, path: bytes, fd: int, *, moved: Moved = ignore) -> Report:
    """Write one file's bytes to a descriptor, each block as soon as it is verified.

    Nothing can be written behind a block that came damaged: what follows it is asked for once more, from it on.
    """
    output = Output(fd)
    again: list[int] = []
    counted = 0

    def count(nbytes: int) -> None:
        nonlocal counted
        counted += nbytes
        moved(nbytes)

    while True:
        try:
            head, end, _ = await files.get(path, output.begin, held=output.blocks, version=output.version, moved=count)
            break
        except FileError as error:
            if output.damaged < 0:
                raise
            if again.count(output.damaged) == ROUNDS_MAX:
                raise FileError(error.kind, f"{shown(path)}: {error}") from None
            again.append(output.damaged)
            count(-counted)
    output.check(end)
    return Report(path, head.size, head.size, output.digest, sent_again(again))
