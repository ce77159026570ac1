"""`kernel shell E -- CMD`: a remote command in the place of a local one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import KERNEL, PATIENCE_SECONDS, Run, Serve

FREE = '[plugin.shell]\nfree = true\ntimeout_seconds = "1m"\nenv = { FIXED = "yes" }\n'


@pytest.fixture(scope="module")
def free(serve: Serve) -> str:
    """The endpoint of a server where anything may run."""
    return serve(FREE).endpoints[0]


def test_the_three_streams_and_the_status_are_the_commands_own(run: Run, free: str):
    done = run(free, "--", "sh", "-c", "cat; echo oops >&2; exit 7", stdin=b"\0hello\xff")
    assert done == (7, b"\0hello\xff", "oops\n")


def test_words_reach_the_command_as_they_are(run: Run, free: str):
    words = ["a b", "$HOME", "*", "", "'\"", "--help", "\udcff", "ü"]
    done = run(free, "--", "printf", "[%s]", *words)
    assert done.out == b"".join(b"[" + os.fsencode(word) + b"]" for word in words)


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT"])
def test_a_signal_shows_as_a_shell_would_show_it(run: Run, free: str, name: str):
    assert run(free, "--", "sh", "-c", f"kill -{name} $$").code == 128 + signal.Signals[f"SIG{name}"]


def test_a_command_that_is_not_there_is_127(run: Run, free: str):
    done = run(free, "--", "no-such-command")
    assert (done.code, done.err) == (127, "kernel: no-such-command: command not found\n")


def test_a_command_that_cannot_be_run_is_126(run: Run, free: str):
    assert run(free, "--", "/etc/passwd").code == 126


def test_time_is_up(run: Run, free: str):
    done = run(free, "--timeout", "200ms", "--", "sleep", "60")
    assert done.code == 124
    assert done.err == "kernel: the command was ended: its time was up after 0.2 s\n"


def test_the_directory_and_variables(run: Run, free: str, tmp_path: Path):
    done = run(free, "--cwd", str(tmp_path), "--env", "A=1=2", "--env", "B", "--", "sh", "-c", "pwd; echo $A $B", B="b")
    assert done.out == f"{tmp_path}\n1=2 b\n".encode()


def test_nothing_of_the_servers_environment_reaches_a_command(run: Run, free: str):
    lines = run(free, "--", "env").out.decode().splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert names == {"HOME", "LOGNAME", "PATH", "SHELL", "USER", "FIXED", "LANG"}  # the last one is the client's


def test_a_command_has_three_descriptors_and_a_mask(run: Run, free: str):
    done = run(free, "--", "sh", "-c", "umask; exec ls /proc/self/fd")
    assert done.out.decode().split() == ["0077", "0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_limits_hold(run: Run, free: str):
    assert run(free, "--", "sh", "-c", "ulimit -c; ulimit -n; ulimit -d").out.decode().split() == [
        *("0", "1024", str(4 << 20))
    ]


def test_much_output_on_both_streams_at_once_and_input_too(run: Run, free: str):
    data = os.urandom(3_000_000)
    done = run(free, "--", "sh", "-c", "tee /dev/stderr | cat; head -c 2000000 /dev/zero >&2", stdin=data[:500_000])
    assert done.out == data[:500_000]


def test_a_command_that_does_not_read_holds_nobody_up(run: Run, free: str):
    assert run(free, "--", "echo", "done", stdin=bytes(3_000_000)).out == b"done\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_command_that_closes_its_input_ends_as_it_likes(serve: Serve, run: Run, loop: str):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    endpoint = serve(FREE, "--loop", loop).endpoints[0]
    for script in (
        "exec <&-; echo done; exit 5",
        "sleep 0.2; exec <&-; echo done; exit 5",
        "exec <&- 2>&-; echo done; exit 5",
    ):
        assert run(endpoint, "--", "sh", "-c", script, stdin=bytes(3_000_000)) == (5, b"done\n", "")


def test_it_works_in_pipes(free: str, environ: dict[str, str], tmp_path: Path):
    data = os.urandom(20_000_000)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "there").mkdir()
    command = f"tar c data | {KERNEL} shell {free} --cwd {tmp_path}/there -- tar x"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, check=True, timeout=PATIENCE_SECONDS)
    assert hashlib.sha256((tmp_path / "there" / "data").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_a_reader_that_leaves_ends_it(free: str, environ: dict[str, str]):
    command = f"{KERNEL} shell {free} -- yes | head -1"
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, timeout=PATIENCE_SECONDS)
    assert (done.stdout, done.stderr) == (b"y\n", b"")


def test_ctrl_c_goes_to_the_remote_process_group(free: str, environ: dict[str, str]):
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    client = subprocess.Popen([KERNEL, "shell", free, "--", "sh", "-c", script], stdout=subprocess.PIPE, env=environ)
    assert client.stdout is not None
    with client, client.stdout:
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.readline() == b"caught\n"
        assert client.wait(PATIENCE_SECONDS) == 3


def test_the_third_ctrl_c_ends_the_conversation(free: str, environ: dict[str, str]):
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"
    command = [KERNEL, "shell", free, "--", "sh", "-c", script]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    assert client.stdout is not None
    assert client.stderr is not None
    with client, client.stdout, client.stderr:
        assert client.stdout.readline() == b"ready\n"
        for _ in range(2):
            client.send_signal(signal.SIGINT)
            assert client.stdout.readline() == b"caught\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
        assert client.stderr.read() == b""


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [("<&-", "out\n", "err\n"), (">&-", "", "err\n"), ("2>&-", "out\n", ""), ("<&- >&- 2>&-", "", "")],
)
def test_streams_that_we_were_not_given_go_nowhere(free: str, environ: dict[str, str], closed: str, out: str, err: str):
    command = f"{KERNEL} shell {free} -- sh -c 'cat; echo out; echo err >&2; exit 3' {closed}"
    done = subprocess.run(
        ["sh", "-c", command],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, out, err)


def test_output_that_cannot_be_written_is_said_in_a_line(free: str, environ: dict[str, str]):
    with open("/dev/full", "wb") as full:
        command = [KERNEL, "shell", free, "--", "echo", "out"]
        done = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (1, b"kernel: error: No space left on device: our standard output\n")


def test_options_of_the_command_stand_behind_two_dashes(run: Run, free: str):
    done = run(free, "ls", "-la")
    assert done.code == 2
    assert done.err.startswith(
        "kernel: error: there is no option '-l': what belongs to CMD stands after --: kernel shell "
    )


def test_a_line_for_a_shell_is_not_a_command(run: Run, free: str):
    assert (
        run(free, "--", "ls | wc").err
        == "kernel: 'ls | wc': command not found (for a shell's line: -- sh -c 'ls | wc')\n"
    )
    assert run(free, "--", "").err == "kernel: '': command not found\n"


def test_one_audit_line_for_each_command(serve: Serve, run: Run):
    server = serve(FREE, "--log-format", "json", "--log-level", "warning")
    run(server.endpoints[0], "--", "sh", "-c", "cat >&2; exit 3", stdin=b"12345")
    line = json.loads(server.log_until("kernel.audit.shell").splitlines()[-1])
    assert {name: line[name] for name in ("principal", "argv", "status", "input_bytes", "output_bytes")} == {
        "principal": f"unix:{os.geteuid()}",
        "argv": "sh -c 'cat >&2; exit 3'",
        "status": 3,
        "input_bytes": 5,
        "output_bytes": 5,
    }
    assert line["started"] <= line["ended"]
