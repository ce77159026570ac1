"""The keeper: forks a supervisor for each request, and ends what a supervisor that was killed has left behind.

A request is one packet with five descriptors: where orders come from, where reports go, and the command's three. The
keeper ends with the server, when its socket closes, after the last supervisor.
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import signal
import socket
import time

from . import cgroup
from .prctl import become_subreaper
from .supervisor import supervise, tell
from .tree import Wakeup, parents, send, send_all

_DESCRIPTORS = 5
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.01


def main(descriptor: int) -> None:
    """Serve requests from this socket until it closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever means the server shall not hit us before it
    become_subreaper()
    requests = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    gc.disable()
    gc.freeze()
    Keeper(requests).run()


def say(text: str) -> None:
    """A line on stderr, which is the server's."""
    with contextlib.suppress(OSError):
        os.write(2, f"kernel: {text}\n".encode("utf-8", "backslashreplace"))


class Keeper:
    """The supervisors that are at work, each with the pipe of its reports: of those that fail we tell what is left."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._wakeup = Wakeup()
        self._supervisors: dict[int, int] = {}
        self._killed: dict[int, int] = {}

    def run(self) -> None:
        serving = True
        while serving or self._supervisors:
            watched = (self._requests.fileno(),) if serving else ()
            if self._wakeup.wait(*watched) & set(watched):
                serving = self._serve()
            if self._reap() or self._killed:
                self._end_orphans()

    def _serve(self) -> bool:
        """Handle one request; False: the server is gone."""
        size = array.array("i").itemsize * _DESCRIPTORS
        try:
            packet, ancillary, _, _ = self._requests.recvmsg(1, socket.CMSG_LEN(size), socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not packet:
            return False
        passed = array.array("i")
        for _, _, data in ancillary:
            passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
        if len(passed) == _DESCRIPTORS:
            self._fork(*passed)
        for descriptor in set(passed).difference(self._supervisors.values()):
            os.close(descriptor)
        return True

    def _fork(self, orders: int, reports: int, stdin: int, stdout: int, stderr: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            return  # the reports end, and the server knows
        if pid:
            self._supervisors[pid] = reports
            return
        failed = 1  # whatever happens: who fails leaves orphans behind, and we look for them
        try:
            self._wakeup.close()
            self._requests.close()
            for descriptor in self._supervisors.values():
                os.close(descriptor)
            supervise(orders, reports, (stdin, stdout, stderr))
            failed = 0
        except Exception as error:
            say(f"a supervisor of the service shell failed: {type(error).__name__}: {error}")
        finally:
            os._exit(failed)

    def _reap(self) -> bool:
        """Collect what has ended; whether children are left that are no supervisors: orphans of one that was killed."""
        killed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return False
            if not pid:
                return killed
            if os.WIFSTOPPED(status):
                if pid in self._supervisors:  # by its command, which wants to outlive its time
                    os.kill(pid, signal.SIGKILL)
            elif pid in self._supervisors:
                reports = self._supervisors.pop(pid)
                if status:
                    killed = True
                    self._killed[pid] = reports
                else:
                    os.close(reports)
            else:
                killed = True

    def _end_orphans(self) -> None:
        own, deadline = os.getpid(), time.monotonic() + _PATIENCE_SECONDS
        gone = False
        while time.monotonic() < deadline:
            self._reap()
            orphans = [pid for pid, parent in parents().items() if parent == own and pid not in self._supervisors]
            gone = not orphans
            if gone:
                break
            for pid in orphans:
                send_all(signal.SIGKILL, pid)
                send(signal.SIGKILL, pid, own)
            time.sleep(_POLL_SECONDS)
        while self._killed:
            supervisor, reports = self._killed.popitem()
            cgroup.remove(cgroup.of(supervisor))
            tell(reports, {"gone": gone})
            os.close(reports)
