"""The main command: help without imports, errors in one line, exit codes, a reader that goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from distributions import install

from kernel.cli import root
from kernel.errors import StartError
from kernel.registry import Registry

KERNEL = Path(sys.executable).with_name("kernel")

COMMANDS = """
import os, click
from kernel.errors import DialError
@click.command()
def fine(): print("fine"); return 7
@click.command()
def dials(): raise DialError("nobody at \\x1b[2J: start one")
@click.command()
def missing(): open("/no/such/file")
@click.command()
def bug(): return {}["nothing"]
@click.command()
def logs():
    import logging
    logging.getLogger("some").warning("\\x1b[2J"); logging.getLogger("some").info("unheard")
@click.command()
def interrupted(): raise KeyboardInterrupt
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Commands of a distribution of their own, beside one that cannot be imported and one that hides behind ours."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ("fine", "dials", "missing", "bug", "logs", "interrupted")
    entries = {name: f"some_commands:{name}" for name in names} | {
        "broken": "not_there:x",
        "serve": "some_commands:fine",
    }
    install(tmp_path, "some-dist", "0.3", {"kernel.commands": entries}, {"some_commands": COMMANDS})
    monkeypatch.setattr(root.root, "registry", Registry(path=[str(tmp_path)]))
    yield tmp_path
    sys.modules.pop("some_commands", None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fine"], 7, ""),
        (["dials"], 1, "nobody at \\x1b[2J: start one"),
        (["missing"], 1, "No such file or directory: /no/such/file"),
        (["bug"], 1, "this is a fault of the program, please report it: KeyError: 'nothing'"),
        (["fien"], 2, "there is no command 'fien': did you mean 'fine'? (kernel --help shows what can be said)"),
        (["xyz"], 2, "there is no command 'xyz' (kernel --help shows what can be said)"),
        (
            ["--vresion"],
            2,
            "there is no option '--vresion': did you mean '--version'? (kernel --help shows what can be said)",
        ),
        (["fine", "x"], 2, "Got unexpected extra argument (x) (kernel fine --help shows what can be said)"),
        (
            ["broken"],
            2,
            "the command 'broken' of some-dist 0.3 is broken: ModuleNotFoundError: No module named 'not_there'",
        ),
    ],
)
def test_whatever_ends_a_command_is_one_line_and_a_code(
    commands: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
):
    assert root.run(arguments) == code
    assert capsys.readouterr().err == (f"kernel: error: {message}\n" if message else "")


def test_what_a_command_logs_looks_like_the_servers_log(
    commands: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KERNEL_LOG_FORMAT", "json")
    root.run(["logs"])
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "\\x1b[2J"

    monkeypatch.setenv("KERNEL_LOG_LEVEL", "loud")
    assert root.run(["logs"]) == 2
    assert "KERNEL_LOG_LEVEL: option 'log_level=loud': write one of" in capsys.readouterr().err


def test_an_interrupt_is_130_and_no_traceback(commands: Path, capsys: pytest.CaptureFixture[str]):
    assert root.run(["interrupted"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_each_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    @click.command()
    def start() -> None:
        raise StartError("tcp://127.0.0.1:1 is in use: take another")

    monkeypatch.setattr(root.LazyGroup, "get_command", lambda self, ctx, name: start)
    assert root.run(["start"]) == 3


def test_the_traceback_is_there_for_who_asks(
    commands: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KERNEL_TRACEBACK", "1")
    root.run(["bug"])
    assert 'return {}["nothing"]' in capsys.readouterr().err


def test_help_names_every_command_and_imports_none(commands: Path, capsys: pytest.CaptureFixture[str]):
    assert root.run(["--help"]) == 0

    text = capsys.readouterr().out
    assert "some_commands" not in sys.modules
    assert text.index("Examples:") < text.index("Options:")
    assert "broken       Talk to the broken service (some-dist 0.3)." in text
    assert "serve        Hidden by the command of the same name above (some-dist 0.3)." in text


def test_our_own_commands_cannot_be_taken_by_a_plugin(commands: Path, capsys: pytest.CaptureFixture[str]):
    assert root.run(["serve", "--help"]) == 0
    assert "kernel serve --plugin echo" in capsys.readouterr().out


def test_every_command_of_ours_is_where_the_help_says():
    context = click.Context(root.root)
    for name, own in root.OWN.items():
        command = root.root.get_command(context, name)
        assert isinstance(command, click.Command)
        assert (command.name, command.get_short_help_str(100)) == (name, own.help)


def test_help_and_listing_start_without_what_is_slow():
    script = (
        "import sys; sys.argv = ['kernel', *sys.argv[1:]]\n"
        "from kernel.cli import main\n"
        "try: main()\n"
        "finally: print(*[m for m in ('asyncio', 'logging', 'msgspec', 'importlib.metadata', 'kernel.api')"
        " if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"


def test_the_version_says_which_engine_runs():
    done = subprocess.run(
        [KERNEL, "--version"], capture_output=True, text=True, check=True, env=os.environ | {"KERNEL_FRAMING": "python"}
    )
    assert done.stdout.startswith("kernel 0.1.0 (framing engine: python, CPython 3.")


@pytest.mark.parametrize("arguments", [["plugins", "list"], ["--help"], ["plugins", "list", "--json"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([KERNEL, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_plugins_are_listed_for_people_and_for_programs():
    table, data = (
        subprocess.run([KERNEL, "plugins", "list", *more], capture_output=True, text=True, check=True).stdout
        for more in ([], ["--json"])
    )
    assert "transport  tcp     transport-kernel  0.1.0\n" in table
    entry = next(e for e in json.loads(data) if (e["kind"], e["name"]) == ("transport", "tcp"))
    assert entry["object"] == "kernel.transports.tcp:Tcp"
    assert entry["refused"] is None


def test_the_listing_says_what_is_refused_and_why(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('plugins_denied = ["udp"]')
    done = subprocess.run(
        [KERNEL, "plugins", "list"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"KERNEL_CONFIG": str(config)},
    )
    assert "not allowed here: plugins_denied names it" in done.stdout


def test_a_signal_while_starting_ends_without_a_traceback():
    script = (
        "import os, signal, sys, click\n"
        "def imported(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(lambda event, args: event == 'import' and args[0] == 'kernel.cli.root' and imported())\n"
        "from kernel.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")
