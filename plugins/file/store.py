"""What a server does with its files: everything here blocks, and runs in a worker's thread.

Paths come from the peer and are checked here, once: `split` for every path, `check_new` for those under which
something will be made. All opening goes through `Root`, which leads nowhere else.

Unfinished uploads lie in a directory of their own below the root, on its file system, under names made of their paths'
hashes: no listing shows them and no path leads there. What nobody came back for is swept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence

from xxhash import xxh3_128

from . import names, sums
from .confine import Root
from .errors import FileError, in_words
from .listing import entries_below, entry_of
from .messages import SMALL_BYTES_MAX, Directory, Entry, Failed, Policy, Put, PutSmall, SmallFile, Stored
from .names import STATE_DIRECTORY, BadPathError, NameRules, shown
from .partial import PART_SUFFIX, SUMS_SUFFIX, Partial, is_named
from .small import SmallWriter, state_name
from .source import Source
from .usage import Reservation, Usage

_CREATE_MODE = 0o777


class Store:
    """The files below a root. `open` it first, `close` it in the end; in between any thread may use it.

    Args:
        root: the directory.
        writable, overwrite: what peers may do.
        rules: what names may be.
        durable: everything is synced before it counts as stored.
        file_bytes_max, usage: how much may be stored.
    """

    def __init__(
        self,
        root: Root,
        *,
        writable: bool,
        overwrite: bool,
        rules: NameRules,
        durable: bool,
        file_bytes_max: int,
        usage: Usage,
    ) -> None:
        self.root = root
        self.writable = writable
        self.overwrite = overwrite
        self._rules = rules
        self._durable = durable
        self._file_bytes_max = file_bytes_max
        self.usage = usage
        self._state = -1

    def open(self) -> None:
        """Make the place for unfinished uploads."""
        if self.writable:
            with contextlib.suppress(FileExistsError):
                os.mkdir(STATE_DIRECTORY, 0o700, dir_fd=self.root.fd)
            self._state = self.root.open_directory([STATE_DIRECTORY])

    def close(self) -> None:
        if self._state >= 0:
            os.close(self._state)
            self._state = -1
        self.root.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    def stat(self, path: bytes) -> Entry:
        parts = _split(path)
        with _told(path):
            return entry_of(parts[-1] if parts else b"", self.root.stat(parts))

    def entries(self, path: bytes, *, recursive: bool) -> Iterator[list[Entry]]:
        """What is there, some at a time; of a file, the file."""
        parts = _split(path)
        with _told(path):
            status = self.root.stat(parts)
            if not stat.S_ISDIR(status.st_mode):
                yield [entry_of(parts[-1], status)]
                return
            yield from entries_below(self.root, parts, recursive=recursive)

    def open_source(self, path: bytes) -> Source:
        parts = _split(path)
        with _told(path):
            return Source(self.root.open_file(parts), path)

    def read_small(self, path: bytes) -> SmallFile | Failed:
        """The whole of a small file."""
        try:
            source = self.open_source(path)
            try:
                if source.size > SMALL_BYTES_MAX:
                    return Failed("large", f"{shown(path)}: it is not small")
                data, sum_ = source.small()
                source.check_unchanged()
                return SmallFile(path, source.mtime_ns, source.mode, sum_, data)
            finally:
                source.close()
        except FileError as error:
            return Failed(error.kind, str(error))
        except OSError as error:
            return failed(path, error)

    # --- changing ----------------------------------------------------------------------------------------------------

    def remove(self, path: bytes, *, recursive: bool) -> None:
        parts = self._changeable(path)
        if not self.overwrite:
            raise FileError("denied", f"{shown(path)}: this server removes nothing (overwrite=1 would let it)")
        with _told(path), self.root.parent(parts) as (directory, name):
            self._remove(directory, name, parts, recursive=recursive)

    def _remove(self, directory: int, name: bytes, parts: list[bytes], *, recursive: bool) -> None:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=directory)
            self.usage.removed(status)
            return
        if recursive:
            fd = self.root.open_directory(parts)
            try:
                for inner in os.listdir(fd):
                    self._remove(fd, os.fsencode(inner), [*parts, os.fsencode(inner)], recursive=True)
            finally:
                os.close(fd)
        os.rmdir(name, dir_fd=directory)

    def make_directory(self, path: bytes, *, parents: bool) -> None:
        parts = self._new(path)
        with _told(path):
            if parents:
                self.root.make_directories(parts)
                return
            with self.root.parent(parts) as (directory, name):
                os.mkdir(name, _CREATE_MODE, dir_fd=directory)

    def set_directory(self, directory: Directory) -> None:
        """Make it if it is missing, and give it its mode and time."""
        parts = self._new(directory.path)
        with _told(directory.path):
            self.root.set_directory(parts, directory.mode, directory.mtime_ns)

    # --- storing -----------------------------------------------------------------------------------------------------

    def begin(self, put: Put, *, resumable: bool = True) -> Upload:
        """Make room for a file, or take up what is there of it."""
        parts = self._new(put.path)
        with _told(put.path):
            self._check_place(parts, put.policy, parents=put.parents)
            replaced = self._replaced(parts, put.policy)
            self.check_size(put.path, put.size)
            name = xxh3_128(b"/".join(parts)).hexdigest().encode()
            left = self._left(name)
            present = left.st_blocks * 512 if left is not None else 0
            reservation = self.usage.reserve(
                max(0, put.size), replaced, disk=self.root.fd, present=present, unfinished=name
            )
            try:
                partial = Partial(self._state, name, put.size, put.mtime_ns, durable=self._durable, resumable=resumable)
                partial.begin(resume=put.resume)
            except FileError as error:
                reservation.undo()
                raise FileError(error.kind, f"{shown(put.path)}: {error}") from None
            except BaseException:
                left = self._left(name)
                reservation.release(left.st_size if left is not None else None)
                raise
        return Upload(self, put, parts, partial, reservation)

    def _left(self, name: bytes) -> os.stat_result | None:
        """What there is of an unfinished upload."""
        try:
            return os.stat(name + PART_SUFFIX, dir_fd=self._state, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def put_small(self, put: PutSmall) -> list[Stored | Failed]:
        """Store small files; what goes wrong with one is its own matter."""
        return _Batch(self, put).run()

    def _new(self, path: bytes) -> list[bytes]:
        """The parts of a path under which something will be made."""
        parts = self._changeable(path)
        try:
            names.check_new(parts, self._rules)
        except BadPathError as error:
            raise FileError("name", f"{shown(path)}: {error}") from None
        return parts

    def _changeable(self, path: bytes) -> list[bytes]:
        if not self.writable:
            raise FileError("denied", f"{shown(path)}: this server is read-only (writable=1 would let it take files)")
        return _split(path)

    def check_policy(self, path: bytes, policy: Policy) -> None:
        if policy == "replace" and not self.overwrite:
            raise FileError("denied", f"{shown(path)}: this server replaces nothing (overwrite=1 would let it)")

    def check_size(self, path: bytes, nbytes: int) -> None:
        if nbytes > self._file_bytes_max:
            text = f"{shown(path)}: {nbytes} bytes, the limit is {self._file_bytes_max} (file_bytes_max)"
            raise FileError("quota", text)

    def _check_place(self, parts: list[bytes], policy: Policy, *, parents: bool) -> None:
        """Say what will fail at the end before the bytes are sent."""
        path = b"/".join(parts)
        if not parts:
            raise FileError("directory", "a file needs a name: the path given is the root itself")
        self.check_policy(path, policy)
        if parents:
            self.root.make_directories(parts[:-1])
        with self.root.parent(parts) as (directory, name):
            if os.fstat(directory).st_dev != os.fstat(self._state).st_dev:
                raise OSError(errno.EXDEV, "")
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return
            if stat.S_ISDIR(status.st_mode):
                raise FileError("directory", f"{shown(path)}: a directory is there, and is never replaced")
            if policy == "refuse":
                raise FileExistsError(errno.EEXIST, "")

    def _replaced(self, parts: list[bytes], policy: Policy) -> os.stat_result | None:
        if policy != "replace":
            return None
        try:
            return self.root.stat(parts)
        except FileNotFoundError:
            return None

    # --- leftovers ---------------------------------------------------------------------------------------------------

    def sweep(self, keep_seconds: float) -> int:
        """Remove unfinished uploads that nobody works on and nobody has come back for; returns how many."""
        if self._state < 0:
            return 0
        swept = 0
        oldest = time.time() - keep_seconds
        present = {os.fsencode(name) for name in os.listdir(self._state)}
        for name in present:
            stem, suffix = name[: name.rfind(b".")], name[name.rfind(b".") :]
            if suffix == PART_SUFFIX:
                resumable = stem + SUMS_SUFFIX in present
                swept += self._sweep_part(name, oldest if resumable else float("inf"))
            elif suffix == SUMS_SUFFIX and stem + PART_SUFFIX not in present:
                self._forget(name)
        return swept

    def _sweep_part(self, name: bytes, oldest: float) -> int:
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._state)
        except OSError:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_mtime > oldest or not is_named(fd, self._state, name):
                return 0
            self._forget(name)
            self._forget(name.removesuffix(PART_SUFFIX) + SUMS_SUFFIX)
            self.usage.swept(name.removesuffix(PART_SUFFIX))
            return 1
        except BlockingIOError:
            return 0  # somebody is at work on it
        finally:
            os.close(fd)

    def _forget(self, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._state)


class Upload:
    """One file that is being stored."""

    def __init__(self, store: Store, put: Put, parts: list[bytes], partial: Partial, reservation: Reservation) -> None:
        self.partial = partial
        self._store = store
        self._put = put
        self._parts = parts
        self._reservation = reservation

    # a `receiving.Target`

    @property
    def size(self) -> int:
        return self.partial.size

    def take_damaged(self) -> list[int]:
        return self.partial.take_damaged()

    def write(self, index: int, parts: Sequence[bytes], sum_: bytes) -> None:
        if self.partial.size < 0:
            self._grow(index * sums.BLOCK_BYTES + sum(map(len, parts)))
        self.partial.write(index, parts, sum_)

    def hole(self, index: int, count: int) -> None:
        self.partial.hole(index, count)

    def _grow(self, size: int) -> None:
        """The length of a stream is only known as it comes."""
        self._store.check_size(self._put.path, size)
        self._reservation.grow(size)

    def commit(self) -> Stored:
        put, directory = self._put, -1
        with _told(put.path):
            replaced = self._store._replaced(self._parts, put.policy)
            directory = self._store.root.open_directory(self._parts[:-1])
            try:
                name = self.partial.commit(directory, self._parts[-1], put.policy, put.mode, put.mtime_ns)
            finally:
                os.close(directory)
        self._reservation.keep(self.partial.size, replaced)
        return Stored(b"/".join([*self._parts[:-1], name]), self.partial.digest)

    def end(self, *, keep: bool) -> None:
        """Stop here, whatever has happened; after `commit` this does nothing."""
        # What is kept is counted before its lock is given up: whoever takes it up then finds it counted.
        if keep:
            self._reservation.release(self.partial.kept_bytes)
            self.partial.keep()
        else:
            self.partial.discard()
            self._reservation.release()


class _Batch:
    """Small files that come in one message. What went into a directory that could not be synced is not stored."""

    def __init__(self, store: Store, put: PutSmall) -> None:
        self._store = store
        self._put = put
        self._writer = SmallWriter(
            store.root, store._state, state_name, make_directories=put.parents, durable=store._durable
        )
        self._outcomes: list[Stored | Failed] = []
        self._unsure_from = 0

    def run(self) -> list[Stored | Failed]:
        try:
            for file in self._put.files:
                self._outcomes.append(self._store_one(file))
            self._leave()
        finally:
            self._writer.close()
        return self._outcomes

    def _leave(self) -> None:
        """Done with a directory: its names are on disk before anybody is told."""
        try:
            self._writer.leave()
        except OSError as error:
            for at in range(self._unsure_from, len(self._outcomes)):
                if isinstance(self._outcomes[at], Stored):
                    self._outcomes[at] = failed(self._put.files[at].path, error)
        self._unsure_from = len(self._outcomes)

    def _store_one(self, file: SmallFile) -> Stored | Failed:
        store, policy = self._store, self._put.policy
        try:
            parts = store._new(file.path)
            store.check_policy(file.path, policy)
            if not parts:
                raise FileError("directory", "a file needs a name: the path given is the root itself")
            if sums.block_sum([file.data]) != file.sum:
                raise FileError("digest", f"{shown(file.path)}: it came damaged: repeat")
            store.check_size(file.path, len(file.data))
            if not self._writer.is_in(parts[:-1]):
                self._leave()
            replaced = store._replaced(parts, policy)
            reservation = store.usage.reserve(len(file.data), replaced)
            try:
                name = self._writer.store(parts, file.data, policy, file.mode, file.mtime_ns)
                reservation.keep(len(file.data), replaced)
            finally:
                reservation.release()
            return Stored(b"/".join([*parts[:-1], name]), sums.small_digest(file.sum, len(file.data)))
        except FileError as error:
            return Failed(error.kind, str(error))
        except OSError as error:
            return failed(file.path, error)


def _split(path: bytes) -> list[bytes]:
    try:
        return names.split(path)
    except BadPathError as error:
        raise FileError("name", f"{shown(path)}: {error}") from None


def failed(path: bytes, error: OSError) -> Failed:
    """The answer for an error of the system."""
    told = in_words(path, error)
    return Failed(told.kind, str(told))


@contextlib.contextmanager
def _told(path: bytes) -> Iterator[None]:
    """Errors of the system get the path's name and words for people."""
    try:
        yield
    except OSError as error:
        raise in_words(path, error) from error
