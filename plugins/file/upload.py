"""The dialect `upload`: what tutorials' clients send, into the same confined and atomic writer.

    head length: 4 bytes, signed, little-endian | head: JSON {"filepath", "filename", "filesize"} | filesize bytes

There is no reply, so nobody can be told that a name is taken: where files may not be replaced, the new one gets a
number. `filepath` is where the client had it, and is ignored. Uploads may follow one another on a connection. What is
cut off is dropped: there is nothing by which it could be continued.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import msgspec

from kernel.channel import Channel
from kernel.errors import ChannelClosed, Code

from . import sums
from .errors import FileError, in_words
from .messages import Put
from .names import shown
from .places import TransferLimits, patience
from .receiving import WAITING_BLOCKS_MAX
from .store import Store, Upload
from .threads import Worker

HEAD_BYTES_MAX = 4096
_LENGTH_BYTES = 4


class Head(msgspec.Struct):
    """What comes before the bytes."""

    filename: str
    filesize: int
    filepath: str = ""


class UploadSession:
    """Serves one connection in the dialect; as a `places.Listening`, says when it waits for the client."""

    def __init__(self, channel: Channel, store: Store, limits: TransferLimits, log: logging.Logger) -> None:
        self._channel = channel
        self._store = store
        self._limits = limits
        self.waiting = False
        self.pieces = 0
        self._log = log
        self._worker = Worker(WAITING_BLOCKS_MAX)
        self._rest = b""

    async def run(self) -> None:
        """Until the client has sent its last byte."""
        try:
            while (length := await self._take(_LENGTH_BYTES)) is not None:
                with self._limits.uploads.taken(self._channel.peer):
                    async with patience(self, self._limits.stalled_seconds_max):
                        await self._upload(await self._head(length))
        except FileError as error:
            self._log.warning("an upload was refused: %s", error, extra={"peer": self._channel.peer.address})
            self._channel.reset(Code.REFUSED, str(error))
        except ChannelClosed:
            pass
        finally:
            self._worker.close()
            await self._worker.join()

    async def _head(self, length: bytes) -> Head:
        nbytes = int.from_bytes(length, "little", signed=True)
        if not 0 < nbytes <= HEAD_BYTES_MAX:
            raise FileError("protocol", f"a head of {nbytes} bytes: it has from 1 to {HEAD_BYTES_MAX}")
        text = await self._take(nbytes)
        if text is None:
            raise FileError("protocol", "the client ended before its head")
        try:
            head = msgspec.json.decode(text, type=Head)
        except msgspec.DecodeError as error:
            raise FileError("protocol", f"the head is not the JSON that it should be: {error}") from None
        if head.filesize < 0:
            raise FileError("protocol", f"a file of {head.filesize} bytes")
        return head

    async def _upload(self, head: Head) -> None:
        name = head.filename.replace("\\", "/").rpartition("/")[2].encode("utf-8", "surrogateescape")
        policy: Any = "replace" if self._store.overwrite else "rename"
        put = Put(name, head.filesize, time.time_ns(), 0o644, policy, resume=False)
        begin = functools.partial(self._store.begin, put, resumable=False)
        upload = await self._worker.open(begin, lambda upload: upload.end(keep=False))
        try:
            for index in range(sums.block_count(head.filesize)):
                parts = await self._parts(sums.block_bytes(index, head.filesize))
                await self._worker.submit(functools.partial(_write, upload, index, parts))
            stored = await self._worker.call(upload.commit)
        except OSError as error:
            raise in_words(name, error) from error
        finally:
            self._worker.always(functools.partial(upload.end, keep=False))
        extra = {"peer": self._channel.peer.address, "bytes": head.filesize, "dialect": "upload"}
        self._log.info("stored %s", shown(stored.path), extra=extra)

    async def _parts(self, nbytes: int) -> list[bytes]:
        """So many bytes, in the parts in which they came."""
        parts: list[bytes] = []
        while nbytes:
            part = self._rest or await self._piece()
            if part is None:
                raise FileError("protocol", f"the client ended {nbytes} bytes too early; nothing is kept")
            parts.append(part[:nbytes])
            self._rest = part[nbytes:]
            nbytes -= len(parts[-1])
        return parts

    async def _take(self, nbytes: int) -> bytes | None:
        """So many bytes in one; None at the end of the stream."""
        while len(self._rest) < nbytes:
            part = await self._piece()
            if part is None:
                if self._rest:
                    raise FileError("protocol", "the client ended in the middle of a head")
                return None
            self._rest += part
        taken, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return taken

    async def _piece(self) -> bytes | None:
        self.waiting = True
        piece: bytes | None = await self._channel.receive()
        self.waiting = False
        self.pieces += 1
        return piece


def _write(upload: Upload, index: int, parts: list[bytes]) -> None:
    upload.write(index, parts, sums.block_sum(parts))
