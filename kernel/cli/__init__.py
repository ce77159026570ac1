"""The command `kernel`. This file is imported at every start: it imports nothing that a command might not need."""

from __future__ import annotations

import gc
import sys

from kernel.cli import streams


def main() -> None:
    """Run the command line and end the process with its exit code: 0, 1, 2, 3 or 130."""
    streams.set_up()
    gc.disable()  # what starting makes stays: to look through it for garbage takes 5 % of the start
    try:
        from kernel.cli.root import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
