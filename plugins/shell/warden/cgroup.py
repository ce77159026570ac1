"""A control group for a command, where the system lets us have one: its end is then one write, whatever forks
meanwhile.

The supervisor walks the tree in any case; the group is the second lock on the same door, and the only one that also
holds what has gained other rights.
"""

from __future__ import annotations

import contextlib
import os
import time

_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.002


def home() -> str:
    """Our own group's directory in the unified hierarchy, if commands can have groups below it; else empty."""
    try:
        with open("/proc/self/cgroup") as file:
            own = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file if " - cgroup2 " in line]
        place = os.path.normpath(mounts[0][4] + own)
    except (OSError, StopIteration, IndexError):
        return ""
    usable = os.access(place, os.W_OK) and os.path.exists(f"{place}/cgroup.procs")
    return place if usable else ""


def of(supervisor: int) -> str:
    """The group that this supervisor's command has, if it has one."""
    place = home()
    return f"{place}/kernel-shell-{supervisor}" if place else ""


def make() -> str:
    """A new group for our command; empty where it cannot be made, or cannot be killed as a whole."""
    place = of(os.getpid())
    if not place:
        return ""
    try:
        os.mkdir(place)
    except OSError:
        return ""
    if os.access(f"{place}/cgroup.kill", os.W_OK):
        return place
    remove(place)
    return ""


def kill(place: str) -> None:
    """End every process in the group."""
    if place:
        with contextlib.suppress(OSError), open(f"{place}/cgroup.kill", "w") as file:
            file.write("1")


def remove(place: str) -> None:
    """Remove the group, which may take a moment to notice that it is empty."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while place:
        try:
            os.rmdir(place)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL_SECONDS)
