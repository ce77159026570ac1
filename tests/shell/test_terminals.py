"""`kernel shell E` at a real terminal: what is typed and shown, sizes, keys, ways out, and links that are lost."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from kernel import ChannelClosed, Code
from kernel.plugins.shell import terminal
from kernel.plugins.shell.console import Console
from kernel.plugins.shell.protocol import Request

from .conftest import KERNEL, PATIENCE_SECONDS, Run, Serve
from .local import stat
from .relay import Relay

PROMPT = "ready> "
ASCIINEMA = Path(sys.executable).with_name("asciinema")
SERVER = f"""
[plugin.shell]
free = true
pty = true
shell = "/bin/sh"
env = {{ PS1 = "{PROMPT}" }}
"""

Open = Callable[..., "pexpect.spawn[bytes]"]


@pytest.fixture(scope="module")
def endpoint(serve: Serve) -> str:
    return serve(SERVER).endpoints[0]


@pytest.fixture
def open_terminal(environ: dict[str, str]) -> Iterator[Open]:
    """Run `kernel shell` in a terminal of its own; ended with the test."""
    opened: list[pexpect.spawn[bytes]] = []

    def start(*arguments: str, rows: int = 24, columns: int = 80) -> pexpect.spawn[bytes]:
        child = pexpect.spawn(
            str(KERNEL),
            ["shell", *arguments],
            env=environ | {"TERM": "xterm"},
            timeout=PATIENCE_SECONDS,
            dimensions=(rows, columns),
            echo=True,
        )
        opened.append(child)
        return child

    yield start
    for child in opened:
        child.close(force=True)


def local_echo(child: pexpect.spawn[bytes]) -> bool:
    """Whether the client's own terminal is in its normal mode."""
    return bool(termios.tcgetattr(child.child_fd)[3] & termios.ECHO)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_shell_with_its_status(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint)
    child.expect_exact(PROMPT)
    assert not local_echo(child)
    child.sendline("echo $((6 * 7)) $TERM; tty")
    child.expect(r"42 xterm\r\n/dev/pts/\d+\r\n")
    child.sendline("exit 3")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 3
    assert local_echo(child)


def test_the_size_is_ours_and_follows_us(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint, rows=30, columns=101)
    child.expect_exact(PROMPT)
    child.sendline("stty size")
    child.expect_exact("30 101")
    child.sendline("trap 'stty size; echo changed' WINCH; echo set")
    child.expect("set\r\n")
    child.setwinsize(40, 120)
    child.sendline("")
    child.expect("40 120\r\nchanged")


def test_input_that_is_no_terminal_ends_as_one_would(run: Run, endpoint: str):
    assert b"hello\r\n" in run(endpoint, "-t", "--", "sh", "-c", "tty; cat; exit 3", stdin=b"hello\n").out
    assert run(endpoint, "-t", "--", "sh", stdin=b"exit 3\n").code == 3


# It says that it runs, and that it goes on: until then the keys would reach the shell before it. And it starts nothing:
# a shell that is stopped in the middle of a vfork is not seen to be.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGCONT, lambda number, frame: print("going", flush=True))
print("running", flush=True)
while True:
    signal.pause()
"""


def test_ctrl_c_and_ctrl_z_are_the_remote_programs(open_terminal: Open, endpoint: str, tmp_path: Path):
    (tmp_path / "program").write_text(PROGRAM)
    child = open_terminal(endpoint, "-t", "--", "bash", "--norc", "-i")
    child.expect_exact(PROMPT)
    child.sendline(f"{sys.executable} {tmp_path}/program")
    child.expect_exact("running")
    child.sendcontrol("z")
    child.expect_exact("Stopped")
    child.sendline("fg")
    child.expect_exact("going")
    child.sendcontrol("c")
    child.expect_exact(PROMPT)
    child.sendline("echo status $?")
    child.expect_exact("status 130")


@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "INT"])
def test_the_terminal_is_restored_whoever_ends_us(open_terminal: Open, endpoint: str, name: str):
    number = signal.Signals[f"SIG{name}"]
    child = open_terminal(endpoint)
    child.expect_exact(PROMPT)
    assert not local_echo(child)
    child.kill(number)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 128 + number
    assert local_echo(child)


def test_who_is_stopped_leaves_the_terminal_and_takes_it_again(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint)
    child.expect_exact(PROMPT)
    for stop in (lambda: child.kill(signal.SIGTSTP), lambda: child.send("~\x1a")):
        stop()
        wait_until(lambda: stat(child.pid)[0] == "T")
        assert local_echo(child)
        child.setwinsize(31, 91)
        child.kill(signal.SIGCONT)
        wait_until(lambda: not local_echo(child))
        child.sendline("stty size")
        child.expect_exact("31 91\r\n" + PROMPT)
    child.sendline("exit")
    child.expect(pexpect.EOF)
    assert local_echo(child)


def test_the_escape_disconnects_at_the_start_of_a_line_only(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint)
    child.expect_exact(PROMPT)
    child.sendline("echo a~.b")
    child.expect("a~.b\r\n.*" + PROMPT)
    child.send("~?")
    child.expect_exact("~. disconnects")
    child.send("~.")
    child.expect_exact("disconnected")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 129
    assert local_echo(child)


def test_a_terminal_that_was_detached_is_joined_again(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint)
    child.expect_exact(PROMPT)
    child.sendline("here=still")
    child.expect_exact(PROMPT)
    child.send("~d")
    child.expect(r"detached; this brings it back: kernel shell (\S+) --attach (\S+)\r\n")
    session = child.match[2].decode()
    child.expect(pexpect.EOF)
    assert child.wait() == 0

    again = open_terminal(endpoint, "--attach", session)
    again.expect_exact(PROMPT)  # from the past
    again.sendline("echo $here there")
    again.expect_exact("still there")
    again.sendline("exit")
    again.expect(pexpect.EOF)

    gone = open_terminal(endpoint, "--attach", session)
    gone.expect_exact("forbidden: there is no such session, or it has ended")


def test_a_lost_link_is_made_again_and_nothing_is_lost(open_terminal: Open, endpoint: str, tmp_path: Path):
    with Relay(tmp_path / "relay.sock", Path(endpoint.removeprefix("unix:"))) as relay:
        child = open_terminal(f"unix:{relay.path}")
        child.expect_exact(PROMPT)
        output = child.logfile_read = io.BytesIO()
        child.sendline("stty -echo; echo $((40 + 2)); read x; for i in $(seq 3000); do echo n$i; done; echo $x")
        child.expect("42\r\n")
        relay.cut()
        child.expect_exact("the link was lost; trying again")
        child.sendline("typed meanwhile")
        for _ in range(3):
            relay.cut()
        child.expect_exact("typed meanwhile\r\n" + PROMPT)
    shown = re.findall(rb"n(\d+)\r\n", output.getvalue())
    assert [int(number) for number in shown] == list(range(1, 3001))


def test_a_recording_is_an_asciicast(open_terminal: Open, serve: Serve, tmp_path: Path):
    server = serve(SERVER + f'record_dir = "{tmp_path}"')
    child = open_terminal(server.endpoints[0], rows=30, columns=100)
    child.expect_exact(PROMPT)
    child.sendline("stty -echo; read secret; echo gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n")
    child.sendline("swordfish")
    child.expect("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\r\n".encode())
    child.setwinsize(20, 60)
    child.sendline("exit")
    child.expect(pexpect.EOF)
    server.log_until("recording=")
    [cast] = tmp_path.glob("*.cast")
    assert cast.stat().st_mode & 0o777 == 0o600
    header, *events = (json.loads(line) for line in cast.read_text().splitlines())
    assert (header["version"], header["width"], header["height"], header["env"]) == (2, 100, 30, {"TERM": "xterm"})
    assert [time for time, _, _ in events] == sorted(time for time, _, _ in events)
    shown = "".join(data for _, kind, data in events if kind == "o")
    assert "grün" in shown
    assert "swordfish" not in shown
    assert "60x20" in [data for _, kind, data in events if kind == "r"]


@pytest.mark.skipif(not ASCIINEMA.exists(), reason="asciinema is not installed")
def test_asciinema_plays_a_recording(open_terminal: Open, serve: Serve, environ: dict[str, str], tmp_path: Path):
    server = serve(SERVER + f'record_dir = "{tmp_path}"')
    child = open_terminal(server.endpoints[0], "-t", "--", "sh", "-c", r"printf 'gr\303\274n \033[31mred\033[0m \377.'")
    child.expect(pexpect.EOF)
    server.log_until("recording=")
    [cast] = tmp_path.glob("*.cast")
    with pexpect.spawn(str(ASCIINEMA), ["play", str(cast)], env=environ, timeout=PATIENCE_SECONDS) as player:
        player.expect_exact(
            "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n \x1b[31mred\x1b[0m \N{REPLACEMENT CHARACTER}.".encode()
        )
        player.expect(pexpect.EOF)
    assert player.wait() == 0


def test_without_permission_there_is_no_terminal(open_terminal: Open, serve: Serve):
    server = serve("[plugin.shell]\nallow = ['cat']")
    child = open_terminal(server.endpoints[0])
    child.expect_exact("may not open a terminal here")
    child.expect(pexpect.EOF)
    assert child.wait() == 1


def test_control_characters_of_a_plain_command_do_not_reach_a_terminal(open_terminal: Open, endpoint: str):
    child = open_terminal(endpoint, "--", "printf", r"a\033]0;x\007b\r\nc\302\233d\t\377\n")
    child.expect_exact(b"a\\x1b]0;x\\x07b\r\nc\\x9bd\t\\xff\r\n")


async def test_our_terminal_is_restored_before_signals_can_end_us(monkeypatch: pytest.MonkeyPatch):
    handlers: list[object] = []

    async def fail(_: object) -> int:
        raise ChannelClosed(Code.LOST, "cut")

    monkeypatch.setattr(terminal._Session, "hold", fail)
    monkeypatch.setattr(Console, "restore", lambda _: handlers.append(signal.getsignal(signal.SIGTERM)))
    with pytest.raises(ChannelClosed):
        await terminal.run("unix:nowhere", Request([]), None, None)
    assert handlers
    assert signal.SIG_DFL not in handlers
