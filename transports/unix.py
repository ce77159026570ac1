"""AF_UNIX stream sockets: `unix:/run/x.sock`, or `unix:@name` in Linux's abstract namespace.

The socket file is 0600 unless `mode` says otherwise. It is made under its own name (bind is atomic), after a probe: a
path where somebody answers is refused, one where nobody does is a leftover and is replaced; who does that has the
directory locked, so that two that start at once do not replace each other. On close it is removed, when it is still
ours. The peer's user and group come from the operating system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from kernel.api import Acceptor, Capabilities, Connection, Listener, Principal, Transport
from kernel.errors import DialError, EndpointError, StartError
from kernel.options import Meta
from kernel.sockets import SocketConnection, SocketListener, dial_socket

from .binding import kept_if_bound
from .buffers import ReceiveBufferBytes, SendBufferBytes, set_buffers

_PATH_BYTES_MAX = 107
# The highest number of a user or group; the one above it means "as it is".
_NUMBER_MAX = 2**32 - 2
_LOCK_TRIES = 50
_LOCK_RETRY_SECONDS = 0.02
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class UnixOptions:
    """`?key=value` of a unix endpoint."""

    mode: Annotated[
        str, Meta(pattern="^0?[0-7]{3}$", examples=["600", "0660"], description="permissions of the socket file, octal")
    ] = "0600"
    user: Annotated[str, Meta(description="owner of the socket file: a name or a number; empty: ours")] = ""
    group: Annotated[str, Meta(description="group of the socket file: a name or a number; empty: ours")] = ""
    backlog: Annotated[int, Meta(ge=1, le=65535, description="connections that may wait to be accepted")] = 1024
    send_buffer_bytes: SendBufferBytes = 0
    receive_buffer_bytes: ReceiveBufferBytes = 0


class Unix(Transport):
    """`unix:path`."""

    name = "unix"
    example = "unix:{directory}/socket"
    Options = UnixOptions

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=True, identity="unix" if hasattr(socket, "SO_PEERCRED") else "")

    async def listen(self, accept: Acceptor) -> Listener:
        options = cast(UnixOptions, self.options)
        path = self._address()
        owner = _number(options.user, "pwd"), _number(options.group, "grp")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with kept_if_bound(sock, lambda error: self._cannot_listen(path, error)):
            sock.setblocking(False)
            async with _directory_locked(path):
                if not path.startswith("\0"):
                    self._clear_stale(path)
                self._bind(sock, path, owner)
                set_buffers(sock, options.send_buffer_bytes, options.receive_buffer_bytes)
                sock.listen(options.backlog)
                return SocketListener(sock, self.endpoint, self.connection, accept, _remover(path))

    async def dial(self) -> Connection:
        options = cast(UnixOptions, self.options)
        path = self._address()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        set_buffers(sock, options.send_buffer_bytes, options.receive_buffer_bytes)
        try:
            await dial_socket(sock, path)
        except OSError as error:
            reasons: dict[int | None, str] = {
                errno.ENOENT: "there is no such socket: check the path, or start the server",
                errno.EACCES: "permission denied: the server's mode= decides who may connect",
            }
            refused = error.errno == errno.ECONNREFUSED
            reason = _why_refused(path) if refused else reasons.get(error.errno, error.strerror)
            raise DialError(f"cannot connect to {self.endpoint.without_options()}: {reason}") from None
        return self.connection(sock)

    def _address(self) -> str:
        address = self.endpoint.address
        if not address:
            raise EndpointError(f"'{self.endpoint}' names no path: write unix:/run/user/1000/kernel.sock")
        if len(os.fsencode(address)) > _PATH_BYTES_MAX:
            raise EndpointError(f"'{self.endpoint}': a socket's path has at most {_PATH_BYTES_MAX} bytes: shorten it")
        return "\0" + address[1:] if address.startswith("@") else address

    def _bind(self, sock: socket.socket, path: str, owner: tuple[int, int]) -> None:
        if path.startswith("\0"):
            sock.bind(path)
            return
        before = os.umask(0o177)  # nobody connects between bind and chmod
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        try:
            if owner != (-1, -1):
                os.chown(path, *owner)
            os.chmod(path, int(cast(UnixOptions, self.options).mode, 8))
        except OSError:
            os.unlink(path)
            raise

    def _clear_stale(self, path: str) -> None:
        """Remove a socket file that nobody serves any more."""
        try:
            kind = os.stat(path).st_mode
        except OSError:
            return
        where = self.endpoint.without_options()
        if not stat.S_ISSOCK(kind):
            raise StartError(f"cannot listen on {where}: a file that is not a socket has this name: take another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            result = probe.connect_ex(path)
        if result == errno.ECONNREFUSED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        elif result in (0, errno.EAGAIN, errno.EINPROGRESS):
            raise StartError(f"cannot listen on {where}: a server is alive there: stop it, or take another path")

    def connection(self, sock: socket.socket) -> Connection:
        """What becomes of a connected, non-blocking socket of this endpoint's."""
        path = self.endpoint.address
        return SocketConnection(sock, path, path, _principal(sock))

    def _cannot_listen(self, path: str, error: OSError) -> str:
        directory = os.path.dirname(path) or "."
        remedies: dict[int | None, str] = {
            errno.EADDRINUSE: "the name is taken: stop what listens there, or take another one",
            errno.ENOENT: f"the directory '{directory}' does not exist: make it first",
            errno.EACCES: f"permission denied in '{directory}': take a directory of your own",
            errno.EPERM: "only root may give the socket another owner: leave user= and group= out",
        }
        return f"cannot listen on {self.endpoint.without_options()}: {remedies.get(error.errno, error.strerror)}"


@contextlib.asynccontextmanager
async def _directory_locked(path: str) -> AsyncIterator[None]:
    """Nobody else who asks for the lock makes a socket there meanwhile. Anybody can hold it, so nobody waits long."""
    import asyncio
    import fcntl

    try:
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError):  # not ours to read, not there, or a name that is no file's: bind will tell
        yield
        return
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                await asyncio.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _why_refused(path: str) -> str:
    with contextlib.suppress(OSError, ValueError):  # gone by now, or a name that is no file's
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "this is no socket: check the path"
    return "nobody listens there any more: start the server"


def _principal(sock: socket.socket) -> Principal:
    if not hasattr(socket, "SO_PEERCRED"):
        return Principal()
    _, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Principal(str(uid), "unix", uid, gid)


def _remover(path: str) -> Callable[[], None]:
    """Removes the socket file on close, unless somebody else's stands there by then."""
    if path.startswith("\0"):
        return lambda: None
    ours = os.stat(path)

    def remove() -> None:
        with contextlib.suppress(OSError):
            now = os.stat(path)
            if (now.st_ino, now.st_dev) == (ours.st_ino, ours.st_dev):
                os.unlink(path)

    return remove


def _number(name: str, database: str) -> int:
    """A user's or group's number from its number or name; -1 leaves it as it is."""
    if not name:
        return -1
    if name.isdecimal() and int(name) <= _NUMBER_MAX:
        return int(name)
    import importlib

    module = importlib.import_module(database)
    try:
        entry = module.getpwnam(name) if database == "pwd" else module.getgrnam(name)
    except KeyError:
        raise StartError(f"there is no {'user' if database == 'pwd' else 'group'} '{name}' on this machine") from None
    return int(entry[2])
