"""examples/kv-service: what it keeps, what it refuses, and the kit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from third_party.examples import install_example

from kernel import Channel, Server, connect
from kernel.cli import root
from kernel.registry import Registry
from kernel.testing import ServiceSuite

GUARD_SECONDS = 30


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return install_example("kv-service", tmp_path / "site", monkeypatch)


class TestStore(ServiceSuite):
    service = "kv"
    messages = (b"set key value", b"get key")

    async def talk(self, channel: Channel) -> None:
        channel.send_many([b"set colour light blue", b"get colour", b"get nothing", b"keys col"])
        answers = [await channel.receive() for _ in range(4)]
        assert answers == [b"ok", b"ok light blue", b"none", b"ok colour"]


async def ask(*requests: bytes, options: str = "", listen: str = "sim://kv") -> list[bytes]:
    async with (
        asyncio.timeout(GUARD_SECONDS),
        Server([f"kv?{options}"], [listen]) as server,
        connect(server.endpoints[0], "kv") as channel,
    ):
        channel.send_many(list(requests))
        channel.finish()
        return [answer async for answer in channel]


async def test_what_was_set_is_there_until_it_is_deleted():
    answers = await ask(b"set k \xff\x00 v", b"get k", b"delete k", b"get k", b"delete k", b"keys", b"set k ", b"get k")
    assert answers == [b"ok", b"ok \xff\x00 v", b"ok", b"none", b"none", b"none", b"ok", b"ok "]


@pytest.mark.parametrize("request_", [b"", b"sing", b"get", b"get ", b"set", b"set  v", b"get " + b"k" * 251])
async def test_what_is_no_request_is_refused(request_: bytes):
    [answer] = await ask(request_)
    assert answer.startswith(b"error ")


async def test_it_is_never_fuller_than_it_may():
    requests = [b"set k 1234567", b"set l 1", b"set k 12345", b"set l 1", b"delete k", b"set l 1234567"]
    answers = await ask(*requests, options="values_bytes_max=8")
    assert [answer.partition(b" ")[0] for answer in answers] == [b"ok", b"error", b"ok", b"ok", b"ok", b"ok"]


async def test_a_list_of_keys_has_an_end():
    answers = await ask(*(b"set %0250d v" % number for number in range(200)), b"keys", b"keys " + b"0" * 248)
    assert answers[-2].endswith(b" ...")
    assert len(answers[-2]) < 33_000
    assert len(answers[-1].split()) == 101


async def test_typed_by_hand_it_is_the_same():
    async with asyncio.timeout(GUARD_SECONDS), Server(["kv"], ["tcp://127.0.0.1:0?dialect=typed"]) as server:
        reader, writer = await asyncio.open_connection(*server.endpoints[0].host_port())
        writer.write(b"set a b\r\nget a\n")
        assert await reader.readuntil(b"ok b\n") == b"ok\nok b\n"
        writer.close()


async def test_the_command_prints_values_and_tells_by_its_exit_code(capfd: pytest.CaptureFixture[str]):
    async with asyncio.timeout(GUARD_SECONDS), Server(["kv"], ["tcp://127.0.0.1:0"]) as server:
        at = str(server.endpoints[0])
        for request, code, out, err in (
            ("set colour blue", 0, "", ""),
            ("get colour", 0, "blue\n", ""),
            ("get color", 1, "", "there is none\n"),
            ("got color", 1, "", "write set KEY VALUE, get KEY, delete KEY or keys [PREFIX]\n"),
        ):
            assert await asyncio.to_thread(root.run, ["kv", at, *request.split()]) == code
            assert capfd.readouterr() == (out, err)
