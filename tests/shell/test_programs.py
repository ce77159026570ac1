"""Full-screen programs in a terminal of ours, which tmux holds: keys are sent to it, and its screen is read."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import KERNEL, Serve

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
needs_vim = pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
needs_htop = pytest.mark.skipif(shutil.which("htop") is None, reason="htop is not installed")
PATIENCE_SECONDS = 30
PROMPT = "ready>"


class Screen:
    """A tmux server of its own, with one window."""

    def __init__(self, command: str, environ: dict[str, str]) -> None:
        self._name = f"kernel-{uuid.uuid4().hex[:8]}"
        self._environ = {name: value for name, value in environ.items() if name != "TMUX"} | {"TERM": "xterm-256color"}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", command)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._name, *arguments]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=30, check=True).stdout

    def keys(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def shows(self, text: str) -> str:
        """Wait until it does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (screen := self._tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, f"'{text}' is not shown, but\n{screen}"
            time.sleep(0.05)
        return screen

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._name, "kill-server"], env=self._environ, capture_output=True, check=False)


@pytest.fixture(scope="module")
def endpoint(serve: Serve) -> str:
    return serve(
        f"[plugin.shell]\nfree = true\npty = true\nshell = '/bin/sh'\nenv = {{ PS1 = '{PROMPT} ' }}"
    ).endpoints[0]


@pytest.fixture
def screen(endpoint: str, environ: dict[str, str]) -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def start() -> Screen:
        opened.append(Screen(f"{KERNEL} shell {endpoint}; echo left; sleep 1000", environ))
        opened[-1].shows(PROMPT)
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@needs_tmux
@needs_vim
def test_vim_edits_a_file(screen: Callable[..., Screen], tmp_path: Path):
    (tmp_path / "text").write_text("one\ntwo\n")
    terminal = screen()
    terminal.keys(f"vim -u NONE {tmp_path}/text", "Enter")
    terminal.shows("two\n~")
    terminal.keys("Go", "three grün", "Escape", ":set ruler", "Enter")
    terminal.shows("3,")
    terminal.resize(60, 12)
    terminal.keys(":echo &columns &lines", "Enter")
    terminal.shows("60 12")
    terminal.keys(":wq", "Enter")
    terminal.shows(PROMPT)
    assert (tmp_path / "text").read_text() == "one\ntwo\nthree grün\n"
    terminal.keys("exit", "Enter")
    terminal.shows("left")


@needs_tmux
def test_tmux_runs_inside(screen: Callable[..., Screen]):
    terminal = screen()
    terminal.keys(f"tmux -L inner-{uuid.uuid4().hex[:8]} -f /dev/null new-session 'echo within; read x'", "Enter")
    terminal.shows("within")
    terminal.shows("[0]")
    terminal.keys("Enter")
    terminal.shows("[exited]")


@needs_tmux
@needs_htop
def test_htop_shows_its_bars_and_leaves(screen: Callable[..., Screen]):
    terminal = screen()
    terminal.keys("htop", "Enter")
    terminal.shows("Load average")
    terminal.keys("q")
    terminal.keys("echo back", "Enter")
    terminal.shows("\nback")
