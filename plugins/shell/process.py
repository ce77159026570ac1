"""The server's end of one command: the descriptors of its streams, and two pipes to its supervisor.

    Keeper.start(job) -> Process;  Process calls its `Owner`

A stream is read only while the owner has room for it, and written as the command reads. What comes from a command is
never held here; what goes to it waits in a queue that the owner's window bounds.

All are pipes, or a terminal, and none is a socket: the end of a pipe is told by every event loop, while uvloop drops a
descriptor without a word that has an error pending, as a socket has whose peer left something unread.

The order of the last calls is fixed: the output to its end, then `ended`, when nothing of the command is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .protocol import CHUNK_BYTES, Terminal

log = logging.getLogger("kernel.service.shell")

# Signals the foreground process group of a terminal, from its other end; `termios` does not know it.
_TIOCSIG = 0x40045436
_PIPE_BYTES = 1024 * 1024
_READS_MAX = 4
_LINGER_SECONDS = 0.25
_RETRY_SECONDS = 0.005
_HAND_OVER_SECONDS = 10.0
# More orders than this wait only for a supervisor that does not run: signals beyond them tell it nothing new.
_ORDERS_MAX = 64
_REPORT_BYTES = 64 * 1024
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from warden import keeper; keeper.main(int(sys.argv[2]))"

STDOUT, STDERR = 1, 2
NOT_FOUND = "command not found"


@dataclass(slots=True)
class Job:
    """All that is needed to run a command; see `warden.launch` for what its fields mean."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    within: str = ""
    terminal: Terminal | None = None
    umask: int = 0o077
    limits: dict[str, int] = field(default_factory=dict)
    user: dict[str, Any] | None = None
    privileges: bool = False
    cgroup: bool = False
    grace_seconds: float = 2.0

    def specification(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields | {"terminal": self.terminal is not None}).encode() + b"\n"


class Owner(Protocol):
    """Who has started a process; called from the event loop."""

    def started(self, pid: int) -> None:
        """The command runs."""

    def failed(self, what: str, error: int) -> None:
        """It could not be started: which step failed, and the number of the error. No other call follows."""

    def output(self, stream: int, data: bytes) -> None:
        """Bytes of `STDOUT` or `STDERR`; a terminal has only the first."""

    def wants(self, stream: int) -> int:
        """How many bytes of a stream can be taken now; 0: none until `Process.resume`."""

    def input_written(self, nbytes: int) -> None:
        """The command has taken so much of its input, or will take no more of it."""

    def ended(self, status: int, cpu_seconds: float, nothing_left: bool) -> None:
        """The last call: the wait status, and whether all that the command had started is gone."""


class Keeper:
    """The process that forks supervisors. Started with the service, and again whenever it is missing until `stop`.

    Attributes:
        serving: between `start` and `stop`: requests can be made.
    """

    def __init__(self) -> None:
        self.serving = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start it; it is ready at once, requests wait until it is.

        Raises:
            OSError: there are no processes or descriptors left.
        """
        self.serving = True
        self._ensure()

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        place = str(Path(__file__).parent)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, place, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                start_new_session=True,
            )
        self._socket = ours

    def stop(self) -> None:
        """Let it go; it ends after its last supervisor, and nobody waits for that here."""
        self.serving = False
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def wait_stopped(self, seconds: float) -> None:
        """Wait until it has ended, after `stop`."""
        process, self._process = self._process, None
        deadline = asyncio.get_running_loop().time() + seconds
        while process is not None and process.poll() is None:
            if asyncio.get_running_loop().time() >= deadline:
                process.kill()
                process.wait()
                return
            await asyncio.sleep(_RETRY_SECONDS)

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def request(self, descriptors: list[int]) -> bool:
        """Hand over the descriptors of a new command; False: it has too much to do, or has just ended: try again."""
        if not self.serving:
            return False
        try:
            self._ensure()
            assert self._socket is not None
            socket.send_fds(self._socket, [b"+"], descriptors)
        except OSError:
            return False
        return True


class Process:
    """One command. Made by `start`; over when `Owner.ended` or `Owner.failed` has been called."""

    def __init__(self, keeper: Keeper, job: Job, owner: Owner) -> None:
        self._keeper = keeper
        self._job = job
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._orders = Writer(self._loop)
        self._reports = -1
        self._begun = b""
        self._outputs: dict[int, int] = {}
        self._paused: set[int] = set()
        self._input = Writer(self._loop, owner.input_written)
        self._launched = False
        self._exited: tuple[int, float] | None = None
        self._gone: bool | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._hand_over_until = self._loop.time() + _HAND_OVER_SECONDS
        self._over = False

    # --- start -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the streams, and have the command started.

        Raises:
            OSError: there are no descriptors left.
        """
        try:
            self._begin()
        except OSError:
            self._finish()
            raise
        self._orders.write(self._job.specification())
        self._loop.add_reader(self._reports, self._reports_readable)
        for stream, descriptor in self._outputs.items():
            self._loop.add_reader(descriptor, self._output_readable, stream)

    def _begin(self) -> None:
        with contextlib.ExitStack() as theirs:

            def given(descriptor: int) -> int:
                theirs.callback(os.close, descriptor)
                return descriptor

            orders, self._orders.descriptor = os.pipe()
            given(orders)
            self._reports, reports = os.pipe()
            given(reports)
            stdio = self._open_terminal(given) if self._job.terminal else self._open_pipes(given)
            for descriptor in (self._orders.descriptor, self._input.descriptor, self._reports, *self._outputs.values()):
                os.set_blocking(descriptor, False)
            self._hand_over([orders, reports, *stdio], theirs.pop_all())

    def _open_pipes(self, given: Callable[[int], int]) -> list[int]:
        stdin, self._input.descriptor = os.pipe()
        given(stdin)
        self._outputs[STDOUT], stdout = os.pipe()
        given(stdout)
        self._outputs[STDERR], stderr = os.pipe()
        given(stderr)
        with contextlib.suppress(OSError):  # the user's share of pipe memory is used up: the default serves
            fcntl.fcntl(self._outputs[STDOUT], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return [stdin, stdout, stderr]

    def _open_terminal(self, given: Callable[[int], int]) -> list[int]:
        assert self._job.terminal is not None
        self._outputs[STDOUT], slave = os.openpty()
        given(slave)
        self._input.descriptor = os.dup(self._outputs[STDOUT])
        self.resize(self._job.terminal.columns, self._job.terminal.rows)
        return [slave, slave, slave]

    def _hand_over(self, descriptors: list[int], theirs: contextlib.ExitStack) -> None:
        """Give the keeper its ends, now or soon. Without them the reports end, which tells that nothing was started."""
        taken = self._keeper.request(descriptors)
        if taken or not self._keeper.serving or self._loop.time() > self._hand_over_until:
            theirs.close()
        else:
            self._loop.call_later(_RETRY_SECONDS, self._hand_over, descriptors, theirs)

    # --- the owner calls ---------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Give the command input; `Owner.input_written` tells when it has taken it."""
        self._input.write(data)

    def finish_input(self) -> None:
        """After what is queued, the command's input ends. A terminal's input has no end."""
        if self._job.terminal is None:
            self._input.finish()

    def signal(self, number: int) -> None:
        """Signal the command's process group; in a terminal, the one in the foreground."""
        if self._job.terminal is None:
            if self._orders.waiting < _ORDERS_MAX:
                self._tell({"signal": number})
        elif STDOUT in self._outputs:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._outputs[STDOUT], _TIOCSIG, struct.pack("i", number))

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size; what runs in it gets SIGWINCH."""
        if STDOUT in self._outputs:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._outputs[STDOUT], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resume(self) -> None:
        """There is room for output again."""
        for stream in list(self._paused):
            self._paused.discard(stream)
            if stream in self._outputs:
                self._loop.add_reader(self._outputs[stream], self._output_readable, stream)
                self._output_readable(stream)

    def end(self) -> None:
        """End all that the command has started; what it still writes is read and given."""
        self._tell({"end": True})

    # --- descriptors -------------------------------------------------------------------------------------------------

    def _output_readable(self, stream: int) -> None:
        for _ in range(_READS_MAX):
            if not self._read_output(stream):
                return

    def _read_output(self, stream: int) -> bool:
        """Read once; whether there may be more at once."""
        descriptor = self._outputs.get(stream)
        if descriptor is None:
            return False
        room = min(self._owner.wants(stream), CHUNK_BYTES)
        if room <= 0:
            self._paused.add(stream)
            self._loop.remove_reader(descriptor)
            return False
        try:
            data = os.read(descriptor, room)
        except BlockingIOError:
            if self._reports < 0 and not self._gone:  # somebody out of reach holds it open
                self._close_output(stream)
            return False
        except OSError:  # EIO: nobody has the terminal open any longer
            data = b""
        if not data:
            self._close_output(stream)
            return False
        self._owner.output(stream, data)
        return len(data) == room

    def _reports_readable(self) -> None:
        try:
            received = os.read(self._reports, _REPORT_BYTES)
        except BlockingIOError:
            return
        *lines, self._begun = (self._begun + received).split(b"\n")
        for line in lines:
            self._heard(json.loads(line))
        if self._reports >= 0 and (not received or self._gone is not None):
            self._close_reports()
            self._settle()

    def _heard(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self._launched = True
            self._owner.started(message["started"])
        elif "failed" in message:
            self._finish()
            self._owner.failed(*message["failed"])
        elif "exited" in message:
            self._exited = (message["exited"], message["cpu_seconds"])
            self._input.close()
            # What the command has left behind may still write, but not for ever.
            if not self._over:
                self._linger = self._loop.call_later(_LINGER_SECONDS, self.end)
                self._settle()
        elif "gone" in message:
            self._gone = message["gone"]
            if not self._launched:  # the command may have ended its supervisor before that could say so
                self._launched = True
                self._owner.started(0)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Go on with the end as far as it has come."""
        if self._over:
            return
        if self._exited is not None and not self._outputs:
            self.end()  # nobody can hear what is left of it
        if self._reports >= 0:
            return
        if not self._launched:  # the keeper has ended, or could not fork
            self._finish()
            self._owner.failed("start", errno.EAGAIN)
            return
        if not self._gone:
            for stream in [stream for stream in self._outputs if stream not in self._paused]:
                self._output_readable(stream)
        if not self._outputs and not self._over:
            self._finish()
            status, cpu_seconds = self._exited or (signal.SIGKILL, 0.0)
            self._owner.ended(status, cpu_seconds, bool(self._gone))

    def _close_output(self, stream: int) -> None:
        descriptor = self._outputs.pop(stream)
        self._paused.discard(stream)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._settle()

    def _close_reports(self) -> None:
        if self._reports >= 0:
            self._loop.remove_reader(self._reports)
            os.close(self._reports)
            self._reports = -1

    def _finish(self) -> None:
        """Let go of every descriptor."""
        self._over = True
        if self._linger is not None:
            self._linger.cancel()
        for descriptor in self._outputs.values():
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._outputs.clear()
        self._input.close()
        self._orders.close()
        self._close_reports()

    def _tell(self, order: dict[str, Any]) -> None:
        self._orders.write(json.dumps(order).encode() + b"\n")


class Writer:
    """The writing end of a pipe, or a terminal, with what it has not taken yet.

    Args:
        on_written: is told how many bytes have left; those that nobody will take any longer count, too.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_written: Callable[[int], None] = lambda nbytes: None
    ) -> None:
        self.descriptor = -1
        self._loop = loop
        self._on_written = on_written
        self._queue: deque[memoryview] = deque()
        self._finishing = False
        self._watching = False

    @property
    def waiting(self) -> int:
        """How many pieces have not left yet."""
        return len(self._queue)

    def write(self, data: bytes | memoryview) -> None:
        """Write it now, or as soon as there is room."""
        if self.descriptor < 0 or self._finishing:
            self._on_written(len(data))
            return
        if data:  # what costs no window must not cost memory
            self._queue.append(memoryview(data))
        if not self._watching:
            self._writable()

    def finish(self) -> None:
        """Close after what is queued."""
        self._finishing = True
        if not self._queue:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self.descriptor >= 0:
            self._watch(False)
            os.close(self.descriptor)
            self.descriptor = -1
            self._queue.clear()

    def _writable(self) -> None:
        written = 0
        try:
            while self._queue:
                data = self._queue[0]
                count = os.write(self.descriptor, data)
                written += count
                if count < len(data):
                    self._queue[0] = data[count:]
                    break
                self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: nobody reads any longer
            written += sum(map(len, self._queue))
            self._queue.clear()
            self._finishing = True
        self._watch(bool(self._queue))
        if self._finishing and not self._queue:
            self.close()
        if written:
            self._on_written(written)

    def _watch(self, on: bool) -> None:
        if on != self._watching:
            self._watching = on
            if on:
                self._loop.add_writer(self.descriptor, self._writable)
            else:
                self._loop.remove_writer(self.descriptor)


def explain(what: str, number: int) -> str:
    """Why a command could not be started, for people."""
    if what == "exec":
        return NOT_FOUND if number == errno.ENOENT else f"cannot be run: {os.strerror(number).lower()}"
    if what == "cwd":
        return f"its working directory cannot be entered: {os.strerror(number).lower()}"
    return f"cannot be started ({what}): {os.strerror(number).lower()}"
