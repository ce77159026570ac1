"""The client in a terminal, driven through a real pseudo-terminal, its screen read as a person would."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest
from server_process import ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
DEADLINE_SECONDS = 30
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("KERNEL_", "PROMPT_TOOLKIT"))}


class Terminal:
    """A `kernel chat` in a terminal of its own."""

    def __init__(self, endpoint: str, *arguments: str, columns: int = 80, lines: int = 24) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.screen.write_process_input = self.type  # the terminal's own answers: where the cursor is
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            str(KERNEL),
            ["chat", endpoint, *arguments],
            dimensions=(lines, columns),
            env={**ENVIRON, "TERM": "xterm-256color", "COLUMNS": "300"},  # what it was once, elsewhere
            timeout=DEADLINE_SECONDS,
        )

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def type(self, text: str) -> None:
        self.child.send(text)

    def until(self, condition: Callable[[str], object]) -> str:
        """Read until the screen makes it true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
                data = self.child.read_nonblocking(65536, timeout=0.2)
                self.raw += data
                self._stream.feed(data)
        return self.text

    def shows(self, *texts: str) -> str:
        return self.until(lambda screen: all(text in screen for text in texts))

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        self.child.expect(pexpect.EOF)
        self.raw += self.child.before or b""
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    listen = ["--listen", "tcp://127.0.0.1:0", "--listen", f"unix:{tmp_path}/s"]
    server = ServerProcess(
        KERNEL, ["--plugin", f"chat?store={tmp_path}/h", *listen], ENVIRON, tmp_path, guard_seconds=600
    )
    yield server
    server.end()


@pytest.fixture
def terminal(server: ServerProcess) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str, **options: int) -> Terminal:
        started.append(Terminal(server.endpoints[0], *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.child.close(force=True)


Start = Callable[..., Terminal]


def test_two_people_talk_and_the_line_that_is_typed_on_stays(terminal: Start) -> None:
    ada, bob = terminal("--nick", "ada"), terminal("--nick", "bob")
    ada.shows("#lobby>", "ada in #lobby (2)")
    bob.shows("bob in #lobby (2)")
    ada.type("half a sent")
    ada.shows("#lobby> half a sent")
    bob.type("hello ada\r")
    ada.shows("<bob> hello ada", "#lobby> half a sent")
    ada.type("ence\r")
    bob.shows("<ada> half a sentence")
    assert ada.shows("<ada> half a sentence").count("half a sentence") == 1
    ada.type("/me waves\r")
    bob.shows("* ada waves")
    ada.type("/quit good night\r")
    assert ada.ended() == 0
    bob.shows("ada left (good night)")
    bob.type("\x04")
    assert bob.ended() == 0


def test_names_and_commands_are_completed_and_typed_lines_come_back(terminal: Start) -> None:
    terminal("--nick", "barbara").shows("barbara in #lobby")
    ada = terminal("--nick", "ada")
    ada.shows("ada in #lobby (2)")
    ada.type("barb\t")
    ada.shows("#lobby> barbara:")
    ada.type("hi\r")
    ada.shows("<ada> barbara: hi")
    ada.type("/hist\t")
    ada.shows("#lobby> /history")
    ada.type("\r")
    ada.until(lambda screen: screen.count("<ada> barbara: hi") == 2)
    ada.type("\x1b[A\x1b[A")
    ada.shows("#lobby> barbara: hi")


def test_mistakes_are_explained_and_nothing_ends(terminal: Start) -> None:
    ada = terminal("--nick", "ada")
    ada.shows("#lobby>")
    ada.type("/jion tea\r")
    ada.shows("there is no command /jion: /help shows them, //jion says it")
    ada.type("/msg nobody hi\r")
    ada.shows("there is no 'nobody' here")
    ada.type("\x03")
    ada.shows("Ctrl-D or /quit leaves")
    ada.type("/help\r")
    ada.shows("/search [WORDS]  messages", "~ROOM keeps no history")


def test_other_rooms_count_what_is_unread(terminal: Start) -> None:
    ada, bob = terminal("--nick", "ada"), terminal("--nick", "bob")
    ada.shows("#lobby>")
    ada.type("/join tea\r")
    ada.shows("#tea>")
    bob.shows("#lobby>")
    bob.type("are you there?\r")
    ada.shows("#lobby 1 unread")
    ada.type("/join lobby\r")
    ada.shows("#lobby>", "1 unread: /history 1 shows them")


def test_a_server_that_dies_and_comes_back_is_found_again(tmp_path: Path) -> None:
    plugin = ["--plugin", f"chat?store={tmp_path}/h"]
    first = ServerProcess(KERNEL, [*plugin, "--listen", "tcp://127.0.0.1:0"], ENVIRON, tmp_path, guard_seconds=600)
    second = None
    ada = Terminal(first.endpoints[0], "--nick", "ada")
    try:
        ada.shows("#lobby>")
        ada.type("before\r")
        ada.shows("<ada> before")
        first.end()
        ada.shows("connection lost", "trying again")
        ada.type("meanwhile\r")
        ada.shows("waits for the connection: meanwhile", "#lobby>")
        ada.type("and more\r")
        ada.shows("waits for the connection: and more")
        second = ServerProcess(KERNEL, [*plugin, "--listen", first.endpoints[0]], ENVIRON, tmp_path, guard_seconds=600)
        ada.shows("connected again", "<ada> meanwhile\n", "<ada> and more")
        assert ada.text.index("<ada> meanwhile") < ada.text.index("<ada> and more")
        assert ada.text.count("<ada> before") == 1
    finally:
        ada.child.close(force=True)
        first.end()
        if second is not None:
            second.end()


def test_what_was_typed_before_quit_is_said(terminal: Start) -> None:
    ada, bob = terminal("--nick", "ada"), terminal("--nick", "bob")
    ada.shows("ada in #lobby (2)")
    ada.type("one\rtwo\rthree\r/quit\r")
    assert ada.ended() == 0
    bob.shows("<ada> one", "<ada> two", "<ada> three", "ada left")


def test_nothing_that_others_say_steers_the_terminal(terminal: Start) -> None:
    ada, eve = terminal("--nick", "ada"), terminal("--nick", "eve", "--plain")
    ada.shows("#lobby>", "ada in #lobby (2)")
    eve.child.setecho(False)
    eve.type("\x1b]0;owned\x07\x1b[2J \u202etxet\n")
    ada.shows("\\x1b]0;owned\\x07\\x1b[2J \\u202etxet")
    assert b"\x1b]0;owned" not in ada.raw
    assert "\u202e" not in ada.raw.decode()


def test_a_narrow_terminal_is_enough(terminal: Start) -> None:
    ada = terminal("--nick", "ada", columns=20, lines=8)
    ada.shows("#lobby>")
    ada.type("a line that is longer than this\r")
    ada.shows("<ada> a", "    line that is", "    longer than this")
    ada.type("/help\r")
    ada.shows("/quit [REASON]\n    leave\n#lobby>")
    ada.type("/quit\r")
    assert ada.ended() == 0


def test_who_cannot_come_in_reads_why(server: ServerProcess, terminal: Start) -> None:
    terminal("--nick", "ada").shows("ada in #lobby")
    twin = terminal("--nick", "ADA")
    assert twin.ended() == 1
    assert b"kernel: error: 'ada' is here, and 'ADA' looks the same: take another nickname" in twin.raw
    bad = terminal("--nick", "a b")
    assert bad.ended() == 1
    assert b"' ' is none of them" in bad.raw
