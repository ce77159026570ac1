"""What is published: the wheel with the C engine, the pure wheel where there is no compiler, and a third party's wheel.

Each is installed into an empty virtual environment and used from there, away from this checkout.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from documents import ROOT, blocks
from server_process import TIMEOUT_SECONDS, ServerProcess

pytestmark = pytest.mark.packaging

KINDS = ("transport", "service", "framing")

ECHO = """
import asyncio, sys
from kernel import connect
async def main():
    async with connect(sys.argv[1], "echo") as channel:
        channel.send(b"hello" * 20_000)
        assert await channel.receive() == b"hello" * 20_000
asyncio.run(main())
"""


def environ(**variables: str) -> dict[str, str]:
    """This environment without what would change how the kernel is built or found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERNEL_", "PYTHONPATH"))}
    return kept | variables


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environ(**variables))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def build(directory: Path, *sources: Path, **variables: str) -> list[Path]:
    """The wheels that pip builds from source trees. What they need for that is in this environment: the time that pip
    takes to make one for each is most of such a test."""
    directory.mkdir(exist_ok=True)
    flags = ("--no-deps", "--no-build-isolation", "-q", "-w", directory)
    run(sys.executable, "-m", "pip", "wheel", *flags, *sources, cwd=directory, **variables)
    return sorted(directory.glob("*.whl"))


class Place:
    """An empty virtual environment, and a directory to run its commands from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "venv" / "bin"
        run(sys.executable, "-m", "venv", "--without-pip", directory / "venv", cwd=directory)

    def install(self, *wheels: Path) -> None:
        run(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "-q", *wheels, cwd=self.directory)

    def kernel(self, *arguments: str) -> str:
        return run(self.bin / "kernel", *arguments, cwd=self.directory)

    def python(self, script: str, *arguments: str) -> str:
        return run(self.bin / "python", "-c", script, *arguments, cwd=self.directory)

    def serve(self, *arguments: str) -> ServerProcess:
        return ServerProcess(self.bin / "kernel", arguments, environ(), self.directory)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [wheel] = build(tmp_path_factory.mktemp("wheel"), ROOT, KERNEL_REQUIRE_EXT="1")
    return wheel


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the wheel with the C engine is installed, and beside it everybody else's: the examples, what the page for
    authors builds up, and what `kernel plugins new` writes for each kind."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.install(wheel)
    for kind in KINDS:
        place.kernel("plugins", "new", f"my-{kind}", "--kind", kind, "-q")
    sources = [place.directory / f"my-{kind}" for kind in KINDS]
    examples = [path.parent for path in (ROOT / "examples").glob("*/src")]
    sources += [shutil.copytree(path, place.directory / path.name) for path in examples]  # setuptools builds in there
    place.install(*build(place.directory / "wheels", *sources, from_the_page(place.directory)))
    return place


def from_the_page(directory: Path) -> Path:
    """The distribution that docs/plugin-author.md builds up, typed in as it stands there."""
    page = "docs/plugin-author.md"
    source = directory / "kernel-shout"
    source.mkdir()
    (source / "pyproject.toml").write_text("".join(blocks(page, "toml")))
    (source / "kernel_shout.py").write_text("".join(blocks(page, "python")))
    return source


def echo_over(place: Place, endpoint: str) -> None:
    server = place.serve("--plugin", "echo", "--listen", endpoint)
    try:
        place.python(ECHO, server.endpoints[0])
    finally:
        server.end()


def test_the_wheel_serves_every_cpython_from_3_11_on(wheel: Path):
    assert "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "kernel/_framing.abi3.so",
        "kernel/py.typed",
        "kernel/transports/tcp.py",
        "kernel/plugins/echo/__init__.py",
    } <= {*names}
    assert [name for name in names if not name.startswith(("kernel/", "transport_kernel-"))] == []
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_serves_echo_with_the_c_engine(place: Place):
    assert "framing engine: c," in place.kernel("--version")
    echo_over(place, "tcp://127.0.0.1:0")
    echo_over(place, f"unix:{place.directory}/k.sock")


def test_without_a_compiler_an_honest_pure_wheel_is_built_and_serves_alone(tmp_path: Path):
    [pure] = build(tmp_path / "wheels", ROOT, CC="/bin/false")
    assert pure.name.endswith("-py3-none-any.whl")
    assert [name for name in zipfile.ZipFile(pure).namelist() if name.endswith(".so")] == []

    place = Place(tmp_path)
    place.install(pure)

    assert "framing engine: python," in place.kernel("--version")
    echo_over(place, "tcp://127.0.0.1:0")


def test_where_the_c_engine_is_required_a_failed_build_is_an_error(tmp_path: Path):
    with pytest.raises(AssertionError, match="CMake configuration failed"):
        build(tmp_path, ROOT, CC="/bin/false", KERNEL_REQUIRE_EXT="1")


@contextmanager
def serving(place: Place, *arguments: str) -> Iterator[ServerProcess]:
    server = place.serve(*arguments)
    try:
        yield server
    finally:
        server.end()


def test_what_the_page_builds_up_is_found_and_served(place: Place):
    assert "service    shout         kernel-shout      0.1.0\n" in place.kernel("plugins", "list")
    with serving(place, "--plugin", "shout?mark=!", "--plugin", "echo", "--listen", "tcp://127.0.0.1:0") as server:
        assert f"      kernel shout {server.endpoints[0]}\n" in server.output
        assert place.kernel("shout", server.endpoints[0], "hello") == "HELLO!\n"


def test_what_is_begun_by_new_is_checked_served_and_called(place: Place):
    """A transport, a framing and a service, all three in one conversation."""
    for kind in KINDS:
        place.kernel("plugins", "check", f"my-{kind}", "--kind", kind, "-q")
    listen = ("--listen", "my-transport://127.0.0.1:0", "--listen", "my-transport://127.0.0.1:0?framing=my-framing")
    with serving(place, "--plugin", "my-service?mark=!", *listen) as server:
        assert place.kernel("my-service", server.endpoints[0], "hello") == "HELLO!\n"
        framed = ("echo", "--expect", "any", "-q", server.endpoints[1], "hello")
        assert place.kernel(*framed) == "HELLO!\n"


def test_an_example_brings_a_service_and_a_transport_that_are_found_and_used(place: Place):
    endpoint = f"abstract://hello-{os.getpid()}"
    with serving(place, "--plugin", "hello?greeting=Moin", "--listen", endpoint) as server:
        assert f"      kernel echo --service hello --expect any {endpoint} Ada\n" in server.output
        assert place.kernel("echo", "--service", "hello", "--expect", "any", "-q", endpoint, "Ada") == "Moin, Ada!\n"


BROWSER = """
import json, sys
from urllib.request import urlopen
from websockets.sync.client import connect
echo, chat = sys.argv[1:]
assert "new WebSocket(" in urlopen(echo.replace("ws:", "http:")).read().decode()
with connect(echo) as socket:
    socket.send("stra\u00dfe")
    assert socket.recv(30) == "stra\u00dfe"
with connect(chat) as socket:
    socket.send(json.dumps({"type": "hello", "nick": "ada"}))
    assert json.loads(socket.recv(30))["nick"] == "ada"
    socket.send(json.dumps({"type": "join", "room": "lobby"}))
    while json.loads(socket.recv(30))["type"] != "room": pass
    socket.send(json.dumps({"type": "say", "room": "lobby", "text": "hello"}))
    while (told := json.loads(socket.recv(30)))["type"] != "said": pass
    assert (told["nick"], told["text"]) == ("ada", "hello")
"""


def test_a_browsers_page_talks_to_echo_and_to_chat_by_an_example(place: Place):
    chat = f"chat?store={place.directory}/chat.db"
    listen = [f"ws://127.0.0.1:0?framing=raw&service={service}" for service in ("echo", "chat")]
    flags = [flag for endpoint in listen for flag in ("--listen", endpoint)]
    with serving(place, "--plugin", "echo", "--plugin", chat, *flags) as server:
        place.python(BROWSER, *(endpoint.partition("?")[0] for endpoint in server.endpoints))


def test_an_example_keeps_values(place: Place):
    with serving(place, "--plugin", "kv", "--listen", "tcp://127.0.0.1:0") as server:
        assert place.kernel("kv", server.endpoints[0], "set", "colour", "light blue") == ""
        assert place.kernel("kv", server.endpoints[0], "get", "colour") == "light blue\n"


def test_an_example_serves_the_tutorials_clients(place: Place):
    with serving(place, "--plugin", "talk?answer=upper", "--listen", "tcp://127.0.0.1:0?dialect=q") as server:
        host, port = server.endpoints[0].removeprefix("tcp://").partition("?")[0].split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as client:
            for said, answered in ((b"hello", b"HELLO"), (b"q", b"q"), (b"", b"")):
                client.send(said)
                assert client.recv(1024) == answered


def test_with_all_of_them_there_is_nothing_for_the_doctor_to_find(place: Place):
    assert "problem" not in place.kernel("doctor", "-q")
