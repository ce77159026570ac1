"""The audit: one line for each command, when it has ended, and for each that was refused.

It goes through the kernel's log, whose formatters make every field harmless, under a name of its own:
`kernel.audit.shell`. Its level is its own, too, so that `--quiet` does not silence it.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernel.api import Peer

from .protocol import Exit

if TYPE_CHECKING:
    from .recorder import Recorder

log = logging.getLogger("kernel.audit.shell")
log.setLevel(logging.INFO)

_ARGV_CHARS_MAX = 4096


@dataclass(slots=True)
class Entry:
    """What is known of one command; `finish` writes the line."""

    peer: Peer
    argv: list[str]
    cwd: str
    user: str
    terminal: bool
    started_at: float = field(default_factory=time.time)
    pid: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    cpu_seconds: float = 0.0
    reason: str = ""
    nothing_left: bool = True
    recorder: Recorder | None = None

    def finish(self, how: Exit, now: float) -> None:
        """Write the line, and end the recording."""
        if self.recorder is not None:
            with contextlib.suppress(OSError):
                self.recorder.close()
        fields = {
            "status": f"SIG{how.signal}" if how.signal else how.status,
            "pid": self.pid,
            "terminal": int(self.terminal),
            "started": _moment(self.started_at),
            "ended": _moment(now),
            "seconds": round(now - self.started_at, 3),
            "cpu_seconds": self.cpu_seconds,
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
        }
        if self.recorder is not None:
            fields["recording"] = self.recorder.path
        if self.reason:
            fields["reason"] = self.reason
        if not self.nothing_left:
            fields["survivors"] = 1
        log.info("a command ended", extra=_who(self.peer) | _what(shlex.join(self.argv), self.cwd, self.user) | fields)


def refused(peer: Peer, line: str, cwd: str, reason: str) -> None:
    """Write the line of a request that was turned down; `line` is the command line as it was said."""
    log.warning("a command was refused", extra=_who(peer) | _what(line, cwd, "") | {"reason": reason})


def _who(peer: Peer) -> dict[str, Any]:
    return {"principal": str(peer.principal), "peer": peer.address}


def _what(line: str, cwd: str, user: str) -> dict[str, Any]:
    shown = line if len(line) <= _ARGV_CHARS_MAX else f"{line[:_ARGV_CHARS_MAX]}... ({len(line)} characters)"
    return {"argv": shown, "cwd": cwd} | ({"user": user} if user else {})


def _moment(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"
