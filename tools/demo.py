"""Start an echo server, talk to it over each transport by the commands that a person would type, and stop it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
# The last one is for whoever has no client of ours: a plain line of text.
LISTEN = ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix:{directory}/kernel.sock", "tcp://127.0.0.1:0?framing=line")


def say(*words: str) -> None:
    print("$", shlex.join(words), flush=True)


def main() -> int:
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    os.environ["KERNEL_LOG_LEVEL"] = "warning"
    with tempfile.TemporaryDirectory() as directory:
        listen = [word for endpoint in LISTEN for word in ("--listen", endpoint.format(directory=directory))]
        command = ["kernel", "serve", "--plugin", "echo", *listen]
        say(*command)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                endpoints = printed_endpoints(server)
                failed = [endpoint for endpoint in endpoints if not echoes(endpoint)]
            finally:
                server.terminate()
    if failed or len(endpoints) != len(LISTEN):
        print(f"demo: error: no echo from {' '.join(failed) or 'the server'}", file=sys.stderr)
        return 1
    print("\nThe server echoed on every endpoint, and has been stopped. Now by hand:\n")
    print("  .venv/bin/kernel serve --plugin echo")
    return 0


def printed_endpoints(server: subprocess.Popen[str]) -> list[str]:
    """Show what the server prints until it is ready; the endpoints among it."""
    endpoints = []
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if line.startswith("  ") and not line.startswith("   "):
            endpoints.append(line.strip())
        if line.startswith("Press"):
            break
    return endpoints


def echoes(endpoint: str) -> bool:
    command = ["kernel", "echo", endpoint, "hello"]
    print()
    say(*command)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return done.returncode == 0 and done.stdout == "hello\n"


if __name__ == "__main__":
    sys.exit(main())
