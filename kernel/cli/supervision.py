"""What the world around a server gives it, and is told: inherited sockets, places to listen, that it is ready."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from kernel.errors import StartError

# By the convention of systemd's socket activation, inherited sockets begin behind stdin, stdout and stderr.
_FIRST_FD = 3


def inherited_endpoints(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The sockets that systemd handed to this process (LISTEN_FDS, LISTEN_PID), as endpoints."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = environ.get("LISTEN_FDS", "")
    return tuple(f"fd://{_FIRST_FD + index}" for index in range(int(count) if count.isdecimal() else 0))


def local_endpoints(port: int, *, make_directory: bool = True) -> tuple[str, ...]:
    """Where to listen when nobody says: a loopback port, and a UNIX socket that only its owner can reach."""
    return (f"tcp://127.0.0.1:{port}", f"unix:{runtime_directory(make=make_directory) / 'kernel.sock'}")


def runtime_directory(*, make: bool = True) -> Path:
    """$XDG_RUNTIME_DIR, else a directory of the user's own in the place for temporary files.

    Args:
        make: make the latter where it is not there.

    Raises:
        StartError: somebody else has made that directory, or others can get in.
    """
    import tempfile  # takes as long to import as the interpreter takes to start

    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.path.isdir(given):
        return Path(given)
    path = Path(tempfile.gettempdir(), f"kernel-{os.getuid()}")
    if not make and not path.exists():
        return path
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StartError(f"{path} is not a private directory of yours: remove it, or set XDG_RUNTIME_DIR")
    return path


@contextlib.contextmanager
def ready(ready_file: str, endpoints: Sequence[str], more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Tell that everything listens, and afterwards that it no longer does.

    Args:
        ready_file: gets `{"pid": ..., "endpoints": [...]}`, whole or not at all; empty: none.
        more: what else stands in it.
    """
    text = _write_ready_file(ready_file, {"endpoints": endpoints, **(more or {})}) if ready_file else ""
    _notify("READY=1")
    try:
        yield
    finally:
        _notify("STOPPING=1")
        if ready_file:
            _remove_if_ours(Path(ready_file), text)


def _write_ready_file(ready_file: str, told: Mapping[str, object]) -> str:
    text = msgspec.json.encode({"pid": os.getpid(), **told}).decode() + "\n"
    temporary = Path(f"{ready_file}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(ready_file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StartError(f"cannot write the ready file {ready_file}: {error.strerror}") from error
    return text


def _remove_if_ours(path: Path, text: str) -> None:
    """A successor may have written its own by now."""
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            path.unlink()


def _notify(state: str) -> None:
    """Tell systemd, where it asked to be told (NOTIFY_SOCKET; `@` stands for the abstract namespace)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
