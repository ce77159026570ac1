"""`kernel plugins check`: the kit from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from distributions import install

Run = Callable[..., tuple[int, str, str]]

SERVICES = """
from kernel import Service

class Shout(Service):
    name = "loud"
    async def serve(self, channel):
        async for message in channel:
            channel.send(message.upper())
            await channel.drain()

class Frail(Shout):
    name = "frail"
    async def serve(self, channel):
        async for message in channel:
            channel.send(message.decode().upper().encode())
            await channel.drain()
"""


@pytest.fixture
def services(environ: dict[str, str]) -> None:
    """A distribution with a sound service and a broken one."""
    entry_points = {"kernel.services": {"loud": "checked_module:Shout", "frail": "checked_module:Frail"}}
    install(Path(environ["PYTHONPATH"]), "checked-dist", "0.7", entry_points, {"checked_module": SERVICES})


@pytest.mark.usefixtures("services")
def test_a_sound_plugin_passes_and_each_check_is_told(kernel: Run):
    code, out, err = kernel("plugins", "check", "loud", "--say", "hello")

    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head == "service loud (checked-dist 0.7)"
    assert "  ok      cut links leave nothing" in lines
    assert "  --      its dialects live through anything: it has none" in lines
    assert "FAILED" not in out


@pytest.mark.usefixtures("services")
def test_a_fault_is_named_and_is_the_exit_code(kernel: Run):
    code, out, err = kernel("plugins", "check", "frail", "-q")

    assert (code, err) == (1, "")
    [line] = out.splitlines()
    assert line.startswith(
        "  FAILED  nonsense is answered or refused: the service 'frail' failed; its channel with check-"
    )
    assert "UnicodeDecodeError" in line


@pytest.mark.parametrize("name", ["sim", "length?width=2", "knl", "echo"])
def test_builtins_of_each_kind_pass(kernel: Run, name: str):
    code, out, _ = kernel("plugins", "check", name, "--json")

    assert code == 0
    found = json.loads(out)
    assert {entry["name"] for entry in found} == {name.partition("?")[0]}
    assert {entry["status"] for entry in found} <= {"passed", "skipped"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ech"], "there is no plugin 'ech': did you mean 'echo'?"),
        (["echo?moode=upper", "--kind", "service"], "the service echo has no option 'moode': did you mean 'mode'?"),
        (["length?width=3"], "the framing length: width is 3, it must be 1, 2, 4 or 8"),
        (["tls"], "the layer 'tls' has no example to try it with: add --endpoint 'tls+tcp://127.0.0.1:0?...'"),
        (["tcp", "--endpoint", "unix:/x"], "--endpoint 'unix:/x' does not name the transport 'tcp'"),
    ],
)
def test_mistakes_are_told_in_one_line(kernel: Run, arguments: list[str], message: str):
    assert kernel("plugins", "check", *arguments) == (2, "", f"kernel: error: {message}\n")
