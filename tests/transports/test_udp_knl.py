"""The udp transport with `framing=knl` on real sockets: the gate at the door, and conversations through the kernel."""

import asyncio
import logging
import random

import pytest
from udp_peers import TIMEOUT_SECONDS, Peers, Plain, Recorder, dial, eventually, listening

import kernel
from kernel import Code, DialError, Limits, Needs, NeedsCapability, Refused, Server, Service
from kernel.datagram import packets
from kernel.datagram.packets import Hello, Kind
from kernel.framing import knl
from kernel.transports.udp import UdpListener

KNL = "udp://127.0.0.1:0"
RAW = "udp://127.0.0.1:0?framing=raw"
HELLO = Hello("echo", 1 << 20, 1200, 1 << 17).pack()
FROM_SERVER = knl.FROM_SERVER


async def take_cookie(plain: Plain, connection: int) -> bytes:
    reply = await plain.ask(packets.init(connection))
    assert reply[3] == Kind.COOKIE | FROM_SERVER
    return reply[knl.PACKET_HEADER_BYTES :]


async def enter(plain: Plain, connection: int) -> bytes:
    """Go through the handshake as far as the gate; returns the CONNECT that it has let in."""
    connect = packets.control(Kind.CONNECT, connection, await take_cookie(plain, connection) + HELLO)
    plain.socket.send(connect)
    return connect


# --- the gate --------------------------------------------------------------------------------------------------


async def test_the_session_gets_the_connect_that_the_gate_has_let_in():
    peers = Peers()
    async with listening(KNL, peers) as listener:
        with Plain(listener.endpoint) as plain:
            connect = await enter(plain, 7)
            recorder = await peers.until(1)
            assert recorder.messages == [connect]
            assert listener.gate.counters.admitted == 1


async def test_strangers_leave_nothing_behind():
    peers = Peers()
    async with listening(KNL, peers) as listener:
        with Plain(listener.endpoint) as plain:
            for datagram in (b"", b"hello", bytes(100), b"KU", packets.control(Kind.DATA | FROM_SERVER, 1, bytes(50))):
                plain.socket.send(datagram)
            await take_cookie(plain, 7)  # the answer to the first packet that deserves one
            assert plain.is_silent()
        counters = listener.gate.counters
        assert (counters.empty, counters.foreign, counters.own_direction, counters.cookies) == (1, 3, 1, 1)
        assert not len(listener._peers)
        assert peers.all == []


async def test_a_cookie_is_good_for_its_own_port_only():
    peers = Peers()
    async with listening(KNL, peers) as listener:
        with Plain(listener.endpoint) as one, Plain(listener.endpoint) as other:
            cookie = await take_cookie(one, 7)
            stolen = await other.ask(packets.control(Kind.CONNECT, 7, cookie + HELLO))
            assert stolen[3] == Kind.COOKIE | FROM_SERVER
            assert peers.all == []


async def test_connections_of_one_source_are_told_apart_by_their_ids():
    peers = Peers()
    async with listening(KNL, peers) as listener:
        with Plain(listener.endpoint) as plain:
            await enter(plain, 7)
            await enter(plain, 8)
            recorder = await peers.until(2)
            plain.socket.send(packets.control(Kind.PING, 8, b"eight"))
            await recorder.until(lambda: len(recorder.messages) == 2)
            assert len(peers.all[0].messages) == 1


async def test_a_closed_connection_is_explained_and_stays_closed():
    peers = Peers()
    async with listening(KNL, peers) as listener:
        with Plain(listener.endpoint) as plain:
            connect = await enter(plain, 7)
            recorder = await peers.until(1)
            farewell = packets.control(Kind.CLOSE | FROM_SERVER, 7, packets.pack_reason(Code.FORBIDDEN, "not you"))
            recorder.connection.write([farewell])
            recorder.connection.close()
            assert await plain.receive() == farewell
            assert await plain.ask(connect) == farewell
            short = packets.control(Kind.PING, 7, bytes(3))
            assert await plain.ask(short) == farewell[:16] + bytes([0, 0, 0, 1, 0, 0, 0, 2]) + farewell[24:26]
            assert len(peers.all) == 1


async def test_who_is_turned_away_by_a_full_server_is_told_so():
    async with listening(KNL, Peers()) as listener:
        listener._accept = lambda connection: connection.abort()
        with Plain(listener.endpoint) as plain:
            await enter(plain, 7)
            reply = await plain.receive()
            assert packets.unpack_reason(reply[knl.PACKET_HEADER_BYTES :])[0] is Code.OVERLOADED


@pytest.mark.parametrize("kind", [*Kind, *(kind | FROM_SERVER for kind in Kind), 0, 0x7F])
@pytest.mark.parametrize("size", [0, 16, 72, 600])
async def test_a_forged_packet_makes_two_servers_exchange_two_datagrams_at_most(kind: int, size: int):
    async with listening(KNL, Peers()) as a, listening(KNL, Peers()) as b:
        a._datagrams.send([packets.control(kind, 7, bytes(size))], b.endpoint.host_port(), None)
        for listener in (b, a, b, a):  # all that came before is handled once this is answered
            with Plain(listener.endpoint) as plain:
                await take_cookie(plain, 8)
        assert total(b) == 1
        assert total(a) <= 1


def total(listener: UdpListener) -> int:
    """What came to the gate, but for our own two questions."""
    counters = listener.gate.counters
    return sum(getattr(counters, name) for name in counters.__slots__) - 2


# --- through the kernel ----------------------------------------------------------------------------------------


class Shy(Service):
    """Finishes after one message; needs nothing."""

    name = "shy"

    async def serve(self, channel: kernel.Channel) -> None:
        async for message in channel:
            channel.send(message[::-1])
            return


class Picky(Service):
    name = "picky"
    needs = Needs(reliable=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("size", [0, 1, 1176, 1177, 60_000, 1 << 20])
async def test_messages_are_echoed_whole(host: str, size: int):
    message = random.Random(size).randbytes(size)
    async with Server(["echo"], [f"udp://{host}:0"]) as server:
        async with kernel.connect(server.endpoints[0], "echo") as channel:
            channel.send(message)
            assert await channel.receive() == message
        assert (channel.code, channel.reason) == (Code.OK, "")


async def test_a_plain_socket_talks_to_a_raw_listener():
    async with Server(["echo?mode=upper"], [RAW]) as server:
        with Plain(server.endpoints[0]) as plain:
            assert await plain.ask(b"hello") == b"HELLO"
            assert await plain.ask(b"") == b""
            assert await plain.ask(b"exit\n") == b"EXIT\n"
            assert await plain.ask(b"\xff\xfe") == b"\xff\xfe"
        async with kernel.connect(server.endpoints[0]) as channel:
            channel.send(b"x" * 65_507)
            assert await channel.receive() == b"X" * 65_507


async def test_a_handler_knows_its_channel_before_open_returns():
    opened: list[kernel.Channel] = []

    class Handler(kernel.ChannelHandler):
        def opened(self, channel: kernel.Channel) -> None:
            opened.append(channel)

    async with Server(["echo"], [KNL, RAW]) as server:
        for endpoint in server.endpoints:
            async with kernel.dial(endpoint) as client:
                channel = await client.open("echo", handler=Handler())
                assert opened == [channel]
                opened.clear()


async def test_many_clients_at_once_lose_nothing_on_the_loopback():
    async def talk(number: int) -> None:
        rng = random.Random(number)
        async with kernel.connect(server.endpoints[0], "echo") as channel:
            for _ in range(20):
                message = rng.randbytes(rng.randrange(20_000))
                channel.send(message)
                assert await channel.receive() == message

    async with Server(["echo"], [KNL]) as server, asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.gather(*(talk(number) for number in range(30)))


async def test_a_service_may_end_the_conversation():
    async with Server([Shy({}, None)], [KNL]) as server:  # type: ignore[arg-type]
        channel = await kernel.connect(server.endpoints[0], "shy")
        channel.send(b"abc")
        assert await channel.receive() == b"cba"
        assert await channel.receive() is None


async def test_refusals_reach_the_client():
    async with Server(["echo"], [KNL]) as server:
        with pytest.raises(Refused, match="there is no service 'chess' here, but echo"):
            await kernel.connect(server.endpoints[0], "chess")


async def test_a_service_that_needs_more_is_not_served_over_datagrams():
    server = Server([Picky({}, None)], [KNL])  # type: ignore[arg-type]
    with pytest.raises(NeedsCapability, match=r"needs delivery of every message, which udp:.* does not give"):
        await server.start()


async def test_a_full_server_says_so():
    async with Server(["echo"], [KNL], limits=Limits(connections_max=1)) as server:
        channel = await kernel.connect(server.endpoints[0], "echo")
        with pytest.raises(Refused, match="overloaded: the server takes no more connections"):
            await kernel.connect(server.endpoints[0], "echo")
        channel.close()
        await channel.wait_closed()


async def test_a_stopped_server_says_goodbye():
    async with Server(["echo"], [KNL]) as server:
        channel = await kernel.connect(server.endpoints[0], "echo")
        await server.stop()
        await channel.wait_closed()
        assert channel.code is Code.SHUTTING_DOWN


async def test_a_draining_server_lets_conversations_finish_and_refuses_new_ones():
    async with Server(["echo"], [KNL]) as server:
        channel = await kernel.connect(server.endpoints[0], "echo")
        draining = asyncio.create_task(server.drain(TIMEOUT_SECONDS))
        await asyncio.sleep(0)
        with pytest.raises(DialError, match="the server is shutting down"):
            await kernel.connect(server.endpoints[0], "echo")
        channel.send(b"still here")
        assert await channel.receive() == b"still here"
        channel.close()
        await channel.wait_closed()
        await draining


async def test_a_raw_client_does_not_hold_up_a_drain():
    async with Server(["echo"], [RAW]) as server:
        with Plain(server.endpoints[0]) as plain:
            await plain.ask(b"hello")
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await server.drain(10 * TIMEOUT_SECONDS)


async def test_a_server_that_speaks_raw_is_recognised():
    async with Server(["echo"], [RAW]) as server:
        with pytest.raises(DialError, match=r"it listens with framing=raw"):
            await kernel.connect(server.endpoints[0].without_options(), "echo")


async def test_the_end_of_a_conversation_is_logged_as_such(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "kernel.server")
    async with Server(["echo"], [KNL]) as server:
        async with kernel.connect(server.endpoints[0], "echo") as channel:
            channel.send(b"x")
            await channel.receive()
        await eventually(lambda: any(getattr(record, "code", "") == "ok" for record in caplog.records))


async def test_longer_packets_carry_more_at_a_time():
    peers = Peers()
    async with listening(KNL + "?packet_bytes_max=60000", peers) as listener:
        connection = await dial(f"{listener.endpoint}")
        assert connection.packet_bytes_max == 60_000
        recorder = Recorder(connection)
        connection.write([bytes(60_000)])
        connection.abort()
        assert await recorder.lost is None
