"""What is published: the wheel with the C engine, the pure wheel where there is no compiler, and a third party's wheel.

Each is installed into an empty virtual environment and used from there, away from this checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from documents import ROOT, blocks
from server_process import ServerProcess

pytestmark = pytest.mark.packaging

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


def build(source: Path, directory: Path, **variables: str) -> Path:
    """The one wheel that pip builds from a source tree."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", directory, source, cwd=directory, **variables)
    [wheel] = directory.glob("*.whl")
    return wheel


class Place:
    """An empty virtual environment, and a directory to run its commands from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "venv" / "bin"
        run(sys.executable, "-m", "venv", "--without-pip", directory / "venv", cwd=directory)

    def install(self, wheel: Path) -> None:
        run(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "-q", wheel, cwd=self.directory)

    def kernel(self, *arguments: str) -> str:
        return run(self.bin / "kernel", *arguments, cwd=self.directory)

    def python(self, script: str, *arguments: str) -> str:
        return run(self.bin / "python", "-c", script, *arguments, cwd=self.directory)

    def serve(self, *arguments: str) -> ServerProcess:
        return ServerProcess(self.bin / "kernel", arguments, environ(), self.directory)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), KERNEL_REQUIRE_EXT="1")


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the wheel with the C engine is installed, with nothing but what it depends on."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.install(wheel)
    return place


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


def test_the_wheel_alone_serves_echo_with_the_c_engine(place: Place):
    assert "framing engine: c," in place.kernel("--version")
    echo_over(place, "tcp://127.0.0.1:0")
    echo_over(place, f"unix:{place.directory}/k.sock")


def test_without_a_compiler_an_honest_pure_wheel_is_built_and_serves(tmp_path: Path):
    pure = build(ROOT, tmp_path, CC="/bin/false")
    assert pure.name.endswith("-py3-none-any.whl")
    assert [name for name in zipfile.ZipFile(pure).namelist() if name.endswith(".so")] == []

    place = Place(tmp_path)
    place.install(pure)

    assert "framing engine: python," in place.kernel("--version")
    echo_over(place, "tcp://127.0.0.1:0")


def test_where_the_c_engine_is_required_a_failed_build_is_an_error(tmp_path: Path):
    with pytest.raises(AssertionError, match="CMake configuration failed"):
        build(ROOT, tmp_path, CC="/bin/false", KERNEL_REQUIRE_EXT="1")


@pytest.fixture
def third_party(tmp_path: Path) -> Path:
    """The distribution that docs/plugin-author.md builds up, typed in as it stands there."""
    page = "docs/plugin-author.md"
    source = tmp_path / "kernel-shout"
    source.mkdir()
    (source / "pyproject.toml").write_text("".join(blocks(page, "toml")))
    (source / "kernel_shout.py").write_text("".join(blocks(page, "python")))
    return build(source, tmp_path)


def test_a_third_partys_distribution_is_installed_with_pip_and_served(place: Place, third_party: Path):
    place.install(third_party)

    assert "service    shout   kernel-shout      0.1.0\n" in place.kernel("plugins", "list")
    server = place.serve("--plugin", "shout?mark=!", "--plugin", "echo", "--listen", "tcp://127.0.0.1:0")
    try:
        assert f"      kernel shout {server.endpoints[0]}\n" in server.output
        assert place.kernel("shout", server.endpoints[0], "hello") == "HELLO!\n"
    finally:
        server.end()


def test_an_example_brings_a_service_and_a_transport_that_are_found_and_used(place: Place, tmp_path: Path):
    place.install(build(ROOT / "examples" / "hello-service", tmp_path))

    endpoint = f"abstract://hello-{os.getpid()}"
    server = place.serve("--plugin", "hello?greeting=Moin", "--listen", endpoint)
    try:
        assert f"      kernel echo --service hello --expect any {endpoint} Ada\n" in server.output
        assert place.kernel("echo", "--service", "hello", "--expect", "any", "-q", endpoint, "Ada") == "Moin, Ada!\n"
    finally:
        server.end()
