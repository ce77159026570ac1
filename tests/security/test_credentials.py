"""Where keys come from, in which order, and who must not be able to read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import Key, StartError, UsageError
from kernel.credentials import find_keys, write_key


def line(name: str) -> str:
    return Key(name, bytes(32)).line() + "\n"


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[..., str]:
    """Makes a file of keys; returns its path."""

    def make(text: str, mode: int = 0o600) -> str:
        path = tmp_path / f"secret-{mode:o}"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return make


def descriptor(text: str) -> int:
    """The reading end of a pipe that holds the text."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


def first_of(*sources: object, **environ: str) -> str | None:
    ring = find_keys(*sources, environ=environ)  # type: ignore[arg-type]
    return ring.first.id if ring else None


def test_the_first_source_that_is_named_counts(secret_file: Callable[..., str], tmp_path: Path):
    (tmp_path / "kernel-secret").write_text(line("systemd"))
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "KERNEL_SECRET": line("variable")}
    unused = descriptor(line("descriptor"))
    assert first_of(secret_file(line("file")), unused, **environ) == "file"
    os.close(unused)
    assert first_of("", descriptor(line("descriptor")), **environ) == "descriptor"
    assert first_of("", None, **environ) == "systemd"
    del environ["CREDENTIALS_DIRECTORY"]
    assert first_of("", None, **environ) == "variable"
    assert first_of() is None


def test_systemds_directory_without_our_credential_is_passed_over(tmp_path: Path):
    assert first_of("", None, CREDENTIALS_DIRECTORY=str(tmp_path)) is None


def test_a_descriptor_is_closed_when_it_has_been_read():
    reading = descriptor(line("a"))
    assert first_of("", reading) == "a"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666, 0o644])
def test_a_file_that_others_can_read_is_refused(secret_file: Callable[..., str], mode: int):
    path = secret_file(line("a"), mode)
    with pytest.raises(StartError, match=f"can be read by others: chmod 600 {path}"):
        find_keys(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_that_only_its_owner_can_read_is_taken(secret_file: Callable[..., str], mode: int):
    assert first_of(secret_file(line("a"), mode)) == "a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(secret_file: Callable[..., str]):
    path = secret_file(line("a"))
    os.chown(path, 4711, 4711)
    with pytest.raises(StartError, match="belongs to somebody else"):
        find_keys(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, words in (("pipe", "not a regular file"), (".", "not a regular file"), ("none", "No such file")):
        with pytest.raises(StartError, match=words):
            find_keys(str(tmp_path / name))


def test_what_holds_no_keys_is_refused(secret_file: Callable[..., str]):
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        find_keys(secret_file("#" * 70_000))
    with pytest.raises(UsageError, match="not ASCII"):
        find_keys(secret_file("schlüssel"))
    with pytest.raises(UsageError, match="KERNEL_SECRET, line 1: a key is ID:SECRET"):
        first_of("", None, KERNEL_SECRET="hunter2")
    with pytest.raises(StartError, match="descriptor 999: Bad file descriptor"):
        first_of("", 999)


def test_a_new_key_is_private_whatever_the_umask_and_never_replaces_a_file(tmp_path: Path):
    path = tmp_path / "new"
    before = os.umask(0)
    try:
        write_key(str(path), Key("a", bytes(32)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first_of(str(path)) == "a"
    with pytest.raises(UsageError, match="exists already"):
        write_key(str(path), Key("b", bytes(32)))
    assert first_of(str(path)) == "a"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        write_key(str(tmp_path / "link"), Key("b", bytes(32)))
    with pytest.raises(StartError, match="No such file"):
        write_key(str(tmp_path / "no" / "such"), Key("b", bytes(32)))
