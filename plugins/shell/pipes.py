"""A remote command in the place of a local one: its three streams are ours, and signals go to it.

The first Ctrl-C, and each one after it, goes to the remote process group, as it would here; the third ends the
conversation, and with it the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kernel.client import connect

from .client import Remote
from .exits import SIGNALLED, exit_code
from .protocol import Exit, Kind, Request, Started
from .streams import Input, Output, named

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

    from .views import View

    MakeView = Callable[[int], View | None]
    """Makes the view of one of our streams, which it gets as its number."""

_INTERRUPTS_MAX = 3


async def run(endpoint: str, request: Request, keys: Keyring | None, view: MakeView) -> int:
    """Run the command; the exit code."""
    pipes = _Pipes(request, view)
    try:
        async with connect(endpoint, "shell", handler=pipes.remote, keys=keys):
            with pipes.signals():
                return exit_code(await pipes.until_ended())
    except BrokenPipeError:
        return SIGNALLED + signal.SIGPIPE  # as a local command ends whose reader has left
    except asyncio.CancelledError:
        if not pipes.ended_by:
            raise
        return SIGNALLED + pipes.ended_by
    finally:
        pipes.close()


class _Pipes:
    """Our three streams, joined with a remote command."""

    def __init__(self, request: Request, view: MakeView) -> None:
        self.remote = Remote(self, request)
        self._outputs = {
            Kind.STDOUT: Output(1, lambda nbytes: self.remote.consumed(Kind.STDOUT, nbytes), self._give_up),
            Kind.STDERR: Output(2, lambda nbytes: self.remote.consumed(Kind.STDERR, nbytes), lambda error: None),
        }
        self._views = {Kind.STDOUT: view(1), Kind.STDERR: view(2)}
        self._input = Input(0, self._read)
        self._interrupts = 0
        self.ended_by = 0  # the signal that has ended the conversation

    # --- the remote command ------------------------------------------------------------------------------------------

    def started(self, started: Started) -> None:
        self._input.allow(started.window_bytes)

    def output(self, stream: Kind, data: memoryview) -> None:
        view = self._views[stream]
        self._outputs[stream].write(data if view is None else view.feed(data), len(data))

    def input_taken(self, nbytes: int) -> None:
        self._input.allow(nbytes)

    async def until_ended(self) -> Exit:
        """Wait until the command has ended, and all that it wrote is written here."""
        how = await self.remote.ended
        for stream, output in self._outputs.items():
            view = self._views[stream]
            if view is not None:
                output.write(view.feed(b"", last=True), 0)
            await output.drain()
        return how

    # --- our side ----------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        if data:
            self.remote.send_input(data)
        else:
            self.remote.finish_input()

    def _give_up(self, error: OSError) -> None:
        self.remote.give_up(named(error))

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C is for the remote command, as long as this lasts."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt(number: signal.Signals) -> None:
            self._interrupts += 1
            self.remote.signal(number.name.removeprefix("SIG"))
            if self._interrupts >= _INTERRUPTS_MAX:
                self.ended_by = number
                task.cancel()

        loop.add_signal_handler(signal.SIGINT, interrupt, signal.SIGINT)
        loop.add_signal_handler(signal.SIGQUIT, interrupt, signal.SIGQUIT)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGQUIT)

    def close(self) -> None:
        self._input.close()
        for output in self._outputs.values():
            output.close()
