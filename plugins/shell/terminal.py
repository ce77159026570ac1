"""An interactive session: our terminal on one side, a remote one on the other, and a link that may be lost in between.

What has been typed and not been taken yet is kept, what has been shown is counted; so when a lost link is made again,
the session goes on byte for byte: the server sends what was missed, we send what it has not got.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel.client import connect
from kernel.errors import ChannelClosed, Code, DialError

from .client import Remote
from .console import Console
from .escape import Action, EscapeFilter
from .exits import exit_code
from .protocol import Exit, Kind, Request, Started
from .streams import Input, Output, named
from .views import View
from .words import shown

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

_HELP = "~. disconnects, ~d detaches, ~^Z suspends, ~~ sends a ~; each at the start of a line"
_SPARE_BYTES = 1024  # of the window: an escape may send a byte more than was read
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)
_END_OF_FILE = b"\x04"  # what a terminal takes for it
_CLEAR = b"\x1b[H\x1b[2J"
_LOST = (Code.LOST, Code.IDLE)
# What would end us on the spot, and leave the terminal as it is. Ctrl-C is the event loop's.
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


async def run(endpoint: str, request: Request, keys: Keyring | None, view: View | None) -> int:
    """Hold the session to its end, or until it is detached; the exit code."""
    session = _Session(endpoint, request, keys, view)
    console = session.console
    try:
        with session.signals():  # while they are ours, none ends us before the terminal is restored
            try:
                console.enter_raw()
                return await session.hold()
            finally:
                console.restore()
    finally:
        session.close()


class _Session:
    """One remote terminal, over as many connections as it takes."""

    def __init__(self, endpoint: str, request: Request, keys: Keyring | None, view: View | None) -> None:
        self.console = Console(0)
        self._endpoint = endpoint
        self._request = request
        self._keys = keys
        self._view = view
        self._remote: Remote | None = None
        self._output = Output(1, self._written, self._give_up)
        self._input = Input(0, self._read)
        self._escapes = EscapeFilter()
        self._typed = bytearray()  # from `_typed_at` on: what the server may not have got
        self._typed_at = 0
        self._taken = 0
        self._received = 0
        self._id = request.attach
        self._keep_seconds = 0.0
        self._leaving = ""
        self._task = asyncio.current_task()
        self._ended_by = 0

    async def hold(self) -> int:
        """Connect, and again whenever the link is lost and the server keeps the session."""
        request = self._request
        while True:
            try:
                how = await self._converse(request)
            except asyncio.CancelledError:
                return self._on_cancelled()
            except ChannelClosed as error:
                if self._leaving == "detach":
                    again = f"kernel shell {self._endpoint} --attach {self._id}"
                    self.console.restore()
                    self.console.say(f"detached; this brings it back: {shown(again)}")
                    return 0
                if error.code not in _LOST or not self._id or not self._keep_seconds:
                    raise
                request = replace(self._request, attach=self._id, received=self._received)
                continue
            await self._output.drain()
            self.console.restore()
            return exit_code(how)

    def _on_cancelled(self) -> int:
        if self._leaving == "disconnect":
            self.console.restore()
            self.console.say("disconnected")
            return 128 + signal.SIGHUP
        if self._ended_by:
            return 128 + self._ended_by
        raise asyncio.CancelledError

    async def _converse(self, request: Request) -> Exit:
        """One connection, from dialling to its end."""
        if request.received or self._remote is not None:
            return await self._converse_again(request)
        self._remote = remote = self._make_remote(request)
        async with connect(self._endpoint, "shell", handler=remote, keys=self._keys):
            return await remote.ended

    async def _converse_again(self, request: Request) -> Exit:
        """The same after the link was lost: until the server does not keep the session any longer."""
        loop = asyncio.get_running_loop()
        self.console.say("the link was lost; trying again, ~. gives up")
        deadline, waits = loop.time() + self._keep_seconds, iter(_RETRY_SECONDS)
        while True:
            self._remote = remote = self._make_remote(request)
            try:
                async with connect(self._endpoint, "shell", handler=remote, keys=self._keys):
                    return await remote.ended
            except DialError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(next(waits, _RETRY_SECONDS[-1]))

    def _make_remote(self, request: Request) -> Remote:
        return Remote(self, replace(request, terminal=self.console.describe()))

    # --- the remote terminal -----------------------------------------------------------------------------------------

    def started(self, started: Started) -> None:
        self._id, self._keep_seconds = started.session, started.keep_seconds
        if started.cut and self._received:
            self._output.write(_CLEAR, 0)
        if started.consumed < self._typed_at:  # somebody else's session, which we have just joined
            self._typed_at = started.consumed
        elif started.consumed > self._typed_at:
            del self._typed[: started.consumed - self._typed_at]
            self._typed_at = started.consumed
        if self._typed and self._remote is not None:
            self._remote.send_input(bytes(self._typed))
        self._input.set_room(started.window_bytes - _SPARE_BYTES - len(self._typed))

    def output(self, stream: Kind, data: memoryview) -> None:
        self._received += len(data)
        self._output.write(data if self._view is None else self._view.feed(data), len(data))

    def input_taken(self, nbytes: int) -> None:
        self._taken += nbytes
        if self._taken > self._typed_at:
            del self._typed[: self._taken - self._typed_at]
            self._typed_at = self._taken
        self._input.allow(nbytes)

    def _written(self, nbytes: int) -> None:
        if self._remote is not None:
            self._remote.consumed(Kind.STDOUT, nbytes)

    def _give_up(self, error: OSError) -> None:
        if self._remote is not None:
            self._remote.give_up(named(error))

    # --- our terminal ------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        if not data:
            if self.console.is_terminal:
                self._leave("hangup")
            else:
                self._type(_END_OF_FILE)
            return
        if not self.console.is_terminal:
            self._type(data)
            return
        for part in self._escapes.feed(data):
            if isinstance(part, bytes):
                self._type(part)
            else:
                self._act(part)

    def _type(self, data: bytes) -> None:
        self._typed += data
        if self._remote is not None:
            self._remote.send_input(data)

    def _act(self, action: Action) -> None:
        match action:
            case Action.DISCONNECT:
                self._leave("disconnect")
            case Action.DETACH:
                self._detach()
            case Action.SUSPEND:
                self._suspend()
            case Action.HELP:
                self.console.say(_HELP)

    def _detach(self) -> None:
        if not self._id or self._remote is None:
            self.console.say("this session cannot be detached")
            return
        self._leaving = "detach"
        self._remote.detach()

    def _leave(self, how: str) -> None:
        self._leaving = how
        if how == "hangup":
            self._ended_by = signal.SIGHUP
        if self._task is not None:
            self._task.cancel()

    def _suspend(self) -> None:
        self.console.suspend()
        self._resized()

    def _resized(self) -> None:
        if self._remote is not None:
            self._remote.resize(*self.console.size())

    def _continued(self) -> None:
        """Whoever stopped and continued us has had the terminal meanwhile."""
        self.console.enter_raw()
        self._resized()

    def _end(self, number: int) -> None:
        self._ended_by = number
        if self._task is not None:
            self._task.cancel()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle what a terminal's process gets, as long as this lasts."""
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGWINCH: self._resized,
            signal.SIGCONT: self._continued,
            signal.SIGTSTP: self._suspend,
            **{number: functools.partial(self._end, number) for number in _ENDS},
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def close(self) -> None:
        self._input.close()
        self._output.close()
