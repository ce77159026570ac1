"""A process tree: who is in it, signals to all of it, and its certain end.

Invariant: a signal only reaches a process that is a descendant at that moment. Between the look into /proc and the
signal a process may end and its number be given to another one, so the signal goes to a descriptor of the process
(pidfd), taken before its parent was looked up once more.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

_FREEZE_ROUNDS_MAX = 50
_POLL_SECONDS = 0.01


def parents() -> dict[int, int]:
    """The parent of every process that can be seen."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := parent_of(int(name))) is not None:
            found[int(name)] = parent
    return found


def parent_of(pid: int) -> int | None:
    """The parent of one process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return None


def descendants(root: int) -> dict[int, int]:
    """All processes below `root`, each with its parent; ended ones that nobody has reaped are among them."""
    parent = parents()
    children: dict[int, list[int]] = {}
    for pid, above in parent.items():
        children.setdefault(above, []).append(pid)
    found: dict[int, int] = {}
    waiting = [root]
    while waiting:
        above = waiting.pop()
        for pid in children.get(above, ()):
            found[pid] = above
            waiting.append(pid)
    return found


def send(number: int, pid: int, parent: int) -> None:
    """Signal a process if it is still the child of that parent."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if parent_of(pid) == parent:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass  # it has ended, or has rights that we have not
    finally:
        os.close(descriptor)


def send_all(number: int, root: int) -> None:
    """Signal everything below `root` that is there now."""
    for pid, parent in descendants(root).items():
        send(number, pid, parent)


def kill_all(root: int, reap: Callable[[], bool], patience_seconds: float) -> bool:
    """Kill everything below `root`, which is us or a child of ours, until nothing is left.

    What forks faster than it is killed is stopped first.

    Args:
        reap: collects the children that have ended; whether any are left.
        patience_seconds: how long to wait for what cannot be killed: it has gained rights, or hangs in the kernel.

    Returns:
        Whether nothing is left.
    """
    deadline = time.monotonic() + patience_seconds
    while reap():
        _freeze(root)
        send_all(signal.SIGKILL, root)
        if not reap():
            break
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _freeze(root: int) -> None:
    stopped: set[int] = set()
    for _ in range(_FREEZE_ROUNDS_MAX):
        found = descendants(root)
        fresh = found.keys() - stopped
        if not fresh:
            return
        for pid in fresh:
            send(signal.SIGSTOP, pid, found[pid])
        stopped |= fresh


class Wakeup:
    """A descriptor that becomes readable when a child ends; only one in a process."""

    def __init__(self) -> None:
        self.descriptor, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def wait(self, *others: int, seconds: float | None = None) -> set[int]:
        """Wait until a child ends, one of the descriptors can be read, or time is up; which of those can be read."""
        poll = select.poll()
        for descriptor in (self.descriptor, *others):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if seconds is None else max(0, seconds) * 1000)}
        if self.descriptor in ready:
            self.clear()
        return ready

    def close(self) -> None:
        """Let go of it, in a process that has forked."""
        signal.set_wakeup_fd(-1)
        os.close(self.descriptor)
        os.close(self._writing)
