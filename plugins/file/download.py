"""Where a client puts what it fetches: into a directory, atomically as a server does, or out of standard output.

Names come from the server, which is not trusted with more than the directory that was given: everything is opened
below it, without following links.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator, Sequence

from xxhash import xxh3_128

from . import names, sums
from .confine import Root
from .errors import FileError, in_words
from .messages import Directory, End, Policy, SmallFile, Source
from .names import NAME_BYTES_MAX, BadPathError, shown
from .partial import SUMS_SUFFIX, Partial, left_behind
from .small import SmallWriter
from .sums import block_count

DEPTH_MAX = 256
"""Levels of directories that a server may have us make: as many as one of ours may be told to take."""
_SHOWN_BYTES_MAX = 500


class Destination:
    """A local directory. `close` it in the end. Everything blocks: for a thread."""

    def __init__(self, path: str | bytes, policy: Policy, *, durable: bool = True) -> None:
        try:
            os.makedirs(path, exist_ok=True)
            self.root = Root(path)
        except OSError as error:
            raise in_words(os.fsencode(path), error) from None
        self.policy = policy
        self.durable = durable

    def close(self) -> None:
        self.root.close()

    def file(self, path: bytes) -> Download:
        """What one file is fetched into, with the directories above it."""
        parts = split(path)
        if not parts:
            raise FileError("name", f"{shown(path)}: this is no name for a file")
        with _told(path):
            self.root.make_directories(parts[:-1])
            directory = self.root.open_directory(parts[:-1])
        return Download(directory, parts[-1], path, self.policy, durable=self.durable)

    def small_writer(self) -> SmallWriter:
        """For a batch of small files."""
        return SmallWriter(self.root, None, _hidden, make_directories=True, durable=self.durable)

    def small(self, writer: SmallWriter, file: SmallFile, path: bytes) -> bytes:
        """Store a small file whole; returns the name it got."""
        parts = split(path)
        if not parts:
            raise FileError("name", f"{shown(path)}: this is no name for a file")
        if sums.block_sum([file.data]) != file.sum:
            raise FileError("digest", f"{shown(path)}: it came damaged: repeat")
        with _told(path):
            return writer.store(parts, file.data, self.policy, file.mode, file.mtime_ns)

    def set_directory(self, directory: Directory) -> None:
        """Make it if it is missing, and give it its mode and time."""
        parts = split(directory.path)
        with _told(directory.path):
            self.root.set_directory(parts, directory.mode, directory.mtime_ns)


class Download:
    """One file that is being fetched; a `receiving.Target`."""

    def __init__(self, directory: int, name: bytes, path: bytes, policy: Policy, *, durable: bool) -> None:
        self._directory = directory
        self._name = name
        self._path = path
        self._policy = policy
        self._durable = durable
        self._hidden = _hidden(name)
        self._head: Source | None = None
        self.partial: Partial | None = None

    def left(self) -> tuple[int, bytes]:
        """How many blocks an earlier attempt has left, and of which version of the file."""
        if self._policy == "refuse" and self._exists():
            raise in_words(self._path, FileExistsError(17, ""))
        return left_behind(self._directory, self._hidden)

    def _exists(self) -> bool:
        try:
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def begin(self, head: Source, *, resume: bool = True) -> Download:
        """Make it, or take up what is there; the server begins at `head.first`."""
        self._head = head
        version = head.version or bytes(16)
        partial = Partial(
            self._directory, self._hidden, head.size, head.mtime_ns, version=version, durable=self._durable
        )
        with _told(self._path):
            partial.begin(resume=resume and head.first > 0)
            self.partial = partial
            partial.start_at(head.first)
        return self

    @property
    def size(self) -> int:
        return self._partial.size

    @property
    def _partial(self) -> Partial:
        assert self.partial is not None
        return self.partial

    def take_damaged(self) -> list[int]:
        return self._partial.take_damaged()

    def write(self, index: int, parts: Sequence[bytes], sum_: bytes) -> None:
        self._partial.write(index, parts, sum_)

    def hole(self, index: int, count: int) -> None:
        self._partial.hole(index, count)

    def commit(self, end: End) -> bytes:
        """Give it its name, if it is what was sent; returns the name."""
        assert self._head is not None
        with _told(self._path):
            self._partial.check(end.size, summed=bool(end.digest))
            return self._partial.commit(self._directory, self._name, self._policy, self._head.mode, self._head.mtime_ns)

    @property
    def digest(self) -> bytes:
        return self._partial.digest

    def end(self, *, keep: bool) -> None:
        """Stop, whatever has happened; after `commit` only the directory is left to be closed."""
        if self.partial is not None:
            if keep:
                self.partial.keep()
            else:
                self.partial.discard()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


class Output:
    """Standard output as a `receiving.Target`: a block goes out when it is verified, or nothing more does.

    Attributes:
        damaged: the block that came damaged; -1: none.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._sums = bytearray()
        self.size = -1
        self.version = b""
        self.damaged = -1

    def begin(self, head: Source) -> Output:
        """Blocks come, from the first one that has not gone out."""
        if self.version and (head.version != self.version or head.first != self.blocks):
            raise FileError("changed", "it changed while it was sent: repeat")
        self.size, self.version, self.damaged = head.size, head.version, -1
        return self

    @property
    def blocks(self) -> int:
        """How many have gone out."""
        return len(self._sums) // sums.SUM_BYTES

    def take_damaged(self) -> list[int]:
        return []

    def write(self, index: int, parts: Sequence[bytes], sum_: bytes) -> None:
        if sum_ and sums.block_sum(parts) != sum_:
            self.damaged = index
            raise FileError("digest", f"block {index} came damaged; what came before it is right: repeat")
        self._sums += sum_
        for part in parts:
            self._write(part)

    def hole(self, index: int, count: int) -> None:
        for at in range(index, index + count):
            nbytes = sums.block_bytes(at, self.size)
            self._sums += sums.zeros_sum(nbytes)
            self._write(bytes(nbytes))

    def check(self, end: End) -> None:
        """Whether all that was sent has come."""
        if end.digest and len(self._sums) != block_count(end.size) * sums.SUM_BYTES:
            raise FileError("protocol", "blocks are missing at the end")

    @property
    def digest(self) -> bytes:
        return sums.digest(self._sums, self.size) if self._sums else b""

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever gave us this pipe does not want to wait, but we must
                select.select([], [self._fd], [])
            except BrokenPipeError:
                raise  # nobody reads it any more, which is no error
            except OSError as error:
                text = f"standard output cannot be written: {(error.strerror or str(error)).lower()}"
                raise FileError("io", text) from error


def split(path: bytes) -> list[bytes]:
    """The parts of a path that a server named.

    Raises:
        FileError: it leads elsewhere.
    """
    try:
        parts = names.split(path)
        if len(parts) > DEPTH_MAX:
            raise BadPathError(f"it is {len(parts)} levels deep, the limit is {DEPTH_MAX}")
    except BadPathError as error:
        raise FileError("name", f"{_shortened(path)}: the server names a file that cannot be: {error}") from None
    return parts


def _shortened(path: bytes) -> str:
    return shown(path) if len(path) <= _SHOWN_BYTES_MAX else f"{shown(path[:_SHOWN_BYTES_MAX])}..."


def _hidden(name: bytes) -> bytes:
    """What it is called until it is whole."""
    hidden = b".%b.kernel" % name
    if len(hidden) + len(SUMS_SUFFIX) <= NAME_BYTES_MAX:
        return hidden
    return b".%b.kernel" % xxh3_128(name).hexdigest().encode()


@contextlib.contextmanager
def _told(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise in_words(path, error) from error
    except FileError as error:
        raise FileError(error.kind, f"{shown(path)}: {error}") from None
