"""From a specification to a running command: fork, give up everything that is the server's, become the command.

The specification is what JSON holds (strings carry any byte, by surrogateescape):

    argv, env       the command line and the whole environment; argv[0] is looked for in env's PATH
    cwd             where it starts
    within          a directory that it must have arrived in or below; empty: anywhere
    umask           of its files
    limits          for each resource (`RLIMIT_NOFILE`) its limit
    user            `{"uid": ..., "gid": ..., "groups": [...]}`, or null: stay who we are
    terminal        its descriptors are a terminal that it shall control
    privileges      set-user-ID programs work
    cgroup          the directory of its control group; empty: none (the server only says whether it may have one)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import termios
from collections.abc import Callable
from typing import Any

from .prctl import die_with_parent, gain_no_privileges

Specification = dict[str, Any]

# Python ignores the first two, the keeper the others; a command expects them as every shell gives them.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LaunchError(Exception):
    """The command could not be started: what failed, and the number of the error."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(what, number)
        self.what = what
        self.number = number


def launch(spec: Specification, stdio: tuple[int, int, int]) -> int:
    """Start the command with these three descriptors; its process number.

    Raises:
        LaunchError: something on the way failed; nothing runs.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise LaunchError("start", error.errno or errno.EAGAIN) from None
    if pid == 0:
        _become(spec, stdio, parent, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        report = pipe.read()
    if not report:
        return pid
    os.waitpid(pid, 0)
    what, number = json.loads(report)
    raise LaunchError(what, number)


def _become(spec: Specification, stdio: tuple[int, int, int], parent: int, report: int) -> None:
    """In the child: never returns."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("control group", lambda: _join(spec["cgroup"])),
        ("session", lambda: _own_session(stdio, spec["terminal"])),
        ("limits", lambda: _limit(spec["limits"])),
        ("user", lambda: _switch(spec["user"])),
        ("cwd", lambda: _go(spec["cwd"], spec["within"])),
        ("rights", lambda: _harden(spec["privileges"], parent)),
        ("descriptors", lambda: _close_others(report)),
        ("exec", lambda: _exec(spec)),
    )
    what = ""
    try:
        for what, step in steps:  # noqa: B007  # told by the handlers
            step()
    except OSError as error:
        _tell(report, what, error.errno or errno.EIO)
    except Exception:
        _tell(report, what, errno.EINVAL)
    finally:
        os._exit(127)


def _tell(report: int, step: str, number: int) -> None:
    with contextlib.suppress(OSError):
        os.write(report, json.dumps([step, number]).encode())


def _join(cgroup: str) -> None:
    if cgroup:
        with open(f"{cgroup}/cgroup.procs", "w") as file:
            file.write("0")


def _own_session(stdio: tuple[int, int, int], terminal: bool) -> None:
    os.setsid()
    # First above 2, so that none of the three is overwritten before its turn.
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in stdio]
    for target, descriptor in enumerate(high):
        os.dup2(descriptor, target)
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def _switch(user: dict[str, Any] | None) -> None:
    if user is not None:
        os.setgroups(user["groups"])
        os.setgid(user["gid"])
        os.setuid(user["uid"])


def _go(cwd: str, within: str) -> None:
    """Where we have arrived is asked afterwards, so no symbolic link can be swapped between the check and the step."""
    os.chdir(cwd)
    if within:
        arrived, base = os.getcwd(), os.path.realpath(within)
        if os.path.commonpath([arrived, base]) != base:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _harden(privileges: bool, parent: int) -> None:
    if not privileges:
        gain_no_privileges()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(127)


def _close_others(keep: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _exec(spec: Specification) -> None:
    os.umask(spec["umask"])
    signal.set_wakeup_fd(-1)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if not spec["argv"][0]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
