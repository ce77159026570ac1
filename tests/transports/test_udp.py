"""The udp transport on real sockets, without the kernel's sessions: `framing=raw`, and what both framings share."""

import asyncio
import errno
import socket

import pytest
from udp_peers import Peers, Plain, Recorder, dial, echo, eventually, listening, make_udp

from kernel import DialError, EndpointError, Limits, OptionError, StartError, format_host_port
from kernel.batches import BATCH
from kernel.transports import datagrams, udp


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
HOSTS = ["127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)]


# --- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 9000, 65_507])
async def test_a_datagram_of_any_size_is_a_message(host: str, size: int):
    datagram = bytes(n % 251 for n in range(size))
    async with listening(f"udp://{host}:0?framing=raw", Peers(echo)) as listener:
        with Plain(listener.endpoint) as plain:
            assert await plain.ask(datagram) == datagram


@pytest.mark.parametrize("host", HOSTS)
async def test_the_bound_endpoint_can_be_dialled(host: str):
    async with listening(f"udp://{host}:0?framing=raw", Peers(echo)) as listener:
        assert listener.endpoint.host_port()[1] > 0
        assert listener.endpoint.options == {"framing": "raw"}
        connection = await dial(listener.endpoint)
        recorder = Recorder(connection)
        assert connection.peer == listener.endpoint.address
        connection.write([b"one", b"", b"three"])
        await recorder.until(lambda: len(recorder.messages) == 3)
        assert recorder.messages == [b"one", b"", b"three"]
        connection.close()
        assert await recorder.lost is None


async def test_each_source_is_a_connection_of_its_own():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as one, Plain(listener.endpoint) as other:
            assert await one.ask(b"1") == b"1"
            assert await other.ask(b"2") == b"2"
            assert await one.ask(b"3") == b"3"
            assert [recorder.messages for recorder in peers.all] == [[b"1", b"3"], [b"2"]]
            names = [format_host_port(*plain.socket.getsockname()) for plain in (one, other)]
            assert [recorder.connection.peer for recorder in peers.all] == names
            assert peers.all[0].connection.local == listener.endpoint.address


async def test_what_one_source_sent_in_a_row_comes_in_one_call():
    peers = Peers()
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as one, Plain(listener.endpoint) as other:
            for plain, datagram in ((one, b"1"), (one, b"2"), (other, b"3"), (other, b""), (one, b"4")):
                plain.socket.send(datagram)
            await (await peers.until(2)).until(lambda: bool(peers.all[0].batches[1:]))
            assert peers.all[0].batches == [[b"1", b"2"], [b"4"]]
            assert peers.all[1].batches == [[b"3", b""]]


async def test_a_flood_of_empty_datagrams_leaves_the_loop_its_turns():
    turns = 0
    turns_at_batch: list[int] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        if len(recorder.messages) < 1000:
            asyncio.get_running_loop().call_soon(turn)

    peers = Peers(lambda recorder, messages: turns_at_batch.append(turns))
    async with listening("udp://127.0.0.1:0?framing=raw&receive_buffer_bytes=4MiB", peers) as listener:
        with Plain(listener.endpoint) as plain:
            plain.socket.send(b"")
            recorder = await peers.until(1)
            for _ in range(999):
                plain.socket.send(b"")
            turn()
            await recorder.until(lambda: len(recorder.messages) == 1000)
    assert max(map(len, recorder.batches)) <= BATCH
    assert len(set(turns_at_batch)) == len(turns_at_batch), "two batches without a turn for others between them"


@needs_ipv6
@pytest.mark.parametrize("dual_stack", [True, False])
async def test_an_ipv6_listener_takes_ipv4_only_when_asked(dual_stack: bool):
    async with listening(f"udp://[::]:0?framing=raw&reply_factor_max=0&dual_stack={dual_stack}", Peers(echo)) as six:
        four = f"udp://127.0.0.1:{six.endpoint.host_port()[1]}?framing=raw"
        recorder = Recorder(await dial(four))
        recorder.connection.write([b"four"])
        if dual_stack:
            await recorder.until(lambda: recorder.messages == [b"four"])
            recorder.connection.abort()
        else:
            assert isinstance(await recorder.lost, ConnectionRefusedError)


# --- the table of peers ----------------------------------------------------------------------------------------


async def test_the_peer_silent_longest_makes_room():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw&peers_max=2", peers) as listener:
        with Plain(listener.endpoint) as a, Plain(listener.endpoint) as b, Plain(listener.endpoint) as c:
            for plain in (a, b, a, c):
                await plain.ask(b"?")
            assert isinstance(await peers.all[1].lost, ConnectionAbortedError)
            assert not peers.all[0].lost.done()
            await b.ask(b"again")
            assert len(peers.all) == 4, "who comes back is a new peer"


@pytest.mark.parametrize("limits", [Limits(datagram_peers_max=1), Limits(connections_max=3)])
async def test_the_limits_hold_where_no_option_says_less(limits: Limits):
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers, limits) as listener:
        with Plain(listener.endpoint) as a, Plain(listener.endpoint) as b:
            await a.ask(b"?")
            await b.ask(b"?")
            assert isinstance(await peers.all[0].lost, ConnectionAbortedError)


async def test_a_silent_source_is_forgotten():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw&idle_seconds_max=0.05", peers) as listener:
        with Plain(listener.endpoint) as plain:
            await plain.ask(b"?")
            assert await peers.all[0].lost is None
            await plain.ask(b"back")
            assert len(peers.all) == 2
            assert await peers.all[1].lost is None


async def test_a_paused_listener_takes_no_new_sources_and_serves_the_old_ones():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as old, Plain(listener.endpoint) as new:
            await old.ask(b"?")
            listener.pause()
            new.socket.send(b"?")
            assert await old.ask(b"still here") == b"still here"
            await eventually(lambda: listener.counters.turned_away == 1)
            listener.resume()
            assert await new.ask(b"now") == b"now"
            assert peers.all[1].messages == [b"now"]


async def test_a_connection_that_the_kernel_turns_away_leaves_nothing_behind():
    async with listening("udp://127.0.0.1:0?framing=raw", Peers()) as listener:
        listener._accept = lambda connection: connection.abort()
        with Plain(listener.endpoint) as plain:
            plain.socket.send(b"?")
            await eventually(lambda: listener._datagrams._on_batch is not None and not len(listener._peers))


async def test_an_acceptor_that_fails_leaves_nothing_behind():
    def fail(connection: object) -> None:
        raise RuntimeError("not today")

    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    async with listening("udp://127.0.0.1:0?framing=raw", Peers()) as listener:
        listener._accept = fail
        with Plain(listener.endpoint) as plain:
            plain.socket.send(b"?")
            await eventually(lambda: faults == ["not today"])
            assert not len(listener._peers)
    assert listener._datagrams._sock.fileno() == -1


async def test_what_comes_before_the_start_is_not_lost():
    accepted: list[udp.UdpConnection] = []
    async with listening("udp://127.0.0.1:0?framing=raw", Peers()) as listener:
        listener._accept = accepted.append
        with Plain(listener.endpoint) as plain:
            plain.socket.send(b"early")
            await eventually(lambda: bool(accepted))
            recorder = Recorder(accepted[0])
            await recorder.until(lambda: recorder.messages == [b"early"])
            accepted[0].abort()


# --- holding back ----------------------------------------------------------------------------------------------


async def test_what_comes_for_a_paused_peer_is_lost_and_counted():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as plain:
            await plain.ask(b"1")
            peers.all[0].connection.pause_reading()
            plain.socket.send(b"2")
            await eventually(lambda: listener.counters.paused == 1)
            peers.all[0].connection.resume_reading()
            assert await plain.ask(b"3") == b"3"
            assert peers.all[0].messages == [b"1", b"3"]


async def test_a_paused_client_leaves_its_datagrams_to_the_system():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        recorder = Recorder(await dial(listener.endpoint))
        recorder.connection.pause_reading()
        recorder.connection.write([b"1", b"2"])
        await (await peers.until(1)).until(lambda: len(peers.all[0].messages) == 2)
        assert recorder.messages == []
        recorder.connection.resume_reading()
        await recorder.until(lambda: recorder.messages == [b"1", b"2"])
        recorder.connection.close()


async def test_a_full_system_buffer_holds_the_writer_back_and_loses_nothing():
    """Datagrams of AF_UNIX wait for their reader, which those of UDP on the loopback never do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    packets = [n.to_bytes(2, "big") * 500 for n in range(500)]
    recorder = Recorder(make_connection(ours))
    recorder.connection.write(packets)
    assert recorder.connection.write_pending_bytes > 0
    recorder.connection.write([b"last"])
    loop = asyncio.get_running_loop()
    assert [await loop.sock_recv(theirs, 2000) for _ in range(501)] == [*packets, b"last"]
    await recorder.until(lambda: recorder.drained == 1)
    assert recorder.connection.write_pending_bytes == 0
    recorder.connection.close()
    assert await recorder.lost is None
    theirs.close()


async def test_the_queue_is_bounded_and_the_newest_datagrams_go():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    connection = make_connection(ours)
    recorder = Recorder(connection)
    connection.write([n.to_bytes(2, "big") * 1000 for n in range(5000)])
    counters = connection._datagrams.counters
    assert connection.write_pending_bytes <= datagrams._QUEUE_BYTES_MAX
    assert counters.send_dropped > 0
    loop = asyncio.get_running_loop()
    numbers = [(await loop.sock_recv(theirs, 3000))[:2] for _ in range(5000 - counters.send_dropped)]
    assert numbers == [n.to_bytes(2, "big") for n in range(len(numbers))]
    await recorder.until(lambda: recorder.drained == 1)
    connection.close()
    theirs.close()


async def test_close_waits_for_what_is_queued_and_abort_does_not():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    recorder = Recorder(make_connection(ours))
    recorder.connection.write([bytes(1000)] * 300)
    recorder.connection.close()
    recorder.connection.write([b"after the end"])
    loop = asyncio.get_running_loop()
    assert not recorder.lost.done()
    assert {await loop.sock_recv(theirs, 2000) for _ in range(300)} == {bytes(1000)}
    assert await recorder.lost is None
    theirs.close()


def make_connection(sock: socket.socket) -> datagrams.UdpConnection:
    shell = datagrams.DatagramSocket(sock, connected=True)
    return datagrams.UdpConnection(
        shell,
        None,
        local="here",
        peer="there",
        on_end=lambda ended: shell.close(),
        packet_bytes_max=1200,
        window_bytes=1 << 17,
        budget=datagrams.ReassemblyBudget(1000),
    )


async def test_the_window_follows_the_buffer_that_the_system_gave():
    for query, loopback, path in (("receive_buffer_bytes=4KiB", 32 << 10, 32 << 10), ("", 32 << 10, 32 << 10)):
        small, large = [], []
        for host, found in (("127.0.0.1", small), ("0.0.0.0", large)):
            async with listening(f"udp://{host}:0?framing=raw&{query}", Peers(echo)) as listener:
                found.append(listener._window_bytes)
        assert loopback <= small[0] <= 1 << 20
        assert path <= large[0] <= 128 << 10
        assert large[0] <= small[0]
    connection = await dial("udp://127.0.0.1:9?receive_buffer_bytes=4KiB")
    assert connection.window_bytes == 32 << 10
    connection.abort()


# --- what raw sources may do -----------------------------------------------------------------------------------


async def test_off_the_loopback_a_source_gets_no_more_than_it_sent():
    peers = Peers(lambda recorder, messages: recorder.connection.write([bytes(1000), b"ok"]))
    async with listening("udp://0.0.0.0:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as plain:
            assert await plain.ask(b"hello") == b"ok"
            assert listener.counters.unanswerable == 1
            assert await plain.ask(bytes(1000)) == bytes(1000)


async def test_the_factor_can_be_raised_and_does_not_hold_on_the_loopback():
    for endpoint in ("udp://0.0.0.0:0?framing=raw&reply_factor_max=0", "udp://127.0.0.1:0?framing=raw"):
        peers = Peers(lambda recorder, messages: recorder.connection.write([bytes(1000)]))
        async with listening(endpoint, peers) as listener:
            with Plain(listener.endpoint) as plain:
                assert await plain.ask(b"") == bytes(1000)


async def test_the_loop_of_two_raw_echo_servers_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(udp, "RAW_DATAGRAMS_MAX", 100)
    one, other = Peers(echo), Peers(echo)
    raw = "udp://127.0.0.1:0?framing=raw"
    async with listening(raw, one) as a, listening(raw, other) as b:
        a._datagrams.send([b"forged"], b.endpoint.host_port(), None)
        await eventually(lambda: a.counters.cut + b.counters.cut == 1)
        assert len(one.all[0].messages) + len(other.all[0].messages) == 200
        with Plain(a.endpoint) as plain:
            assert await plain.ask(b"others are served") == b"others are served"


# --- errors ----------------------------------------------------------------------------------------------------


async def test_nobody_listens():
    connection = await dial("udp://127.0.0.1:9?framing=raw")
    recorder = Recorder(connection)
    connection.write([b"?"])
    error = await recorder.lost
    assert isinstance(error, ConnectionRefusedError)
    assert error.strerror == "nobody listens on udp://127.0.0.1:9: check the port, or start the server"


async def test_in_knl_a_single_refusal_is_no_loss():
    connection = await dial("udp://127.0.0.1:9")
    recorder = Recorder(connection)
    counters = connection._datagrams.counters
    for refusals in (1, 2):
        connection.write([b"?"])
        await eventually(lambda refusals=refusals: counters.receive_failed + counters.send_failed == refusals)
        assert not recorder.lost.done()
    connection.write([b"?"])
    assert isinstance(await recorder.lost, ConnectionRefusedError)


async def test_a_listener_outlives_clients_that_are_gone():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as gone:
            gone.socket.send(b"?")
            gone.socket.close()
            recorder = await peers.until(1)
            for _ in range(10):
                recorder.connection.write([b"anybody?"])
        with Plain(listener.endpoint) as plain:
            assert await plain.ask(b"!") == b"!"
        assert not recorder.lost.done()


async def test_a_message_that_fits_no_datagram_ends_its_connection_alone():
    peers = Peers(echo)
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as a, Plain(listener.endpoint) as b:
            await a.ask(b"?")
            await b.ask(b"?")
            peers.all[0].connection.write([bytes(65_508)])
            error = await peers.all[0].lost
            assert isinstance(error, OSError)
            assert error.errno == errno.EMSGSIZE
            assert error.strerror == "a message of 65508 bytes does not fit a datagram, which holds 65507"
            assert await b.ask(b"!") == b"!"


async def test_after_the_message_that_ends_a_dialled_connection_nothing_is_sent():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        connection = await dial(f"udp://127.0.0.1:{there.getsockname()[1]}?framing=raw")
        recorder = Recorder(connection)
        connection.write([bytes(65_508), b"a", b"b"])
        assert isinstance(await recorder.lost, OSError)
        assert connection._datagrams.counters.send_failed == 1


async def test_a_fault_in_sending_the_rest_does_not_keep_the_socket_open():
    class Faulty:
        def send(self, *_: object) -> int:
            raise RuntimeError("not today")

    recorder = Recorder(await dial("udp://127.0.0.1:9?framing=raw"))
    datagram_socket = recorder.connection._datagrams
    datagram_socket._batches = Faulty()
    datagram_socket._queue.append(([b"?"], None, None))
    with pytest.raises(RuntimeError, match="not today"):
        recorder.connection.abort()
    assert datagram_socket._sock.fileno() == -1
    assert await recorder.lost is None


async def test_a_busy_port_is_refused_with_a_remedy():
    async with listening("udp://127.0.0.1:0", Peers()) as listener:
        with pytest.raises(StartError, match=r"^cannot listen on udp://127\.0\.0\.1:\d+: the port is busy: .*port 0"):
            await make_udp(str(listener.endpoint)).listen(lambda connection: None)


async def test_a_foreign_address_is_refused_with_a_remedy():
    with pytest.raises(StartError, match="this machine has no such address"):
        await make_udp("udp://192.0.2.1:0").listen(lambda connection: None)


async def test_an_unknown_host_is_named():
    for attempt in (
        make_udp("udp://no.such.host.invalid:1").dial(),
        make_udp("udp://no.such.host.invalid:1").listen(print),
    ):
        with pytest.raises((DialError, StartError), match=r"the host 'no\.such\.host\.invalid' is not known"):
            await attempt


async def test_mistakes_in_the_endpoint_are_told():
    with pytest.raises(EndpointError, match="needs host:port"):
        await make_udp("udp://127.0.0.1").dial()
    with pytest.raises(OptionError, match="framing"):
        make_udp("udp://127.0.0.1:1?framing=line")
    with pytest.raises(OptionError, match="packet_bytes_max"):
        make_udp("udp://127.0.0.1:1?packet_bytes_max=100")


# --- ends ------------------------------------------------------------------------------------------------------


async def test_the_port_is_free_once_the_listener_is_closed():
    listener = await make_udp("udp://127.0.0.1:0?framing=raw").listen(lambda connection: None)
    await listener.close()
    await listener.close()
    again = await make_udp(str(listener.endpoint)).listen(lambda connection: None)
    await again.close()


async def test_connections_live_on_after_their_listener_until_they_end():
    peers = Peers(echo)
    listener = await make_udp("udp://127.0.0.1:0?framing=raw").listen(peers.accept)
    with Plain(listener.endpoint) as old, Plain(listener.endpoint) as new:
        await old.ask(b"?")
        await listener.close()
        assert peers.all[0].eof, "no more will come of a raw source"
        peers.all[0].connection.write([b"a last word"])
        assert await old.receive() == b"a last word"
        new.socket.send(b"too late")
        await eventually(lambda: listener.counters.turned_away == 1)
        peers.all[0].connection.close()
        assert await peers.all[0].lost is None
        await eventually(lambda: listener._datagrams._sock.fileno() == -1)


async def test_the_end_is_told_once_and_never_from_inside_a_call():
    peers = Peers()
    async with listening("udp://127.0.0.1:0?framing=raw", peers) as listener:
        with Plain(listener.endpoint) as plain:
            plain.socket.send(b"?")
            recorder = await peers.until(1)
            recorder.connection.close()
            recorder.connection.abort()
            recorder.connection.close()
            assert not recorder.lost.done()
            assert await recorder.lost is None


async def test_capabilities_say_what_is_given():
    knl = make_udp("udp://127.0.0.1:0").capabilities()
    assert (knl.preserves_messages, knl.reliable, knl.ordered, knl.half_close) == (True, False, False, True)
    assert (knl.message_bytes_max, knl.local_only) == (1 << 20, True)
    raw = make_udp("udp://0.0.0.0:0?framing=raw").capabilities()
    assert (raw.message_bytes_max, raw.half_close, raw.local_only) == (65_507, False, False)
    assert make_udp("udp://127.0.0.1:0", Limits(message_bytes_max=500)).capabilities().message_bytes_max == 500


@pytest.mark.parametrize(
    ("is_local", "hosts"),
    [
        (True, ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"]),
        (False, ["0.0.0.0", "[::]", "127.0.0.1.example.org", "example.org"]),
    ],
)
def test_only_the_loopback_is_local(is_local: bool, hosts: list[str]):
    for host in hosts:
        assert make_udp(f"udp://{host}:1").capabilities().local_only is is_local
