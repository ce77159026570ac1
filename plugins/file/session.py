"""One channel at the server: requests in, in order, each answered before the next one is looked at.

A client that wants speed sends its next requests without waiting for answers; they wait in the channel, within its
credit. What a request does to the disk runs in this channel's worker.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code

from . import sums
from .errors import FileError, in_words, named
from .messages import (
    MESSAGE_BYTES_MAX,
    VERSION,
    Abandon,
    Again,
    Block,
    Directories,
    Done,
    End,
    Entries,
    Entry,
    Failed,
    Get,
    GetSmall,
    Hello,
    Hole,
    List,
    MakeDirectory,
    Message,
    Outcomes,
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
from .names import shown
from .places import TransferLimits, patience
from .receiving import ROUNDS_MAX, WAITING_BLOCKS_MAX, Unpack, receive_blocks
from .sending import Moved, Pack, Sender, ignore
from .source import Source
from .store import Store, Upload
from .sums import block_count
from .threads import Ahead, Worker
from .wire import Abandoned, Wire

T = TypeVar("T")

# Errors after which the channel is of no use: the two ends do not understand each other, or one of them is silent.
_FATAL = {"protocol": Code.PROTOCOL, "stalled": Code.IDLE}
# What an upload is not kept for: its content was wrong, or nobody will want it.
_WORTHLESS = {"changed", "digest", "io", "quota"}


class Session:
    """Serves one channel.

    Args:
        limits: what transfers may hold of this server.
        unpack: decompresses what clients send; None: this server cannot.
        pack: compresses what is sent, where the client asks for it; None: it cannot.
    """

    def __init__(
        self,
        channel: Channel,
        store: Store,
        limits: TransferLimits,
        log: logging.Logger,
        unpack: Unpack | None,
        pack: Pack | None,
    ) -> None:
        self._wire = Wire(channel)
        self._store = store
        self._limits = limits
        self._log = log
        self._unpack = unpack
        self._pack = pack
        self._worker = Worker(WAITING_BLOCKS_MAX)
        self._summed = True
        self._stopped = True
        self._packed = False

    async def run(self) -> None:
        """Until the client finishes."""
        try:
            await self._greet()
            while (message := await self._wire.receive()) is not None:
                await self._answer(message)
                await self._wire.channel.drain()
        except FileError as error:
            self._wire.channel.reset(_FATAL.get(error.kind, Code.PROTOCOL), str(error))
        except ChannelClosed:
            pass  # it is gone: there is nobody to tell
        finally:
            self._worker.close()
            await self._worker.join()

    async def _greet(self) -> None:
        hello = await self._wire.expect(Hello)
        if hello.version != VERSION:
            raise FileError("protocol", f"this server speaks version {VERSION}, the client {hello.version}")
        self._summed = hello.sums
        self._packed = hello.packed and self._pack is not None
        store = self._store
        self._wire.send(Welcome(VERSION, store.writable, store.overwrite, self._unpack is not None))

    async def _answer(self, message: Message) -> None:
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise FileError("protocol", f"a client does not send {type(message).__name__} here")
        try:
            await handler(self, message)
        except FileError as error:
            if error.kind in _FATAL:
                raise
            self._log.info("%s", error, extra={"peer": self._wire.channel.peer.address})
            self._wire.send(Failed(error.kind, str(error)))

    async def _do(self, job: Callable[..., T], *args: object) -> T:
        return await self._worker.call(functools.partial(job, *args))

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _stat(self, message: Stat) -> None:
        self._wire.send(Entries([await self._do(self._store.stat, message.path)], last=True))

    async def _list(self, message: List) -> None:
        batches = Ahead(self._store.entries(message.path, recursive=message.recursive), 2)
        waiting: list[Entry] | None = None
        try:
            async for batch in batches:
                if waiting is not None:
                    self._wire.send(Entries(waiting, last=False))
                    await self._wire.channel.drain()
                waiting = batch
        finally:
            await batches.end()
        self._wire.send(Entries(waiting or [], last=True))

    # --- changing ----------------------------------------------------------------------------------------------------

    async def _remove(self, message: Remove) -> None:
        await self._do(functools.partial(self._store.remove, message.path, recursive=message.recursive))
        self._wire.send(Done())

    async def _make_directory(self, message: MakeDirectory) -> None:
        await self._do(functools.partial(self._store.make_directory, message.path, parents=message.parents))
        self._wire.send(Done())

    async def _directories(self, message: Directories) -> None:
        for directory in message.directories:
            await self._do(self._store.set_directory, directory)
        self._wire.send(Done())

    # --- storing -----------------------------------------------------------------------------------------------------

    async def _put_small(self, message: PutSmall) -> None:
        self._wire.send(Outcomes(await self._do(self._store.put_small, message)))

    async def _put(self, message: Put) -> None:
        with self._limits.uploads.taken(self._wire.channel.peer):
            await self._store_one(message)

    async def _store_one(self, message: Put) -> None:
        begun = time.monotonic()
        self._stopped = False
        begin = functools.partial(self._store.begin, message, resumable=self._summed)
        upload = await self._worker.open(begin, lambda upload: upload.end(keep=True))
        keep = True
        try:
            partial = upload.partial
            held = partial.held
            self._wire.send(Ready(held, partial.held_digest if held else b"", partial.note))
            stored, moved = await self._receive(upload)
        except FileError as error:
            keep = error.kind not in _WORTHLESS
            await self._refuse_rest(error)
            return
        except OSError as error:
            failure = in_words(message.path, error)
            keep = failure.kind not in _WORTHLESS
            await self._refuse_rest(failure)
            return
        finally:
            self._worker.always(functools.partial(upload.end, keep=keep))
        self._wire.send(stored)
        self._log.info(
            "stored %s", shown(stored.path), extra=self._figures(message.size, moved, time.monotonic() - begun)
        )

    async def _refuse_rest(self, error: FileError) -> None:
        """Say that the upload failed, and take no notice of what is still on its way, up to where the client stops."""
        self._log.warning("an upload failed: %s", error, extra={"peer": self._wire.channel.peer.address})
        if error.kind in _FATAL:
            raise error
        self._wire.send(Failed(error.kind, str(error)))
        async with patience(self._wire, self._limits.stalled_seconds_max):
            while not self._stopped:
                await self._skip()

    async def _skip(self) -> None:
        match await self._wire.receive():
            case Block() as block if (nbytes := block.packed or block.nbytes) <= sums.BLOCK_BYTES:
                await self._wire.block(nbytes)
            case End() | Abandon() | None:
                self._stopped = True
            case Hole() | Start():
                pass
            case _:
                raise FileError("protocol", "the client goes on where it should have stopped")

    async def _receive(self, upload: Upload) -> tuple[Stored, int]:
        """The blocks of one upload; returns the answer, and how many bytes came."""
        wire, partial = self._wire, upload.partial
        async with patience(wire, self._limits.stalled_seconds_max, partial.held):
            first = (await wire.expect(Start)).first
        await self._do(partial.start_at, first)
        came = 0

        def moved(nbytes: int) -> None:
            nonlocal came
            came += nbytes

        end = await self._blocks(upload, first, moved)
        for _ in range(ROUNDS_MAX):
            if not (damaged := partial.take_damaged()):
                break
            self._log.warning("%s came damaged", named(damaged), extra={"peer": wire.channel.peer.address})
            wire.send(Again(damaged))
            end = await self._blocks(upload, first, ignore, in_order=False)
        if partial.damaged:
            raise FileError("digest", f"{named(partial.damaged)} came damaged again and again: look at the network")
        await self._do(functools.partial(partial.check, end.size, summed=self._summed))
        return await self._do(upload.commit), came

    async def _blocks(self, upload: Upload, first: int, moved: Moved, *, in_order: bool = True) -> End:
        """What comes up to `End`; `_stopped` says that the client has said its last word."""
        self._stopped = False
        try:
            async with patience(self._wire, self._limits.stalled_seconds_max):
                end = await receive_blocks(
                    self._wire,
                    upload,
                    self._worker,
                    first=first,
                    unpack=self._unpack,
                    moved=moved,
                    in_order=in_order,
                    summed=self._summed,
                    ended=self._client_stopped,
                )
        except Abandoned as error:
            self._stopped = True
            raise FileError(error.kind, str(error)) from None
        return end

    def _client_stopped(self) -> None:
        self._stopped = True

    def _figures(self, size: int, moved: int, seconds: float) -> dict[str, object]:
        channel = self._wire.channel
        return {
            "peer": channel.peer.address,
            "principal": str(channel.peer.principal),
            "bytes": size if size >= 0 else moved,
            "moved": moved,
            "seconds": round(seconds, 3),
            "verified": self._summed,
        }

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _get(self, message: Get) -> None:
        with self._limits.downloads.taken(self._wire.channel.peer):
            await self._send_one(message)

    async def _send_one(self, message: Get) -> None:
        begun = time.monotonic()
        source = await self._worker.open(functools.partial(self._store.open_source, message.path), Source.close)
        try:
            first = self._first_block(source, message)
            self._wire.send(SourceMessage(source.size, source.mtime_ns, source.mode, source.version, first))
            await self._send(source, first, message.blocks)
        finally:
            source.close()
        extra = self._figures(source.size, source.size - first * sums.BLOCK_BYTES, time.monotonic() - begun)
        self._log.info("sent %s", shown(message.path), extra=extra)

    def _first_block(self, source: Source, message: Get) -> int:
        """Where to begin: behind what the client holds, if that was of this very content."""
        if not message.version:
            return 0
        if message.version == source.version:
            return min(max(0, message.held), block_count(source.size))
        if message.blocks is not None:
            raise FileError("changed", f"{shown(message.path)} changed while it was sent: repeat")
        return 0

    async def _send(self, source: Source, first: int, blocks: list[int] | None) -> None:
        pack = self._pack if self._packed else None
        sender = Sender(self._wire, source, first=first, summed=self._summed, pack=pack)
        if blocks is None:
            await self._stopped_in_the_middle(sender.send_all)
        elif all(first <= index < block_count(source.size) for index in blocks):
            await self._stopped_in_the_middle(functools.partial(sender.send, blocks))
        else:
            raise FileError("protocol", "a block was asked for that the file does not have")

    async def _stopped_in_the_middle(self, send: Callable[[], Awaitable[None]]) -> None:
        try:
            await send()
        except OSError as error:
            raise FileError("io", f"the server cannot read it: {(error.strerror or str(error)).lower()}") from error

    async def _get_small(self, message: GetSmall) -> None:
        """In as many answers as their sizes need: for small ones one, read in one go."""
        paths = message.paths
        while paths:
            files = await self._do(self._read_smalls, paths)
            paths = paths[len(files) :]
            self._wire.send(Smalls(files))
            await self._wire.channel.drain()

    def _read_smalls(self, paths: list[bytes]) -> list[SmallFile | Failed]:
        """As many of them, from the first on, as one message should carry."""
        files: list[SmallFile | Failed] = []
        nbytes = 0
        for path in paths:
            file = self._store.read_small(path)
            files.append(file)
            nbytes += len(path) + len(file.data if isinstance(file, SmallFile) else file.text)
            if nbytes > MESSAGE_BYTES_MAX // 2:  # the largest that may come next has a place in the other half
                break
        return files


_HANDLERS: dict[type, Callable[..., Awaitable[None]]] = {
    Stat: Session._stat,
    List: Session._list,
    Remove: Session._remove,
    MakeDirectory: Session._make_directory,
    Directories: Session._directories,
    Put: Session._put,
    PutSmall: Session._put_small,
    Get: Session._get,
    GetSmall: Session._get_small,
}
