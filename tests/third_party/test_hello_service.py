"""examples/hello-service as the kernel finds it: by its metadata alone, its transport no worse than ours.

That pip installs it is tried in test_packaging.py; here its pyproject.toml stands for what pip would write.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from distributions import install

from kernel import Code, DialError, OptionError, Server, StartError, connect
from kernel.registry import Registry
from kernel.testing import TransportSuite

SOURCE = Path(__file__).parents[2] / "examples" / "hello-service"
GUARD_SECONDS = 20
_numbers = count()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The built-in plugins and those of hello-service."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    install(tmp_path, project["name"], project["version"], project["entry-points"], {})
    monkeypatch.syspath_prepend(SOURCE / "src")
    monkeypatch.syspath_prepend(tmp_path)
    return Registry()


@pytest.fixture
def endpoint() -> str:
    """A name of its own in the namespace that all processes share."""
    return f"abstract://kernel-test-{os.getpid()}-{next(_numbers)}"


@asynccontextmanager
async def serving(registry: Registry, plugin: str, *listen: str) -> AsyncIterator[Server]:
    async with asyncio.timeout(GUARD_SECONDS), Server([plugin], listen, registry=registry) as server:
        yield server


async def test_both_plugins_are_found_and_work_together(registry: Registry, endpoint: str):
    async with serving(registry, "hello?greeting=Moin", endpoint) as server:
        assert str(server.endpoints[0]) == endpoint
        async with connect(endpoint, "hello", registry=registry) as channel:
            channel.send(b"Ada")
            assert await channel.receive() == b"Moin, Ada!"


async def test_its_service_runs_over_our_transports(registry: Registry, tmp_path: Path):
    async with serving(registry, "hello", "tcp://127.0.0.1:0", f"unix:{tmp_path}/hello.sock") as server:
        for endpoint in server.endpoints:
            async with connect(endpoint, "hello", registry=registry) as channel:
                channel.send(b"Ada")
                assert await channel.receive() == b"Hello, Ada!"


async def test_our_service_runs_over_its_transport(registry: Registry, endpoint: str):
    message = os.urandom(3_000_000)
    async with serving(registry, "echo", endpoint), connect(endpoint, "echo", registry=registry) as channel:
        channel.send(message)
        channel.finish()
        assert [answer async for answer in channel] == [message]


async def test_plain_framings_and_half_close_work_too(registry: Registry, endpoint: str):
    endpoint += "?framing=line"
    async with serving(registry, "echo", endpoint), connect(endpoint, registry=registry) as channel:
        channel.send_many([b"one", b"two"])
        channel.finish()
        assert [line async for line in channel] == [b"one", b"two"]


async def test_a_peer_that_does_not_read_is_not_read_from(registry: Registry, endpoint: str):
    async with serving(registry, "echo?mode=generate&size_bytes=64KiB", f"{endpoint}?framing=raw") as server:
        reader, writer = await asyncio.open_unix_connection("\0" + endpoint.removeprefix("abstract://"))
        await reader.readexactly(5_000_000)
        (channel,) = server.channels
        assert channel.buffered_bytes <= 512 * 1024
        writer.close()


async def test_a_server_that_goes_is_noticed(registry: Registry, endpoint: str):
    async with serving(registry, "echo", endpoint) as server, connect(endpoint, "echo", registry=registry) as channel:
        await server.stop()
        await channel.wait_closed()
        assert channel.code is Code.SHUTTING_DOWN


async def test_what_is_wrong_is_said_in_one_line(registry: Registry, endpoint: str):
    with pytest.raises(OptionError, match="did you mean 'greeting'"):
        await Server(["hello?greting=Moin"], [endpoint], registry=registry).start()
    with pytest.raises(DialError, match="start the server"):
        await connect(endpoint, "echo", registry=registry)
    async with serving(registry, "echo", endpoint):
        with pytest.raises(StartError, match="take another name"):
            await Server(["echo"], [endpoint], registry=registry).start()


class TestTransport(TransportSuite):
    """The example's transport, held to what every transport is held to."""

    endpoint = "abstract://{unique}"

    @pytest.fixture(autouse=True)
    def installed(self, registry: Registry) -> None:
        """Every registry that is made meanwhile finds the example."""
