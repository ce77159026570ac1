"""Where shared keys come from: a file, an inherited descriptor, systemd's credentials, the environment. Never argv.

The first source that is named counts, in this order; the environment comes last because children inherit it and
crash reports show it. A file is read only when nobody else can read it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.errors import StartError, UsageError

if TYPE_CHECKING:
    from kernel.auth.keys import Key, Keyring

VARIABLE = "KERNEL_SECRET"
SYSTEMD_CREDENTIAL = "kernel-secret"
_BYTES_MAX = 64 * 1024


def find_keys(
    secret_file: str = "", secret_fd: int | None = None, environ: Mapping[str, str] = os.environ
) -> Keyring | None:
    """The keys of the first source that is there; None: there is none.

    Args:
        secret_file: a file of keys, empty for none.
        secret_fd: a descriptor from which they can be read; it is closed afterwards.
        environ: where CREDENTIALS_DIRECTORY and KERNEL_SECRET are looked up.

    Raises:
        StartError: it cannot be read, or others can read it too.
        UsageError: it holds no keys.
    """
    if secret_file:
        return read_keys(secret_file)
    if secret_fd is not None:
        return _keyring(_read_descriptor(secret_fd), f"descriptor {secret_fd}")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (path := Path(directory, SYSTEMD_CREDENTIAL)).exists():
        return _keyring(_read_file(str(path)), str(path))
    if VARIABLE in environ:
        return _keyring(environ[VARIABLE], VARIABLE)
    return None


def read_keys(path: str) -> Keyring:
    """The keys of a file that only its owner, us or root, can read.

    Raises:
        StartError, UsageError: as `find_keys`.
    """
    return _keyring(_read_file(path, is_private=True), path)


def write_key(path: str, key: Key) -> None:
    """Write a key to a new file that only we can read.

    Raises:
        UsageError: there is such a file already.
        StartError: it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already: take another name, or remove it first") from None
    except OSError as error:
        raise StartError(f"cannot make {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key.line() + "\n")
        file.flush()
        os.fsync(file.fileno())


def _keyring(text: str, origin: str) -> Keyring:
    from kernel.auth.keys import Keyring  # who has no keys need not wait for what makes them

    return Keyring.parse(text, origin)


def _read_file(path: str, *, is_private: bool = False) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StartError(f"cannot read the secret file {path}: {error.strerror}") from None
    try:
        if is_private:
            _check_private(path, os.fstat(descriptor))
        return _text(os.read(descriptor, _BYTES_MAX + 1), path)
    finally:
        os.close(descriptor)


def _check_private(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StartError(f"the secret file {path} is not a regular file: use --secret-fd for pipes")
    if found.st_mode & 0o077:
        raise StartError(f"the secret file {path} can be read by others: chmod 600 {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise StartError(f"the secret file {path} belongs to somebody else (user {found.st_uid}): make it your own")


def _read_descriptor(descriptor: int) -> str:
    try:
        with os.fdopen(descriptor, "rb") as file:
            return _text(file.read(_BYTES_MAX + 1), f"descriptor {descriptor}")
    except OSError as error:
        raise StartError(f"cannot read the secret from descriptor {descriptor}: {error.strerror}") from None


def _text(data: bytes, origin: str) -> str:
    if len(data) > _BYTES_MAX:
        raise UsageError(f"{origin} holds more than {_BYTES_MAX} bytes: that is no file of keys")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise UsageError(f"{origin} is not ASCII text: that is no file of keys") from None
