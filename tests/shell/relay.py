"""A UNIX socket in between, whose connections can be cut without a goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType


class Relay:
    """Passes bytes between its own socket and the server's, in a thread."""

    def __init__(self, path: Path, server: Path) -> None:
        self.path = path
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connected = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Relay:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Wait for a connection, and end it on both sides in the middle of whatever passes."""

        async def wait_and_abort() -> None:
            await self._connected.wait()
            self._abort()

        self._call(wait_and_abort())

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._connected.clear()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, self.path)

    async def _stop(self) -> None:
        self._listener.close()
        self._abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._server)
        pair = {writer, far_writer}
        self._writers |= pair
        self._connected.set()
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
        self._writers -= pair


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
