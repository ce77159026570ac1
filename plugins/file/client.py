"""The client's library: one channel to a file service, and what can be asked of it.

    async with FileClient(endpoint) as files:
        report = await files.put(Path("disk.img"), b"images/disk.img")

One request at a time on a channel; for several at once open several clients. A request that fails leaves the client
good for the next one: where the channel had to be given up, another one is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kernel.client import Client, dial
from kernel.errors import Code
from kernel.limits import Limits

from . import sums
from .compression import packer, require, unpacker
from .errors import FileError, from_peer, in_words, named, sent_again
from .memory import keep_freed_memory
from .messages import (
    VERSION,
    Abandon,
    Again,
    Block,
    Directories,
    Directory,
    Done,
    End,
    Entries,
    Entry,
    Failed,
    Get,
    GetSmall,
    Hello,
    List,
    MakeDirectory,
    Outcomes,
    Policy,
    Put,
    PutSmall,
    Ready,
    Remove,
    SmallFile,
    Smalls,
    Source as SourceMessage,
    Start,
    Stat,
    Stored,
    Welcome,
)
from .names import printable, shown
from .receiving import ROUNDS_MAX, WAITING_BLOCKS_MAX, Target, receive_blocks
from .sending import Limiter, Moved, Sender, ignore, send_block
from .silence import allowed, watching
from .source import Source, stream_blocks
from .threads import Ahead, Worker
from .wire import Wire

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

T = TypeVar("T")

_CLOSE_SECONDS = 5.0

FILE_BYTES_MAX = 16 << 40
"""The largest file that is fetched: the checksums of its blocks are held in memory, 16 bytes for each MiB."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one file.

    Attributes:
        path: where it is now.
        size: its length; `moved` is how much of it had to be moved this time.
        digest: of the whole; empty when checksums were off.
        note: what a person should know: that an earlier attempt could not be continued.
    """

    path: bytes
    size: int
    moved: int
    digest: bytes
    note: str = ""


class _Answering:
    """A server as a `silence.Listening`: what it takes from us is a sign of life, too."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def waiting(self) -> bool:
        wire = self._wire
        return wire.channel.full if wire.talking else wire.waiting

    @property
    def pieces(self) -> object:
        return self._wire.pieces, self._wire.channel.buffered_bytes


class FileClient:
    """A client of one server. Enter it with `async with`.

    Args:
        endpoint: where.
        service: the service's name there.
        keys: the first of them proves who we are.
        summed: off: no checksums, in neither direction.
        packed: compress blocks, in both directions.
        limiter: holds what moves to a rate.
        stalled_seconds_max: a server that says nothing for so long, where it is its turn, is given up; 0: never.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        service: str = "file",
        keys: Keyring | None = None,
        summed: bool = True,
        packed: bool = False,
        limiter: Limiter | None = None,
        timeout_seconds: float = 10.0,
        stalled_seconds_max: float = 600.0,
    ) -> None:
        if packed:
            require()
        self.endpoint = endpoint
        self._service = service
        self._keys = keys
        self._summed = summed
        self._packed = packed
        self._limiter = limiter or Limiter()
        self._timeout_seconds = timeout_seconds
        self._stalled_seconds_max = stalled_seconds_max
        self._client: Client | None = None
        self._open_wire: Wire | None = None
        self._answering = False
        self._worker: Worker | None = None
        self.welcome = Welcome(VERSION, writable=False, overwrite=False)

    async def __aenter__(self) -> FileClient:
        keep_freed_memory()
        self._client = await dial(
            self.endpoint, keys=self._keys, limits=Limits().for_bulk(), timeout_seconds=self._timeout_seconds
        )
        try:
            self._worker = Worker(WAITING_BLOCKS_MAX)
            await self._wire()
        except BaseException:
            self._client.abort()
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        assert self._client is not None
        if self._worker is not None:
            self._worker.close()
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, FileError)):
            self._give_up()
        elif self._open_wire is not None:
            self._open_wire.channel.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._open_wire.channel.wait_closed()
        await self._client.close()
        if self._worker is not None:  # else this process might end before what was given up is removed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._worker.join()

    async def _wire(self) -> Wire:
        """The channel; another one, where the last one is over, or still has answers that nobody wants."""
        if self._answering:
            self._give_up()
        if self._open_wire is None or self._open_wire.channel.code is not None:
            assert self._client is not None
            wire = Wire(await self._client.open(self._service, pieces=True))
            wire.send(Hello(VERSION, self._summed, self._packed))
            with self._watching(wire):
                self.welcome = await wire.expect(Welcome)
            self._open_wire = wire
        return self._open_wire

    @contextlib.asynccontextmanager
    async def _exchange(self, *, blocks: int = 0, hurried: bool = True) -> AsyncIterator[Wire]:
        """A request and its answers. Where they make no sense, or were not read to their end, the channel is over.

        Args:
            blocks: so many are read or synced before the server answers.
            hurried: off: nobody knows how long it will take.
        """
        wire = await self._wire()
        self._answering = True
        try:
            with self._watching(wire, blocks) if hurried else contextlib.nullcontext():
                yield wire
        except BaseException as error:
            if wire is self._open_wire and (not isinstance(error, FileError) or error.kind == "protocol"):
                self._give_up()
            elif wire is self._open_wire:
                self._answering = False
            raise
        self._answering = False

    def _watching(self, wire: Wire, blocks: int = 0) -> contextlib.AbstractContextManager[None]:
        """Reset the channel of a server that is silent though it is there: whoever waits on it is told."""
        if not self._stalled_seconds_max:
            return contextlib.nullcontext()
        seconds = allowed(self._stalled_seconds_max, blocks)
        reason = f"the server has said nothing for {seconds:g} s"
        return watching(_Answering(wire), seconds, lambda: wire.channel.reset(Code.IDLE, reason))

    def _give_up(self) -> None:
        """The two ends are out of step, or we want no more of what is coming."""
        if self._open_wire is not None:
            self._open_wire.channel.reset(Code.CANCELLED, "the client stopped")
            self._open_wire = None
        self._answering = False

    async def do(self, job: Callable[..., T], *args: object) -> T:
        """Something that blocks, in this client's thread."""
        assert self._worker is not None
        return await self._worker.call(functools.partial(job, *args))

    async def open(self, job: Callable[[], T], close: Callable[[T], object]) -> T:
        """As `do`, for what must be closed again: where we are cancelled meanwhile, it is."""
        assert self._worker is not None
        return await self._worker.open(job, close)

    def always(self, job: Callable[[], object]) -> None:
        """Something that cleans up, in this client's thread, behind everything else there."""
        assert self._worker is not None
        self._worker.always(job)

    # --- looking and changing ----------------------------------------------------------------------------------------

    async def stat(self, path: bytes) -> Entry:
        """What lies there."""
        async with self._exchange() as wire:
            wire.send(Stat(path))
            entries = (await wire.expect(Entries)).entries
            if len(entries) != 1:
                raise _senseless(f"{len(entries)} entries, where one was asked for")
        return entries[0]

    async def entries(self, path: bytes, *, recursive: bool = False) -> AsyncIterator[Entry]:
        """What is in a directory, names relative to it; of a file, the file."""
        async with contextlib.aclosing(self.entry_batches(path, recursive=recursive)) as batches:
            async for batch in batches:
                for entry in batch:
                    yield entry

    async def entry_batches(self, path: bytes, *, recursive: bool = False) -> AsyncGenerator[list[Entry], None]:
        """The same in the lists in which it comes, for who has many."""
        async with self._exchange() as wire:
            wire.send(List(path, recursive))
            last = False
            while not last:
                answer = await wire.expect(Entries)
                last = answer.last
                if not answer.entries and not last:
                    raise _senseless("no entries, and says that there are more")
                yield answer.entries

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        await self._ask_done(Remove(path, recursive))

    async def make_directory(self, path: bytes, *, parents: bool = False) -> None:
        await self._ask_done(MakeDirectory(path, parents))

    async def set_directories(self, directories: list[Directory]) -> None:
        """Make those that are missing, and give each its mode and time."""
        await self._ask_done(Directories(directories))

    async def _ask_done(self, message: Remove | MakeDirectory | Directories) -> None:
        hurried = not (isinstance(message, Remove) and message.recursive)
        async with self._exchange(hurried=hurried) as wire:
            wire.send(message)
            await wire.expect(Done)

    # --- small files -------------------------------------------------------------------------------------------------

    async def put_small(self, files: list[SmallFile], policy: Policy) -> list[Stored | Failed]:
        """Store small files; what became of each, in order."""
        await self._limiter.spend(sum(len(file.data) for file in files))
        async with self._exchange() as wire:
            wire.send(PutSmall(files, policy, parents=True))
            outcomes = (await wire.expect(Outcomes)).outcomes
            if len(outcomes) != len(files):
                raise _senseless(f"{len(outcomes)} outcomes for {len(files)} files")
        return [_told(outcome) for outcome in outcomes]

    async def get_small(self, paths: Sequence[bytes]) -> AsyncIterator[SmallFile | Failed]:
        """Fetch small files; one that is none has `Failed`, of the kind `large`."""
        async with self._exchange() as wire:
            wire.send(GetSmall(list(paths)))
            came = 0
            while came < len(paths):
                files = (await wire.expect(Smalls)).files
                wanted = paths[came : came + len(files)]
                if not files or len(wanted) < len(files):
                    raise _senseless(f"{len(files)} small files, where {len(paths) - came} were missing")
                for path, file in zip(wanted, files, strict=True):
                    if isinstance(file, SmallFile) and file.path != path:
                        raise _senseless(f"{shown(file.path)}, where {shown(path)} was asked for")
                    await self._limiter.spend(len(file.data) if isinstance(file, SmallFile) else 0)
                    yield _told(file)
                came += len(files)

    # --- put ---------------------------------------------------------------------------------------------------------

    async def put(
        self,
        local: Path,
        path: bytes,
        *,
        policy: Policy = "refuse",
        resume: bool = True,
        parents: bool = False,
        moved: Moved = ignore,
    ) -> Report:
        """Store a file.

        Raises:
            FileError: it could not be stored; nothing is under its name.
            ChannelClosed: the connection ended; the same call continues what was begun.
        """
        source = await self.open(functools.partial(open_local, os.fsencode(local)), Source.close)
        put = Put(path, source.size, source.mtime_ns, source.mode, policy, resume, parents)
        try:
            async with self._exchange(blocks=sums.block_count(source.size)) as wire:
                return await self._put(wire, source, put, moved)
        finally:
            source.close()

    async def _put(self, wire: Wire, source: Source, put: Put, moved: Moved) -> Report:
        wire.send(put)
        ready = await wire.expect(Ready)
        if ready.held > sums.block_count(source.size):
            raise _senseless(f"that it holds {ready.held} blocks of a file of {sums.block_count(source.size)}")
        try:
            prefix, note = await self._prefix(source, ready, moved)
        except BaseException:
            self._give_up()  # the server waits for a beginning that will not come
            raise
        first = len(prefix) // sums.SUM_BYTES
        wire.send(Start(first))
        pack = packer() if self._packed and self.welcome.packed else None
        sender = Sender(wire, source, first=first, summed=self._summed, pack=pack, moved=moved, limiter=self._limiter)
        stored, again = await self._until_stored(wire, sender, range(first, sums.block_count(source.size)))
        ours = sums.digest(prefix + sender.sums, source.size) if self._summed else b""
        if self._summed and stored.digest != ours:
            raise FileError("digest", f"{shown(put.path)}: what the server has stored is not what was sent: repeat")
        note = "; ".join(filter(None, (note, sent_again(again))))
        return Report(stored.path, source.size, max(0, source.size - first * sums.BLOCK_BYTES), ours, note)

    async def _prefix(self, source: Source, ready: Ready, moved: Moved) -> tuple[bytes, str]:
        """The sums of the blocks that need not be sent, and what to say about those that would have been."""
        if not ready.held:
            return b"", printable(ready.note)
        prefix = bytearray()
        ahead = Ahead(source.prefix_sums(ready.held), 16)
        try:
            async for sum_ in ahead:
                prefix += sum_
                moved(sums.BLOCK_BYTES)
        except OSError as error:
            raise in_words(source.path, error) from error
        finally:
            await ahead.end()
        held_bytes = ready.held * sums.BLOCK_BYTES
        if sums.digest(prefix, held_bytes) == ready.digest:
            return bytes(prefix), f"continued behind {held_bytes:,} bytes that were there"
        moved(-held_bytes)
        return b"", "the file is another one than that of which a part had come: starting over"

    async def _until_stored(self, wire: Wire, sender: Sender, blocks: range) -> tuple[Stored, list[int]]:
        """Send, and send again what came damaged, until the server has it. It may say at any time that it cannot.

        Returns:
            Its answer, and what was sent again.
        """
        again: list[int] = []
        answer = asyncio.ensure_future(wire.expect(Stored, Again))
        sending = asyncio.ensure_future(sender.send_all())
        try:
            for _ in range(ROUNDS_MAX + 1):
                await asyncio.wait({answer, sending}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done() and answer.done() and answer.exception() is not None:
                    sending.cancel()
                    await asyncio.wait({sending})
                    self._abandon(wire, "io", "the server has refused it")
                    answer.result()
                await self._sent(wire, sending, answer)
                message = await answer
                if isinstance(message, Stored):
                    return message, again
                if not all(index in blocks for index in message.blocks):
                    raise _senseless("that blocks came damaged which were not sent")
                again += message.blocks
                answer = asyncio.ensure_future(wire.expect(Stored, Again))
                sending = asyncio.ensure_future(sender.send(message.blocks))
            raise _senseless("that blocks came damaged, again and again")
        finally:
            for task in (answer, sending):
                task.cancel()
            await asyncio.gather(answer, sending, return_exceptions=True)

    async def _sent(self, wire: Wire, sending: asyncio.Future[None], answer: asyncio.Future[Stored | Again]) -> None:
        """Wait until everything is sent; where our side fails, tell the server to forget it."""
        try:
            await sending
        except FileError as error:
            self._abandon(wire, error.kind, str(error))
            await asyncio.wait({answer})
            answer.exception()
            raise
        except OSError as error:
            self._abandon(wire, "io", "the client could not read the file")
            await asyncio.wait({answer})
            answer.exception()
            raise FileError("io", f"it cannot be read: {(error.strerror or str(error)).lower()}") from error

    def _abandon(self, wire: Wire, kind: str, text: str) -> None:
        if wire.channel.code is None:
            wire.send(Abandon(kind, text))

    async def put_stream(
        self, fd: int, path: bytes, *, policy: Policy = "refuse", mode: int = 0o644, moved: Moved = ignore
    ) -> Report:
        """Store what comes out of a descriptor, up to its end."""
        import time

        async with self._exchange(hurried=False) as wire:
            return await self._put_stream(wire, fd, Put(path, -1, time.time_ns(), mode, policy, resume=False), moved)

    async def _put_stream(self, wire: Wire, fd: int, put: Put, moved: Moved) -> Report:
        wire.send(put)
        with self._watching(wire):
            await wire.expect(Ready)
        wire.send(Start(0))
        ahead = Ahead(stream_blocks(fd), 4)
        answer = asyncio.ensure_future(wire.expect(Stored))
        size, all_sums = 0, bytearray()
        try:
            with self._watching(wire), wire.talks():
                async for data, sum_ in ahead:
                    if answer.done():
                        break
                    block = Block(size // sums.BLOCK_BYTES, len(data), sum_ if self._summed else b"")
                    await send_block(wire, block, data, self._limiter)
                    size += len(data)
                    all_sums += sum_
                    moved(len(data))
            digest = sums.digest(all_sums, size) if self._summed else b""
            if answer.done():
                self._abandon(wire, "io", "the server has refused it")
            else:
                wire.send(End(size, digest))
            with self._watching(wire, sums.block_count(size)):
                stored = await answer
        finally:
            ahead.close()
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        return Report(stored.path, size, size, digest)

    # --- get ---------------------------------------------------------------------------------------------------------

    async def get(
        self,
        path: bytes,
        begin: Callable[[SourceMessage], Target],
        *,
        held: int = 0,
        version: bytes = b"",
        moved: Moved = ignore,
    ) -> tuple[SourceMessage, End, str]:
        """Fetch a file's blocks; the last thing returned is a note of those that had to be sent again.

        Args:
            begin: gets what is known of the file, and makes what its blocks are written to; runs in the thread.
            held, version: what is there of it already.
        """
        async with self._exchange() as wire:
            return await self._get(wire, Get(path, held, version), begin, moved)

    async def _get(
        self, wire: Wire, get: Get, begin: Callable[[SourceMessage], Target], moved: Moved
    ) -> tuple[SourceMessage, End, str]:
        assert self._worker is not None
        path = get.path
        wire.send(get)
        head = await wire.expect(SourceMessage)
        try:
            _check_source(path, head, get.held)
            unpack = unpacker() if self._packed else None
            target = await self.do(begin, head)
            if head.first:
                moved(head.first * sums.BLOCK_BYTES)
            end = await receive_blocks(
                wire,
                target,
                self._worker,
                first=head.first,
                unpack=unpack,
                moved=moved,
                limiter=self._limiter,
                summed=self._summed,
            )
            if end.size != head.size:
                raise _senseless(f"that {end.size} bytes were sent of a file of {head.size}")
            again: list[int] = []
            for _ in range(ROUNDS_MAX):
                if not (damaged := target.take_damaged()):
                    break
                again += damaged
                wire.send(Get(path, head.first, head.version, damaged))
                if (await wire.expect(SourceMessage)).size != head.size:
                    raise _senseless("another size of the same file")
                await receive_blocks(wire, target, self._worker, first=head.first, unpack=unpack, in_order=False)
            if damaged := target.take_damaged():
                text = f"{shown(path)}: {named(damaged)} came damaged again and again: look at the network"
                raise FileError("digest", text)
        except FileError as error:
            if error.kind not in ("changed", "missing", "denied"):
                self._give_up()
            raise
        except BrokenPipeError:
            raise
        except OSError as error:
            self._give_up()
            raise in_words(path, error) from error
        return head, end, sent_again(again)


def _senseless(what: str) -> FileError:
    return FileError("protocol", f"the server says {what}: it is broken, or not what it seems")


def _told(outcome: T) -> T | Failed:
    """An answer of a server's; what has failed in words for people."""
    if not isinstance(outcome, Failed):
        return outcome
    told = from_peer(outcome.kind, outcome.text)
    return Failed(told.kind, str(told))


def _check_source(path: bytes, head: SourceMessage, held: int) -> None:
    """Whether what a server announces can be: its sums take memory, and what it does not send we must have."""
    if head.size > FILE_BYTES_MAX:
        raise FileError("large", f"{shown(path)}: the server says {head.size} bytes, the most is {FILE_BYTES_MAX}")
    if head.first > held:
        raise _senseless(f"that it begins at block {head.first}, where {held} are held")


def open_local(local: bytes) -> Source:
    """A local file, to send."""
    try:
        fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise in_words(local, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileError("denied", f"{shown(local)}: it is no regular file")
    return Source(fd, local)
