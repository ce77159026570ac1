"""The three wishes to the Linux kernel for which Python has no function of its own."""

from __future__ import annotations

import ctypes
import os

_SET_PDEATHSIG = 1
_SET_NO_NEW_PRIVS = 38
_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphans among our descendants become our children, not those of process 1."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the process that forked us ends."""
    _prctl(_SET_PDEATHSIG, signal_number)


def gain_no_privileges() -> None:
    """From here on no set-user-ID program gives us, or our children, other rights."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
