"""The supervisor of one command: starts it, passes signals on, reaps, and ends the whole tree when it is time.

It talks with the server over two pipes, a JSON object a line:

    orders: the specification (see `launch`), then {"signal": 2} and {"end": true}; the end of the pipe means the same
    reports: {"started": pid}, or {"failed": [what, errno]}; {"exited": wait status, "cpu_seconds": ...};
                {"gone": whether nothing is left}, the last one; the keeper says it for a supervisor that fails

`end` asks first (SIGHUP, SIGTERM), and kills after `grace_seconds`. When the command itself has exited, whatever it has
left behind lives until the server says `end`, which lets its output be read to the last byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import Any

from . import cgroup
from .launch import LaunchError, launch
from .prctl import become_subreaper
from .tree import Wakeup, kill_all, send_all

_READ_BYTES = 64 * 1024
_PATIENCE_SECONDS = 60.0


def supervise(orders: int, reports: int, stdio: tuple[int, int, int]) -> None:
    """Be the supervisor, from the specification to the end of the tree."""
    become_subreaper()
    lines = _Lines(orders, reports)
    spec = lines.first()
    if spec is None:
        return
    spec["cgroup"] = cgroup.make() if spec["cgroup"] else ""
    wakeup = Wakeup()
    try:
        command = launch(spec, stdio)
    except LaunchError as error:
        cgroup.remove(spec["cgroup"])
        lines.tell({"failed": [error.what, error.number]})
        return
    for descriptor in set(stdio):
        os.close(descriptor)
    lines.tell({"started": command})
    gone = _Tree(command, spec, lines, wakeup).run()
    cgroup.remove(spec["cgroup"])
    lines.tell({"gone": gone})


def tell(reports: int, message: dict[str, Any]) -> None:
    """Report to the server, if it is there."""
    with contextlib.suppress(OSError):
        os.write(reports, json.dumps(message).encode() + b"\n")


class _Lines:
    """The two pipes, line by line. A server that is gone is no error: it shows as `ended`."""

    def __init__(self, orders: int, reports: int) -> None:
        self.orders = orders
        self._reports = reports
        self._begun = b""
        self._early: list[dict[str, Any]] = []
        self.ended = False
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def first(self) -> dict[str, Any] | None:
        """Wait for the specification; None: the server has gone before it could say it."""
        while not self.ended:
            if messages := self.read():
                self._early = messages[1:]
                return messages[0]
        return None

    def early(self) -> list[dict[str, Any]]:
        """The orders that came with the specification."""
        early, self._early = self._early, []
        return early

    def read(self) -> list[dict[str, Any]]:
        """The orders that have come; call it when there is something to read."""
        received = os.read(self.orders, _READ_BYTES)
        self.ended = not received
        *whole, self._begun = (self._begun + received).split(b"\n")
        return [json.loads(line) for line in whole]

    def tell(self, message: dict[str, Any]) -> None:
        tell(self._reports, message)


class _Tree:
    """What is below us, and how far its end has come."""

    def __init__(self, command: int, spec: dict[str, Any], lines: _Lines, wakeup: Wakeup) -> None:
        self._command = command
        self._cgroup: str = spec["cgroup"]
        self._grace_seconds: float = spec["grace_seconds"]
        self._lines = lines
        self._wakeup = wakeup
        self._alive = True  # the command itself, not what it has started
        self._kill_at: float | None = None

    def run(self) -> bool:
        """Until nothing is left; False: something could not be ended."""
        self._obey(self._lines.early())
        while self.reap():
            left = None if self._kill_at is None else self._kill_at - time.monotonic()
            if left is not None and left <= 0:
                cgroup.kill(self._cgroup)
                return kill_all(os.getpid(), self.reap, _PATIENCE_SECONDS)
            watched = () if self._lines.ended else (self._lines.orders,)
            if self._wakeup.wait(*watched, seconds=left) & set(watched):
                self._obey(self._lines.read())
        return True

    def _obey(self, orders: list[dict[str, Any]]) -> None:
        for message in orders:
            if "signal" in message and self._alive:
                with contextlib.suppress(OSError):
                    os.killpg(self._command, message["signal"])
            if "end" in message:
                self._end()
        if self._lines.ended:
            self._end()

    def _end(self) -> None:
        if self._kill_at is None:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
                send_all(number, os.getpid())
            # What is left when the command itself has exited was asked already, by its end.
            self._kill_at = time.monotonic() + (self._grace_seconds if self._alive else 0.0)

    def reap(self) -> bool:
        """Collect the children that have ended, orphans too; whether any are left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._command:
                self._alive = False
                self._lines.tell({"exited": status, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3)})
