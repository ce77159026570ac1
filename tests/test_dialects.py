"""Dialects: a listener asks for one by name, is bound to the service that speaks it, and gets its framing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from kernel import Channel, Dialect, Needs, NeedsCapability, OptionError, Server, Service, connect
from kernel.errors import UsageError

COUNTED: Mapping[str, str] = {"recv": "raw", "send": "length", "width": "4", "endian": "little", "signed": "1"}


class Shout(Service):
    name = "shout"
    needs = Needs(reliable=True)
    dialects = {  # noqa: RUF012
        "typed": Dialect({"framing": "line"}, "lines of text"),
        "counted": Dialect(COUNTED, "a command in, a length and the answer out"),
        "lossy": Dialect({"framing": "raw"}, "datagrams", Needs()),
        "exact": Dialect({"framing": "raw"}, "datagrams, none of them lost"),
    }

    def on_message(self, channel: Channel, message: bytes) -> None:
        channel.send(channel.dialect.encode() + b":" + message.upper())


class Other(Shout):
    name = "other"
    dialects = {"typed": Dialect({"framing": "raw"})}  # noqa: RUF012


async def said(endpoint: str, sent: bytes, *, plugins: tuple[type[Service], ...] = (Shout,)) -> bytes:
    """What a bare socket gets back."""
    async with Server(plugins, [endpoint]) as server:
        host, port = server.endpoints[0].host_port()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(sent)
        writer.write_eof()
        heard = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()
        return heard


async def test_the_listener_speaks_the_dialect_and_the_service_knows():
    assert await said("tcp://127.0.0.1:0?dialect=typed", b"one\ntwo\n") == b"typed:ONE\ntyped:TWO\n"


async def test_receiving_and_sending_may_differ():
    assert await said("tcp://127.0.0.1:0?dialect=counted", b"ls") == b"\x0a\x00\x00\x00counted:LS"


async def test_of_several_services_the_one_that_speaks_it_is_bound():
    plugins = (Shout, Other)
    assert await said("tcp://127.0.0.1:0?dialect=counted", b"x", plugins=plugins) == b"\x09\x00\x00\x00counted:X"
    assert await said("tcp://127.0.0.1:0?dialect=typed&service=other", b"x", plugins=plugins) == b"typed:X"


async def test_elsewhere_there_is_no_dialect():
    async with Server([Shout], ["tcp://127.0.0.1:0"]) as server, connect(server.endpoints[0], "shout") as channel:
        channel.send(b"hello")
        assert await channel.receive() == b":HELLO"


async def test_new_limits_leave_the_dialect_as_it_is():
    async with Server([Shout, Other], ["tcp://127.0.0.1:0?dialect=counted"]) as server:
        server.set_limits(server.limits)
        [(_, wiring)] = server.listening
        assert (wiring.dialect, wiring.service, wiring.framing) == ("counted", "shout", "raw/length")


async def test_its_own_needs_count():
    async with Server([Shout], ["udp://127.0.0.1:0?dialect=lossy"]):
        pass
    with pytest.raises(NeedsCapability, match="needs delivery of every message"):
        await Server([Shout], ["udp://127.0.0.1:0?dialect=exact"]).start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("dialect=tiped", "the plugins have no dialect 'tiped': did you mean 'typed'?"),
        ("dialect=morse", "no dialect 'morse': there is counted, exact, lossy, typed"),
        ("dialect=counted&service=other", "the service 'other' has no dialect 'counted'"),
        ("dialect=typed", "shout and other speak 'typed': add service=NAME"),
        ("dialect=counted&framing=line", "the dialect settles the framing: leave framing=line out"),
        ("dialect=counted&width=2", "the dialect settles the framing: leave width=2 out"),
    ],
)
async def test_what_cannot_be_is_said_in_one_line(options: str, message: str):
    with pytest.raises(OptionError) as raised:
        await Server([Shout, Other], [f"tcp://127.0.0.1:0?{options}"]).start()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_client_is_told_that_dialects_are_for_listeners():
    with pytest.raises(UsageError, match="dialect= is for listeners"):
        async with connect("tcp://127.0.0.1:1?dialect=typed", "shout"):
            pass
