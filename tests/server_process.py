"""`kernel serve` in a process of its own, as a person or a supervisor runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 30


class ServerProcess:
    """A server, ready to be talked to.

    Args:
        kernel: the command.
        directory: gets the ready file.
        guard_seconds: when it is ended from outside, and what waits for it fails.
    """

    def __init__(
        self,
        kernel: Path,
        arguments: Sequence[str],
        environ: dict[str, str],
        directory: Path,
        *,
        guard_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.ready_file = directory / "ready.json"
        self.process = subprocess.Popen(
            [kernel, "serve", *arguments, "--ready-file", str(self.ready_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        # What hangs is ended from outside, and the test fails on what it reads then.
        self._guard = threading.Timer(guard_seconds, self.process.kill)
        self._guard.start()
        self.output = self._until("Press Ctrl-C to stop.")
        self.ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        self.endpoints: list[str] = self.ready["endpoints"]

    def _until(self, last: str) -> str:
        lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if line.strip() == last:
                return "".join(lines)
        raise AssertionError(f"the server ended: {self.process.communicate()}")

    def log_until(self, text: str) -> str:
        """The log up to the line that holds the text."""
        lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"'{text}' was not logged, but {lines}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the exit code and the rest of the log."""
        _, log = self.process.communicate()
        self._guard.cancel()
        return self.process.returncode, log

    def end(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        self.process.kill()
        self.finish()
