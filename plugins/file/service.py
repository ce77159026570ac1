"""The file service: its options, what they mean for the store, and its life. What is said on a channel: `session`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, cast

from kernel.api import Dialect, Needs, Service, ServiceContext
from kernel.channel import Channel
from kernel.errors import OptionError, StartError
from kernel.options import Meta

from .compression import packer, unpacker
from .confine import Root
from .memory import keep_freed_memory
from .names import NAME_BYTES_MAX, NameRules
from .places import Places, TransferLimits
from .session import Session
from .store import Store
from .upload import UploadSession
from .usage import Usage

_TIB = 1 << 40
_SWEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What stands behind the `?` in `--plugin 'file?root=/srv/files'`."""

    root: Annotated[str, Meta(description="the directory that is served; nothing outside of it can be reached")] = ""
    writable: Annotated[bool, Meta(description="1: clients may add files and directories")] = False
    overwrite: Annotated[bool, Meta(description="1: they may also replace and remove them")] = False
    file_bytes_max: Annotated[int, Meta(ge=0, description="the largest file that is taken")] = _TIB
    total_bytes_max: Annotated[int, Meta(ge=0, description="all files together; 0: what the disk holds")] = 0
    files_max: Annotated[int, Meta(ge=0, description="how many files; 0: no limit")] = 0
    depth_max: Annotated[int, Meta(ge=1, le=256, description="levels of directories below the root")] = 64
    name_bytes_max: Annotated[int, Meta(ge=1, le=NAME_BYTES_MAX, description="bytes of one name")] = NAME_BYTES_MAX
    any_names: Annotated[bool, Meta(description="1: names may hold control characters")] = False
    durable: Annotated[
        bool, Meta(description="0: do not sync; faster, but a power cut may take what was acknowledged")
    ] = True
    partials_seconds: Annotated[
        float, Meta(ge=0, description="how long an unfinished upload waits for its client to come back")
    ] = 7 * 24 * 3600.0
    stalled_seconds_max: Annotated[
        float, Meta(ge=0, description="an upload that brings no byte for so long is ended, to be continued; 0: never")
    ] = 600.0
    uploads_max: Annotated[int, Meta(ge=0, description="uploads under way at once; 0: no limit")] = 512
    uploads_per_principal_max: Annotated[
        int, Meta(ge=0, description="those of one principal, or of one address where nobody proves who he is")
    ] = 128
    downloads_max: Annotated[int, Meta(ge=0, description="downloads under way at once; 0: no limit")] = 512
    downloads_per_principal_max: Annotated[int, Meta(ge=0, description="those of one principal or address")] = 128


class File(Service):
    """Sends and takes files below a directory: verified, resumable, atomic."""

    name = "file"
    example = "kernel file ls {endpoint}"
    Options = FileOptions
    needs = Needs(reliable=True, ordered=True)
    whole_messages: ClassVar[bool] = False
    bulk: ClassVar[bool] = True
    dialects = MappingProxyType(
        {"upload": Dialect({"framing": "raw"}, help="a length, a JSON head, then the bytes: simple upload scripts")}
    )

    def __init__(self, options: FileOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._path = _checked_root(options)
        self._store: Store | None = None
        self._limits = TransferLimits(
            Places("uploads", options.uploads_max, options.uploads_per_principal_max),
            Places("downloads", options.downloads_max, options.downloads_per_principal_max),
            options.stalled_seconds_max,
        )

    async def start(self) -> None:
        keep_freed_memory()
        options = cast(FileOptions, self.options)
        try:
            self._store = await asyncio.to_thread(self._open, options)
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise StartError(f"the root '{self._path}' cannot be served: {words}") from None
        if options.writable:
            self.context.spawn(self._sweep(self._store, options.partials_seconds))

    def _open(self, options: FileOptions) -> Store:
        root = Root(os.fsencode(self._path))
        try:
            usage = Usage(options.total_bytes_max, options.files_max)
            usage.count(root)
            store = Store(
                root,
                writable=options.writable,
                overwrite=options.overwrite,
                rules=NameRules(options.depth_max, options.name_bytes_max, options.any_names),
                durable=options.durable,
                file_bytes_max=options.file_bytes_max,
                usage=usage,
            )
            store.open()
        except BaseException:
            root.close()
            raise
        return store

    async def _sweep(self, store: Store, keep_seconds: float) -> None:
        while True:
            swept = await asyncio.to_thread(store.sweep, keep_seconds)
            if swept:
                self.context.log.info("unfinished uploads were removed", extra={"count": swept})
            await asyncio.sleep(_SWEEP_SECONDS)

    async def stop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    async def serve(self, channel: Channel) -> None:
        assert self._store is not None
        if channel.dialect == "upload":
            await UploadSession(channel, self._store, self._limits, self.context.log).run()
            return
        await Session(channel, self._store, self._limits, self.context.log, unpacker(), packer()).run()


def _checked_root(options: FileOptions) -> str:
    """The directory to serve, links followed; never what nobody means to give away."""
    if not options.root:
        raise OptionError("file: which directory is to be served? --plugin 'file?root=/srv/files'")
    path = Path(options.root).expanduser().resolve()
    if not path.is_dir():
        raise OptionError(f"file: option 'root={options.root}': there is no such directory: make it, or name another")
    if path in (Path("/"), Path.home().resolve()):
        raise OptionError(f"file: '{path}' is too much to serve: name a directory below it that holds files to share")
    if options.overwrite and not options.writable:
        raise OptionError("file: option 'overwrite=1' says nothing without writable=1: add it")
    return str(path)
