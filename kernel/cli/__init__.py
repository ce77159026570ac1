"""The command `kernel`. This file is imported at every start: it imports nothing that a command might not need."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code: 0, 1, 2, 3 or 130."""
    _open_standard_streams()
    gc.disable()  # what starting makes stays: to look through it for garbage takes 5 % of the start
    try:
        from kernel.cli.root import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _open_standard_streams() -> None:
    """Those that whoever started us has closed: the next socket would get such a number, and what is printed with it.

    A file opened now has the lowest number that is free, so in this order each gets its own.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # open as long as we run
