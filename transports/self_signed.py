"""A self-signed certificate that a server keeps, for where there is no authority: clients pin its fingerprint.

It is made once, by the `openssl` command, and lies with its key in one file that only its owner can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

from kernel.errors import StartError

_DAYS = 3650
_COMMAND = (
    "openssl", "req", "-x509", "-nodes", "-batch", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
    "-sha256", "-days", str(_DAYS), "-subj", "/CN=kernel",
)  # fmt: skip


def default_file() -> Path:
    """Where it lies unless the endpoint says otherwise: systemd's state directory, or the user's."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not state:
        state = os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "kernel")
    return Path(state, "self-signed.pem")


async def ensure(path: Path) -> None:
    """Make the file, unless it is there.

    Raises:
        StartError: it cannot be made.
    """
    await asyncio.to_thread(_ensure, path)


def _ensure(path: Path) -> None:
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as private:
            key, certificate = Path(private, "key"), Path(private, "certificate")
            _run_openssl("-keyout", str(key), "-out", str(certificate))
            whole = Path(private, "whole")
            whole.touch(mode=0o600)
            whole.write_bytes(key.read_bytes() + certificate.read_bytes())
            with contextlib.suppress(FileExistsError):  # somebody else's came first, and stays
                os.link(whole, path)
    except OSError as error:
        raise StartError(f"cannot keep a self-signed certificate in {path}: {error.strerror}") from None


def _run_openssl(*arguments: str) -> None:
    try:
        done = subprocess.run([*_COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise StartError(
            "a self-signed certificate is made by the command openssl, which is missing: install it, or add cert=FILE"
        ) from None
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StartError(f"openssl could not make a certificate: {complaint[-1]}")
