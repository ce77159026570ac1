"""Standard input as messages, without a thread and without touching the descriptor's mode.

A pipe, a socket or a terminal is waited for by the event loop, so replies are handled while nothing is typed; one read
after that never blocks. Anything else (a file, /dev/null) is always readable.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator

from kernel.errors import UsageError

from .payload import Payload, of_bytes, of_file

_READ_BYTES = 64 * 1024


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    mode = os.fstat(descriptor).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    while True:
        if waits:
            await _readable(loop, descriptor)
        chunk = os.read(descriptor, _READ_BYTES)
        if not chunk:
            return
        yield chunk


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def lines(descriptor: int, line_bytes_max: int, *, keep_ends: bool) -> AsyncIterator[Payload]:
    """Each line as a message; `keep_ends` leaves the newline in it.

    Raises:
        UsageError: a line is longer than a message may be.
    """
    begun: list[bytes] = []
    async for chunk in _chunks(descriptor):
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            yield of_bytes(b"".join([*begun, line, b"\n" if keep_ends else b""]))
            begun = []
        begun.append(rest)
        if sum(map(len, begun)) > line_bytes_max:
            raise UsageError(f"a line of the input is longer than {line_bytes_max:,} bytes: --whole sends it in parts")
    if last := b"".join(begun):
        yield of_bytes(last)


async def whole(descriptor: int) -> Payload:
    """Everything as one message. What comes through a pipe waits in a temporary file until its length is known."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return of_file(descriptor)
    spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as the payload that reads it
    async for chunk in _chunks(descriptor):
        spool.write(chunk)
    spool.seek(0)
    payload = of_file(spool.fileno())
    return Payload(payload.size, lambda offset, nbytes, file=spool: payload.read(offset, nbytes))  # type: ignore[misc]
