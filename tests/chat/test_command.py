"""`kernel chat` in a pipe: a script can talk, listen and be a bot; mistakes are one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

KERNEL = Path(sys.executable).with_name("kernel")
TIMEOUT_SECONDS = 60
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("KERNEL_")}


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    place = tmp_path_factory.mktemp("chat")
    listen = [f"--listen={e}" for e in ("tcp://127.0.0.1:0", f"unix:{place}/s", "udp://127.0.0.1:0")]
    options = "store=memory&messages_per_second=1000&burst=100"
    server = ServerProcess(KERNEL, ["--plugin", f"chat?{options}", *listen], ENVIRON, place, guard_seconds=600)
    yield server.endpoints
    server.end()


class Pipe:
    """A client whose lines we read and write."""

    def __init__(self, endpoint: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [KERNEL, "chat", endpoint, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRON,
        )  # fmt: skip

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def until(self, text: str) -> str:
        assert self.process.stdout is not None
        guard = threading.Timer(TIMEOUT_SECONDS, self.process.kill)
        guard.start()
        try:
            for line in self.process.stdout:
                if text in line:
                    return line
        finally:
            guard.cancel()
        raise AssertionError(f"'{text}' did not come: {self.end()}")

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=TIMEOUT_SECONDS)
        return self.process.returncode, out, err


Start = Callable[..., Pipe]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Pipe] = []

    def start(endpoint: str, *arguments: str) -> Pipe:
        started.append(Pipe(endpoint, *arguments))
        return started[-1]

    yield start
    for pipe in started:
        pipe.process.kill()
        pipe.process.communicate()


def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [KERNEL, "chat", *arguments], input=stdin, capture_output=True, text=True, env=ENVIRON, timeout=TIMEOUT_SECONDS
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("transport", [0, 1, 2], ids=["tcp", "unix", "udp"])
def test_what_is_piped_in_is_said_and_the_command_ends(endpoints: list[str], start: Start, transport: int) -> None:
    nick = f"ci-{transport}"  # over a UNIX socket it is ours from then on
    listener = start(endpoints[0], "--nick", f"ear-{transport}", "--room", f"room{transport}", "--json")
    listener.until('"type": "connected"')
    code, out, err = run(endpoints[transport], "--nick", nick, "--room", f"room{transport}", "-q", stdin="one\ntwo\n")
    assert (code, err) == (0, "")
    assert [line[9:] for line in out.splitlines()][-2:] == [
        f"#room{transport} <{nick}> one",
        f"#room{transport} <{nick}> two",
    ]
    heard = [json.loads(listener.until('"said"')) for _ in range(2)]
    assert [(said["nick"], said["text"]) for said in heard] == [(nick, "one"), (nick, "two")]


def test_a_bot_in_five_lines(endpoints: list[str], start: Start) -> None:
    bot = """
import json, subprocess, sys
bot = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for event in map(json.loads, bot.stdout):
    if event["type"] == "said" and event["text"] == "!ping":
        print("pong", file=bot.stdin, flush=True)
"""
    command = [
        sys.executable,
        "-c",
        bot,
        str(KERNEL),
        "chat",
        endpoints[0],
        "--nick",
        "bot",
        "--room",
        "bots",
        "--json",
    ]
    process = subprocess.Popen(command, env=ENVIRON)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while '"bot"' not in json.dumps(who(endpoints[0], "bots")):
            assert time.monotonic() < deadline
        person = start(endpoints[0], "--nick", "tester", "--room", "bots")
        person.write("!ping")
        assert person.until("<bot>").endswith("#bots <bot> pong\n")
    finally:
        process.kill()
        process.wait()


def who(endpoint: str, room: str) -> list[dict[str, Any]]:
    _, out, _ = run(endpoint, "--nick", "asker", "--room", room, "--json", stdin="/who\n")
    return [json.loads(line) for line in out.splitlines()]


def test_commands_answer_and_mistakes_count(endpoints: list[str]) -> None:
    lines = "/topic tea at five\n/rooms\n/who\n/me waves\n//slash\n/history 5\n/search waves\n/help\n"
    code, out, err = run(endpoints[0], "--nick", "ada", "--room", "commands", stdin=lines)
    assert code == 0
    said = [line[9:] for line in out.splitlines()]
    assert said.count("#commands * ada waves") == 3
    assert "#commands <ada> /slash" in said
    assert "-- #commands: ada sets the topic: tea at five" in said
    assert "#commands (1): tea at five" in err
    code, _, err = run(
        endpoints[0], "--nick", "ada", stdin="/msg nobody hi\n/leave\nhello?\n/jion\n/nick a b\n/history x\n"
    )
    assert code == 1
    assert [line.removeprefix("kernel: error: ") for line in err.splitlines() if "error" in line] == [
        "there is no 'nobody' here",
        "you are in no room: /join ROOM",
        "there is no command /jion: /help shows them, //jion says it",
        "a nickname is made of letters, digits, and - _ . inside: ' ' is none of them",
        "write /history N: how many messages",
    ]


def test_a_search_goes_on_with_older_messages(endpoints: list[str]) -> None:
    said = "".join(f"word {number}\n" for number in range(60))
    lines = f"{said}/search WORD\n/search\n/search\n"
    code, out, err = run(endpoints[0], "--nick", "ada", "--room", "searched", stdin=lines)
    assert (code, err.splitlines()[-2:]) == (1, [
        "older messages were not searched: /search goes on there",
        "kernel: error: write /search WORDS",
    ])  # fmt: skip
    found = [line.rpartition(" ")[2] for line in out.splitlines() if "<ada> word" in line]
    assert sorted(found, key=int) == [str(number) for number in range(60) for _ in range(2)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tcp://127.0.0.1:1", "--nick", "ada"], 1, "127.0.0.1:1"),
        (["ENDPOINT", "--nick", "a b"], 1, "' ' is none of them"),
        (["ENDPOINT", "--nick", "ada", "--room", "a b"], 1, "' ' is none of them"),
        (["ENDPOINT", "--nick", "ada", "--service", "chta"], 1, "there is no service 'chta' here, but chat"),
        (["127.0.0.1:7000", "--nick", "ada"], 2, "is not an endpoint"),
        (["ENDPOINT", "--last", "many"], 2, "--last"),
        ([], 2, "ENDPOINT"),
    ],
)
def test_a_mistake_is_one_line(endpoints: list[str], arguments: list[str], code: int, message: str) -> None:
    found, out, err = run(*[endpoints[0] if word == "ENDPOINT" else word for word in arguments], stdin="hi\n")
    assert (found, out) == (code, "")
    assert err.startswith("kernel: error: ")
    assert (err.count("\n"), message in err) == (1, True), err


def test_interrupted_it_says_goodbye(endpoints: list[str], start: Start) -> None:
    watcher = start(endpoints[0], "--nick", "watcher", "--room", "signals")
    leaver = start(endpoints[0], "--nick", "leaver", "--room", "signals", "--json")
    leaver.until('"type": "connected"')
    leaver.process.send_signal(signal.SIGINT)
    code, _, err = leaver.end()
    assert (code, err.strip()) == (130, "")
    watcher.write("anybody?")
    watcher.until("anybody?")
    assert not any("leaver" in str(event) for event in who(endpoints[0], "signals") if event["type"] == "notice")


def test_a_closed_pipe_is_no_traceback(endpoints: list[str], start: Start) -> None:
    deaf = start(endpoints[0], "--nick", "deaf", "--room", "pipes", "--json")
    deaf.until('"type": "connected"')
    assert deaf.process.stdout is not None
    deaf.process.stdout.close()
    speaker = start(endpoints[0], "--nick", "speaker", "--room", "pipes")
    speaker.write("hello")
    deaf.process.wait(TIMEOUT_SECONDS)
    assert deaf.process.stderr is not None
    assert "Traceback" not in deaf.process.stderr.read()
