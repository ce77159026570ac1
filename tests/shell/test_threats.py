"""What a hostile client can say: words that a shell would obey, and messages that no client of ours sends."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from kernel import Client, Code
from kernel.plugins.shell.protocol import Kind, Request, credit

from .local import run, serving

PIECES = [
    *("$(touch {canary})", "`touch {canary}`", "; touch {canary}", "| touch {canary}", "&& touch {canary}", "\n"),
    *("& touch {canary} &", "> {canary}", "$IFS", "${{HOME}}", "'", '"', "\\", "*", "?", "[a-z]", "~", "#", "!", "("),
    *(
        "<(touch {canary})",
        "%s",
        "%n",
        "\t",
        " ",
        "\r",
        "\x7f",
        "\x1b[2J",
        "ü",
        "\udcff",
        "a",
        "--",
        "-e",
        "=",
        "{{a}}",
    ),
]


async def _throw(client: Client, cases: int, canary: Path) -> int:
    """Words of metacharacters, as a parameter and as whole command lines; how many were run as parameters."""
    dice = random.Random(10)
    texts = ["".join(dice.choices(PIECES, k=dice.randint(1, 6))).format(canary=canary) for _ in range(cases)]
    gate = asyncio.Semaphore(16)

    async def one(number: int, text: str) -> bool:
        async with gate:
            if number % 2:
                line = ["show", text]
            else:
                line = dice.choice([["show" + text, "x"], [text, "show", "x"], ["show", "x", text], [text], [""]])
            try:
                how, out, _ = await run(client, *line)
            except Exception as error:
                assert getattr(error, "code", None) is Code.FORBIDDEN  # noqa: PT017
                return False
            assert (how.status, out) == (0, text.encode("utf-8", "surrogateescape"))
            return True

    return sum(await asyncio.gather(*(one(number, text) for number, text in enumerate(texts))))


async def _nothing_runs(place: Path, cases: int) -> None:
    allow = 'allow=[{"command":"show {x:text}","runs":["printf","%25s","{x}"],"parameters":{"x":{"dash":true}}}]'
    (place / "home").mkdir()
    async with serving(f"shell?{allow}&cwd={place}/home", place) as (_, client):
        ran = await _throw(client, cases, place / "canary")
    assert 0 < ran < cases
    assert not (place / "canary").exists()
    assert list((place / "home").iterdir()) == []


async def test_metacharacters_are_characters(tmp_path: Path):
    await _nothing_runs(tmp_path, 200)


@pytest.mark.long
async def test_ten_thousand_of_them(tmp_path: Path):
    await _nothing_runs(tmp_path, 10_000)


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [b"\x63"],
        [bytes([Kind.REQUEST])],
        [bytes([Kind.REQUEST]) + b"[]"],
        [bytes([Kind.REQUEST]) + b"[" * 100_000],
        [bytes([Kind.REQUEST]) + b'{"argv":["a\\u0000"]}'],
        [bytes([Kind.REQUEST]) + b'{"argv":["\\ud800"]}'],
        [bytes([Kind.REQUEST]) + b'{"argv":[1]}'],
        [bytes([Kind.REQUEST]) + b'{"argv":["cat"],"env":{"A=B":"C"}}'],
        [bytes([Kind.REQUEST]) + b'{"terminal":{"columns":1e999}}'],
        [bytes([Kind.REQUEST]) + b'{"argv":["cat"],"timeout_seconds":NaN}'],
        [bytes([Kind.REQUEST]) + b'{"argv":["' + b"a" * 300_000 + b'"]}'],
        [Request(["sleep", "9"]).encode(), b""],
        [Request(["sleep", "9"]).encode(), bytes([Kind.SIGNAL]) + b"SEGFAULT"],
        [Request(["sleep", "9"]).encode(), bytes([Kind.RESIZE, 1])],
        [Request(["sleep", "9"]).encode(), credit(Kind.STDOUT, 1)[:-1]],
        [Request(["sleep", "9"]).encode(), bytes([Kind.EXIT])],
        [Request(["sleep", "9"]).encode(), bytes([Kind.STDIN]) + bytes(600_000)],
    ],
)
async def test_messages_that_make_no_sense_end_their_channel_and_nothing_else(tmp_path: Path, messages: list[bytes]):
    async with serving("shell?free=1", tmp_path) as (_, client):
        channel = await client.open("shell")
        channel.send_many(messages)
        async with asyncio.timeout(30):
            await channel.wait_closed()
        assert channel.code is Code.PROTOCOL
        _, out, _ = await run(client, "echo", "alive")
        assert out == b"alive\n"


async def test_too_many_at_once_are_refused(tmp_path: Path):
    async with serving("shell?free=1&commands_max=1&grace_seconds=0", tmp_path) as (_, client):
        sleeper = await client.open("shell")
        sleeper.send(Request(["sleep", "1000"]).encode())
        assert await sleeper.receive() is not None
        with pytest.raises(Exception, match="1 commands run here already"):
            await run(client, "true")


async def test_output_has_a_cap(tmp_path: Path):
    async with serving("shell?free=1&output_bytes_max=1MiB", tmp_path) as (_, client):
        how, out, _ = await run(client, "yes")
    assert how.reason == "it wrote more than 1,048,576 bytes"
    assert len(out) == 1 << 20


async def test_another_user(tmp_path: Path):
    if os.geteuid():
        pytest.skip("only root can run commands as another user")
    async with serving("shell?free=1&user=nobody", tmp_path) as (_, client):
        _, out, _ = await run(
            client, "sh", "-c", "id -un; id -Gn; echo $HOME $USER; kill -9 $PPID 2>/dev/null || echo safe"
        )
    assert out.decode().split() == ["nobody", "nogroup", "/nonexistent", "nobody", "safe"]
