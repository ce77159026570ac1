"""One command from request to audit line: between its process and the channel of whoever watches.

A command has one channel for its life, and is ended with it. A terminal survives a lost channel for a while: until its
client is back, what it writes goes to a replay buffer of bounded size alone.

Invariant: what is on its way to the client never exceeds the window that the client gave, and what is on its way to the
command never exceeds ours; so neither a slow client nor a command that does not read costs more than that.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kernel.errors import ChannelClosed, Code

from .process import NOT_FOUND, STDERR, STDOUT, Job, Process, explain
from .protocol import (
    STDERR as STDERR_KIND,
    STDOUT as STDOUT_KIND,
    WINDOW_BYTES,
    Exit,
    Kind,
    ProtocolError,
    Request,
    Started,
    credit,
    read_credit,
    read_resize,
)

if TYPE_CHECKING:
    from .audit import Entry
    from .process import Keeper
    from .recorder import Recorder


class Watcher(Protocol):
    """Who watches a session: a channel, or what answers in a dialect."""

    @property
    def code(self) -> Code | None: ...

    @property
    def full(self) -> bool: ...

    def send(self, message: bytes) -> None: ...

    def close(self) -> None: ...

    def reset(self, code: Code, reason: str = "") -> None: ...


_KINDS = {STDOUT: STDOUT_KIND, STDERR: STDERR_KIND}
_UNWATCHED_BYTES = 64 * 1024
_UNBOUNDED_BYTES = 1 << 62
# After the last process of a command must be gone: so long its output waits for a client that does not read.
_UNREAD_SECONDS = 10.0


class Session:
    """A running command. Made with everything that it needs; `start` runs it.

    Args:
        on_ended: is called once, when nothing of the command is left.
        detach_seconds: how long it waits for a client that was lost; 0: not at all.
    """

    def __init__(
        self,
        keeper: Keeper,
        job: Job,
        request: Request,
        entry: Entry,
        *,
        seconds_max: float,
        output_bytes_max: int,
        detach_seconds: float,
        replay_bytes: int,
        on_ended: Callable[[Session], None],
    ) -> None:
        self.id = secrets.token_urlsafe(12)
        self.entry = entry
        self._request = request
        self._seconds_max = seconds_max
        self._output_bytes_max = output_bytes_max
        self._grace_seconds = job.grace_seconds
        self._detach_seconds = detach_seconds if job.terminal else 0.0
        self._replay = Replay(replay_bytes if self._detach_seconds else 0)
        self._on_ended = on_ended
        self._process = Process(keeper, job, self)
        self._channel: Watcher | None = None
        self._room = {STDOUT: 0, STDERR: 0}
        self._input_room = WINDOW_BYTES
        self._input_bytes = 0
        self._running = False
        self._ending = ""
        self._dropping = False
        self._timed_out = False
        self._timers: list[asyncio.TimerHandle] = []
        self._vigil: asyncio.TimerHandle | None = None

    def start(self, channel: Watcher) -> None:
        """Run it, watched by this channel.

        Raises:
            OSError: there are no descriptors left.
        """
        self._watch(channel, self._request.window_bytes)
        self._process.start()
        self._timers.append(asyncio.get_running_loop().call_later(self._seconds_max, self._time_out))

    # --- the client --------------------------------------------------------------------------------------------------

    def attach(self, channel: Watcher, request: Request) -> None:
        """A client is back, or another one takes over."""
        if self._channel is not None:
            self._channel.reset(Code.CANCELLED, "the session was attached from elsewhere")
        if self._vigil is not None:
            self._vigil.cancel()
            self._vigil = None
        missed, cut = self._replay.since(request.received)
        self._watch(channel, request.window_bytes)
        channel.send(Started(self.id, self._input_room, cut, self._detach_seconds, self._input_bytes).encode())
        for at in range(0, len(missed), _UNWATCHED_BYTES):
            self._show(STDOUT, missed[at : at + _UNWATCHED_BYTES])
        if request.terminal is not None:
            self._resize(request.terminal.columns, request.terminal.rows)
        if cut or not request.received:
            self._process.signal(signal.SIGWINCH)  # whatever has a screen draws it again
        self._process.resume()

    def _watch(self, channel: Watcher, window_bytes: int) -> None:
        self._channel = channel
        self._room = {STDOUT: window_bytes, STDERR: window_bytes}

    def message(self, message: bytes) -> None:
        """What the client says once the command is under way.

        Raises:
            ProtocolError: no such message, or more than the window.
        """
        kind = message[0] if message else 0
        if kind == Kind.STDIN:
            self._take_input(memoryview(message)[1:])
        elif kind == Kind.CREDIT:
            stream, nbytes = read_credit(message)
            self._room[STDERR if stream == Kind.STDERR else STDOUT] += nbytes
            self._process.resume()
        elif kind == Kind.END:
            self._process.finish_input()
        elif kind == Kind.RESIZE:
            self._resize(*read_resize(message))
        elif kind == Kind.SIGNAL:
            self._signal(message[1:])
        elif kind == Kind.DETACH:
            self._detach()
        else:
            raise ProtocolError(f"a client sends no messages of kind {kind}")

    def _take_input(self, data: memoryview) -> None:
        self._input_room -= len(data)
        if self._input_room < 0:
            raise ProtocolError("more input was sent than the window allows")
        self._input_bytes += len(data)
        self.entry.input_bytes += len(data)
        self._process.write(data)

    def _resize(self, columns: int, rows: int) -> None:
        self._process.resize(columns, rows)
        self._record(lambda recorder: recorder.resized(columns, rows))

    def _record(self, event: Callable[[Recorder], None]) -> None:
        recorder = self.entry.recorder
        if recorder is not None:
            try:
                event(recorder)
            except OSError as error:
                self.end(f"its recording cannot be written: {error.strerror}")

    def _signal(self, name: bytes) -> None:
        number = getattr(signal, f"SIG{name.decode('ascii', 'replace')}", None)
        if not isinstance(number, signal.Signals):
            raise ProtocolError("there is no such signal")
        self._process.signal(number)

    def _detach(self) -> None:
        channel = self._channel
        if channel is None:
            return
        self.left(channel, Code.LOST)
        channel.close()

    def left(self, channel: Watcher, code: Code) -> None:
        """The channel is over. Whoever said goodbye, or took too much, ends the command; who was lost may come back."""
        if channel is not self._channel:
            return  # another one watches now, or the command has ended
        self._channel = None
        if self._detach_seconds and code in (Code.LOST, Code.IDLE) and not self._ending:
            loop = asyncio.get_running_loop()
            self._vigil = loop.call_later(self._detach_seconds, self.end, "its client did not come back")
        else:
            self.end("its client has left")
        self._process.resume()

    def finished(self, channel: Watcher) -> None:
        """The client has said all: no input follows, and no credit, so what the channel takes is the only measure."""
        if channel is self._channel:
            self._process.finish_input()
            self._room = dict.fromkeys(self._room, _UNBOUNDED_BYTES)
            self._process.resume()

    def writable(self) -> None:
        """There is room in the channel again."""
        self._process.resume()

    def end(self, reason: str) -> None:
        """End the command and all that it has started; `on_ended` tells when that is done.

        That is soon, also when the client does not read: after a while what is unread is dropped.
        """
        if not self._ending:
            self._ending = reason
            self._process.end()
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(self._grace_seconds + _UNREAD_SECONDS, self._drop))

    def _drop(self) -> None:
        self._dropping = True
        self._ending += ", and what it wrote was not read"
        self._process.resume()

    def _time_out(self) -> None:
        if not self._ending:
            self._timed_out = True
            self.end(f"its time was up after {self._seconds_max:g} s")

    # --- the process calls -------------------------------------------------------------------------------------------

    def started(self, pid: int) -> None:
        self._running = True
        self.entry.pid = pid
        if self._channel is not None:
            detachable = self.id if self._detach_seconds else ""
            self._channel.send(Started(detachable, WINDOW_BYTES, keep_seconds=self._detach_seconds).encode())
        self._process.resume()

    def failed(self, what: str, error: int) -> None:
        reason = self.entry.reason = explain(what, error)
        status = 127 if reason == NOT_FOUND else 126
        argv = self._request.argv or ["shell"]
        command = shlex.quote(argv[0])
        if status == 127 and len(argv) == 1 and len(argv[0].split()) > 1:
            reason += f" (for a shell's line: -- sh -c {command})"
        self._finish(Exit(status=status, reason=f"{command}: {reason}"))

    def wants(self, stream: int) -> int:
        channel = self._channel
        if channel is None or channel.code is not None or self._dropping:
            return _UNWATCHED_BYTES
        return 0 if channel.full or not self._running else self._room[stream]

    def output(self, stream: int, data: bytes) -> None:
        entry = self.entry
        room = 0 if self._dropping else self._output_bytes_max - entry.output_bytes
        if len(data) > room:
            data = data[:room]
            self._dropping = True
            self.end(f"it wrote more than {self._output_bytes_max:,} bytes")
        if not data:
            return
        entry.output_bytes += len(data)
        if self._replay.size:
            self._replay.add(data)
        self._record(lambda recorder: recorder.output(data))
        self._show(stream, data)

    def _show(self, stream: int, data: bytes) -> None:
        if self._channel is not None and self._channel.code is None:
            self._room[stream] -= len(data)
            self._channel.send(_KINDS[stream] + data)

    def input_written(self, nbytes: int) -> None:
        self._input_room += nbytes
        if self._channel is not None and self._channel.code is None:
            self._channel.send(credit(Kind.STDIN, nbytes))

    def ended(self, status: int, cpu_seconds: float, nothing_left: bool) -> None:
        self.entry.cpu_seconds = cpu_seconds
        self.entry.reason = self._ending if self._ending else ""
        self.entry.nothing_left = nothing_left
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name.removeprefix("SIG")
            self._finish(Exit(None, name, self._ending, self._timed_out))
        else:
            self._finish(Exit(os.waitstatus_to_exitcode(status), "", self._ending, self._timed_out))

    def _finish(self, how: Exit) -> None:
        for timer in [*self._timers, *([self._vigil] if self._vigil else [])]:
            timer.cancel()
        self.entry.finish(how, time.time())
        channel, self._channel = self._channel, None
        if channel is not None and channel.code is None:
            try:
                channel.send(how.encode())
                channel.close()
            except ChannelClosed:
                pass
        self._on_ended(self)


class Replay:
    """The last bytes of a terminal's output, and how many there were in all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        self._kept += data
        if len(self._kept) > 2 * self.size:  # now and then, not for each piece
            del self._kept[: len(self._kept) - self.size]

    def since(self, received: int) -> tuple[bytes, bool]:
        """What came after the first `received` bytes, and whether some of it is lost."""
        missing = self.total - received
        if 0 <= missing <= len(self._kept):
            return bytes(self._kept[len(self._kept) - missing :]), False
        return bytes(self._kept[-self.size :]), True
