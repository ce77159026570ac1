"""Keys, levels and policy as a person uses them: the commands themselves, also with mistakes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import TIMEOUT_SECONDS, ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
LOOPBACK = "tcp://127.0.0.1:0"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}
    return kept | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.fixture
def kernel(environ: dict[str, str], tmp_path: Path) -> Run:
    """Run a command line; its exit code, stdout and stderr."""

    def run(*arguments: str, pass_fds: tuple[int, ...] = (), **variables: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [KERNEL, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=environ | variables,
            cwd=tmp_path,
            pass_fds=pass_fds,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def serve(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., ServerProcess]]:
    started: list[ServerProcess] = []

    def start(*arguments: str, **variables: str) -> ServerProcess:
        started.append(ServerProcess(KERNEL, ["--plugin", "echo", *arguments], environ | variables, tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def alice(kernel: Run, tmp_path: Path) -> str:
    kernel("keys", "new", "alice.key")
    return str(tmp_path / "alice.key")


def test_making_a_key_shows_what_to_do_with_it(kernel: Run, tmp_path: Path):
    code, out, err = kernel("keys", "new", "alice.key")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "made alice.key: the key 'alice', for the principal hmac:alice",
        "  kernel serve --plugin echo --secret-file alice.key",
        "  kernel echo tcp://127.0.0.1:7420 --secret-file alice.key hello",
    ]
    path = tmp_path / "alice.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("alice:")
    secret = path.read_text().strip().partition(":")[2]
    assert secret not in out
    assert kernel("keys", "list", "alice.key")[1].splitlines() == ["ID     PRINCIPAL", "alice  hmac:alice"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["keys", "new", "there"], 2, "there exists already: take another name, or remove it first"),
        (["keys", "new", "no/where"], 3, "cannot make no/where: No such file or directory"),
        (["keys", "new", "x", "--id", "a b"], 2, "a key's id is a name"),
        (["keys", "new"], 2, "Missing argument 'FILE'"),
        (["keys", "list", "there"], 3, "the secret file there can be read by others: chmod 600 there"),
        (["serve", "--plugin", "echo", "--secret-file", "none"], 3, "cannot read the secret file none"),
        (["serve", "--plugin", "echo", "--secret-file", "there"], 3, "chmod 600 there"),
        (["serve", "--plugin", "echo", "--listen", "tcp://0.0.0.0:0"], 3, "add --secret-file FILE"),
        (["serve", "--plugin", "echo", "--listen", "tcp://127.0.0.1:0?auth=hmac"], 2, "add --secret-file FILE"),
        (["serve", "--plugin", "echo", "--policy", "alice"], 2, "'alice' is not PRINCIPAL=SERVICE"),
        (["serve", "--plugin", "echo", "--secret", "hunter2"], 2, "there is no option '--secret'"),
        (["echo", "tcp://127.0.0.1:1", "--secret-file", "there", "x"], 3, "chmod 600 there"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(
    kernel: Run, tmp_path: Path, arguments: list[str], code: int, words: str
):
    (tmp_path / "there").write_text("alice:hunter2")
    (tmp_path / "there").chmod(0o644)
    found, out, err = kernel(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert "hunter2" not in err


def test_client_and_server_with_the_same_file_understand_each_other(
    kernel: Run, serve: Callable[..., ServerProcess], alice: str
):
    server = serve("--secret-file", alice, "--listen", LOOPBACK)
    [endpoint] = server.endpoints
    code, out, _ = kernel("echo", endpoint, "--secret-file", alice, "hello")
    assert (code, out) == (0, "hello\n")
    assert kernel("echo", endpoint, "hello", KERNEL_SECRET_FILE=alice)[:2] == (0, "hello\n")
    assert kernel("echo", endpoint, "hello", KERNEL_SECRET=Path(alice).read_text())[:2] == (0, "hello\n")
    with open(alice, "rb") as file:
        descriptor = str(file.fileno())
        run = kernel("echo", endpoint, "--secret-fd", descriptor, "hello", pass_fds=(file.fileno(),))
    assert run[:2] == (0, "hello\n")


def test_a_server_gets_its_keys_from_systemd_or_a_descriptor(kernel: Run, tmp_path: Path, environ: dict[str, str]):
    """As a supervisor hands them over; the variable is there too, and comes last."""
    kernel("keys", "new", "kernel-secret", "--id", "alice")
    kernel("keys", "new", "other.key", "--id", "alice")
    good, other = tmp_path / "kernel-secret", tmp_path / "other.key"
    for how in ("systemd", "descriptor"):
        last = {"KERNEL_SECRET": other.read_text()}
        if how == "systemd":
            command = f'exec "{KERNEL}" "$@"'
            last["CREDENTIALS_DIRECTORY"] = str(tmp_path)
        else:
            command = f'exec "{KERNEL}" "$@" --secret-fd 3 3<{good}'
        script = tmp_path / how
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        server = ServerProcess(script, ["--plugin", "echo", "--listen", LOOPBACK], environ | last, tmp_path)
        try:
            [endpoint] = server.endpoints
            assert kernel("echo", endpoint, "--secret-file", str(good), "hello")[0] == 0
            assert kernel("echo", endpoint, "--secret-file", str(other), "hello")[0] == 1
            arguments = Path(f"/proc/{server.process.pid}/cmdline")
            assert not arguments.exists() or good.read_text().split(":")[1][:8] not in arguments.read_text()
        finally:
            server.end()


def test_who_is_turned_away_reads_why(kernel: Run, serve: Callable[..., ServerProcess], alice: str):
    server = serve("--secret-file", alice, "--listen", LOOPBACK, "--log-format", "json")
    [endpoint] = server.endpoints
    code, out, err = kernel("echo", endpoint, "hello")
    assert (code, out) == (1, "")
    assert "give the client a secret, --secret-file FILE" in err
    kernel("keys", "new", "other.key", "--id", "alice")
    code, out, err = kernel("echo", endpoint, "--secret-file", "other.key", "hello")
    assert (code, out) == (1, "")
    assert "authentication failed (we hold the key 'alice'" in err
    assert '"reason": "the key \'alice\' was not proved"' in server.log_until("was not proved")


def test_a_policy_is_in_force(kernel: Run, serve: Callable[..., ServerProcess], alice: str):
    server = serve("--secret-file", alice, "--listen", LOOPBACK, "--policy", "hmac:bob=echo")
    code, out, err = kernel("echo", server.endpoints[0], "--secret-file", alice, "hello")
    assert (code, out) == (1, "")
    assert "hmac:alice may not open 'echo' here" in err


def test_a_key_is_changed_without_a_restart(kernel: Run, serve: Callable[..., ServerProcess], alice: str):
    server = serve("--secret-file", alice, "--listen", LOOPBACK)
    [endpoint] = server.endpoints
    kernel("keys", "new", "next.key", "--id", "alice/2")
    following = Path(alice).with_name("next.key")
    before = Path(alice).read_text()
    assert kernel("echo", endpoint, "--secret-file", "next.key", "hello")[0] == 1

    def let_in(keys: str) -> list[int]:
        Path(alice).write_text(keys)
        server.signal(signal.SIGHUP)
        server.log_until("the settings were read again")
        old = kernel("echo", endpoint, "hello", KERNEL_SECRET=before)[0]
        return [old, kernel("echo", endpoint, "--secret-file", "next.key", "hello")[0]]

    assert let_in(before + following.read_text()) == [0, 0]
    assert let_in(following.read_text()) == [1, 0]


def test_a_reload_cannot_open_a_listener(serve: Callable[..., ServerProcess], alice: str, tmp_path: Path):
    settings = tmp_path / "server.toml"
    settings.write_text(f"secret_file = '{alice}'")
    server = serve("--listen", LOOPBACK, "--config", str(settings))
    settings.write_text("")
    server.signal(signal.SIGHUP)
    assert "would change from auth=hmac to auth=none: restart" in server.log_until("stay as they were")


def test_nothing_prints_a_secret(kernel: Run, serve: Callable[..., ServerProcess], alice: str):
    server = serve("--secret-file", alice, "--listen", LOOPBACK, "-v")
    kernel("echo", server.endpoints[0], "--secret-file", alice, "hello")
    server.signal(signal.SIGTERM)
    _, log = server.finish()
    secret = Path(alice).read_text().strip().partition(":")[2]
    assert "hmac:alice" in log
    assert secret[:8] not in server.output + log
