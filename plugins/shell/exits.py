"""The end of a remote command as the end of our own: exit codes, and a word on stderr where a code says too little."""

from __future__ import annotations

import signal
import sys

from .protocol import Exit
from .words import shown

TIMED_OUT = 124
SIGNALLED = 128


def exit_code(how: Exit) -> int:
    """What the command's end is for whoever started us."""
    if how.reason:
        cut_short = how.timed_out or how.status not in (126, 127)
        print(f"kernel: {'the command was ended: ' if cut_short else ''}{shown(how.reason)}", file=sys.stderr)
    if how.timed_out:
        return TIMED_OUT
    if how.status is not None:
        return how.status
    return SIGNALLED + getattr(signal, f"SIG{how.signal}", 0)
