"""Each limit on what one connection may do, found out from a plain socket: the number in force is the configured one.

What is over the limit is sent as a stranger would: in pieces, or all at once, or only announced.
"""

from __future__ import annotations

import asyncio

import pytest
from security.hostile import (
    ACCEPT,
    BEGIN,
    CREDIT,
    DATA,
    ERROR,
    GOAWAY,
    HELLO,
    IGNORABLE,
    MORE,
    OPEN,
    PING,
    PONG,
    PREFACE,
    RESET,
    Stranger,
    fields,
    frame,
    hello,
    opening,
    serving,
    split_preface,
    until,
)
from security.services import Flood, Recorder

from kernel import KIB, Channel, Code, Limits, Server
from kernel.channel import HIGH_WATER_BYTES
from kernel.framing.plain import RawDecoder
from kernel.session.base import Closed, Ended
from kernel.session.plain import PlainSession
from kernel.session.stream import StreamSession

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(autouse=True)
def _short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are looked at often, so that the tests need not wait for the next second."""
    monkeypatch.setattr("kernel.server.TICK_SECONDS", 0.02)


async def ended_by(stranger: Stranger) -> tuple[int, str]:
    """The ERROR with which the server ends the connection."""
    error = await stranger.await_frame(ERROR)
    return error.code, error.reason


# --- before the handshake has ended ----------------------------------------------------------------------------------

ROOM = Limits().handshake_bytes_max - len(PREFACE) - 16


async def test_a_frame_that_fills_the_handshake_budget_is_read():
    async with serving(Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(PREFACE + frame(HELLO, length=ROOM) + bytes(ROOM))
        assert "a frame of type 1 with" in (await ended_by(stranger))[1]


async def test_one_byte_more_is_refused_from_the_header_alone():
    async with serving(Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(PREFACE + frame(HELLO, length=ROOM + 1))
        code, reason = await ended_by(stranger)
        assert code == Code.PROTOCOL
        assert "more than 4096 bytes before the handshake" in reason


async def test_a_large_hello_that_comes_in_one_piece_is_refused_too():
    async with serving(Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(PREFACE + hello(field_9=bytes(ROOM)))
        assert (await ended_by(stranger))[0] == Code.PROTOCOL


async def test_many_small_frames_share_the_budget():
    async with serving(Recorder(), handshake_bytes_max=512) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        goaway = frame(GOAWAY, bytes(6))
        await stranger.send(PREFACE + goaway * ((512 - 8) // len(goaway)))
        await stranger.send(goaway)
        assert "more than 512 bytes" in (await ended_by(stranger))[1]


async def test_what_is_pipelined_behind_the_handshake_is_not_under_its_budget():
    async with serving(recorder := Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        large = bytes(60_000)
        await stranger.send(PREFACE + hello() + opening() + frame(DATA, large, channel=1))
        assert (await stranger.await_frame(DATA)).payload == large
        assert recorder.messages == [large]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0" * 10_000,
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\xff" * 10_000,
        PREFACE,
        PREFACE + hello(b"x" * 2000),
        PREFACE + hello(b"x" * 4000),
        PREFACE + hello() * 2,
        PREFACE + frame(PING) * 100,
        PREFACE + frame(200, b"who knows", flags=IGNORABLE) * 100,
        PREFACE + frame(DATA, bytes(60_000), channel=1),
        PREFACE[:4] + b"\x09\0\0\0",
    ],
    ids=lambda said: said[:12].hex() or "nothing",
)
async def test_a_stranger_never_hears_more_than_the_reply_budget(said: bytes):
    async with serving(Recorder(), handshake_seconds_max=0.3) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(said)
        heard = await stranger.read_to_end()
        assert len(heard) <= 1 * KIB
        assert split_preface(heard)[-1].kind == ERROR


async def test_an_endless_header_is_cut_off_within_the_budget():
    async with serving(Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(PREFACE)
        over, sent = asyncio.ensure_future(stranger.await_frame(ERROR)), len(PREFACE)
        while not over.done():
            await stranger.send(bytes(16))
            sent += 16
            await asyncio.sleep(0)
        assert sent <= 4 * KIB


async def test_a_handshake_that_takes_too_long_is_ended_wherever_it_stands():
    async with serving(Recorder(), handshake_seconds_max=0.2) as server:
        for said in (b"", PREFACE[:3], PREFACE, PREFACE + hello()[:20]):
            stranger = await Stranger.connect(server.endpoints[0])
            await stranger.send(said)
            assert (await ended_by_preface(stranger)) == Code.HANDSHAKE_TIMEOUT


async def test_a_trickle_does_not_lengthen_the_handshake():
    async with serving(Recorder(), handshake_seconds_max=0.3) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(PREFACE)
        reading = asyncio.ensure_future(ended_by_preface(stranger))
        for byte in hello():
            await stranger.send(bytes([byte]))
            await asyncio.wait([reading], timeout=0.05)
            if reading.done():
                break
        assert await reading == Code.HANDSHAKE_TIMEOUT


async def ended_by_preface(stranger: Stranger) -> int:
    """As `ended_by`, from the very beginning of the connection."""
    return split_preface(await stranger.read_to_end())[-1].code


# --- frames and messages ---------------------------------------------------------------------------------------------


async def opened(server: Server, service: bytes = b"echo", **options: int) -> Stranger:
    """A stranger that has behaved up to an open channel."""
    stranger = await Stranger.connect(server.endpoints[0], **options)  # type: ignore[arg-type]
    await stranger.greet()
    assert (await stranger.open(service=service)).kind == ACCEPT
    return stranger


async def test_a_frame_as_long_as_the_limit_passes_and_a_longer_one_is_refused_from_its_header():
    async with serving(recorder := Recorder(), frame_bytes_max=10_000) as server:
        stranger = await opened(server)
        await stranger.send(frame(DATA, bytes(10_000), channel=1))
        assert len((await stranger.await_frame(DATA)).payload) == 10_000
        await stranger.send(frame(DATA, channel=1, length=10_001))
        assert (await ended_by(stranger))[0] == Code.FRAME_TOO_LARGE
        assert len(recorder.messages) == 1


async def test_a_message_longer_than_the_limit_ends_its_channel_and_no_other():
    async with serving(Recorder(), message_bytes_max=100_000) as server:
        stranger = await opened(server)
        await stranger.open(channel=3)
        await stranger.send(frame(DATA, (100_001).to_bytes(8, "big"), channel=1, flags=BEGIN | MORE))
        reset = await stranger.await_frame(RESET)
        assert (reset.channel, reset.code) == (1, Code.MESSAGE_TOO_LARGE)
        await stranger.send(frame(DATA, b"still here", channel=3))
        assert (await stranger.await_frame(DATA)).payload == b"still here"


async def test_unfinished_messages_of_one_connection_share_their_room():
    async with serving(Recorder(), message_bytes_max=100_000, assembly_bytes_max=250_000) as server:
        stranger = await opened(server)
        for channel in (3, 5):
            await stranger.open(channel)
        for channel in (1, 3, 5):
            await stranger.send(frame(DATA, (100_000).to_bytes(8, "big"), channel=channel, flags=BEGIN | MORE))
        reset = await stranger.await_frame(RESET)
        assert (reset.channel, reset.code) == (5, Code.OVERLOADED)


async def test_more_than_the_credit_of_a_channel_ends_the_connection():
    class Deaf(Recorder):
        def on_message(self, channel, message):  # type: ignore[no-untyped-def]
            channel.pause_reading()

    async with serving(Deaf(), channel_credit_bytes=100_000) as server:
        stranger = await opened(server)
        for _ in range(10):
            await stranger.send(frame(DATA, bytes(10_000 - 16), channel=1))
        await stranger.send(frame(DATA, b"", channel=1))
        assert (await ended_by(stranger))[0] == Code.FLOW_CONTROL


async def test_more_than_the_credit_of_the_connection_ends_it():
    class Deaf(Recorder):
        def on_message(self, channel, message):  # type: ignore[no-untyped-def]
            channel.pause_reading()

    async with serving(Deaf(), connection_credit_bytes=100_000) as server:
        stranger = await opened(server)
        await stranger.open(3)
        for at in range(10):
            await stranger.send(frame(DATA, bytes(10_000 - 16), channel=1 + at % 2 * 2))
        await stranger.send(frame(DATA, b"", channel=3))
        assert (await ended_by(stranger))[0] == Code.FLOW_CONTROL


async def test_one_channel_more_than_the_limit_is_refused_and_the_others_live_on():
    async with serving(Recorder(), channels_max=3) as server:
        stranger = await opened(server)
        assert [(await stranger.open(channel)).kind for channel in (3, 5)] == [ACCEPT, ACCEPT]
        refused = await stranger.open(7)
        assert (refused.kind, refused.code) == (RESET, Code.TOO_MANY_CHANNELS)
        await stranger.send(frame(RESET, bytes(2), channel=3))
        assert (await stranger.open(9)).kind == ACCEPT


async def test_control_frames_beyond_the_rate_end_the_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kernel.server.TICK_SECONDS", 60)
    async with serving(Recorder(), control_frames_per_second_max=50) as server:
        stranger = await opened(server)
        await stranger.send(frame(PING) * 48)  # HELLO and OPEN were two
        for _ in range(48):
            assert (await stranger.frame()).kind == PONG  # type: ignore[union-attr]
        await stranger.send(frame(PING))
        code, reason = await ended_by(stranger)
        assert code == Code.RATE_LIMITED
        assert "more than 50 control frames a second" in reason


async def test_credit_in_crumbs_counts_as_control_frames():
    async with serving(Recorder(), control_frames_per_second_max=50) as server:
        stranger = await opened(server)
        await stranger.send(frame(CREDIT, (1).to_bytes(4, "big"), channel=1) * 1000)
        assert (await ended_by(stranger))[0] == Code.RATE_LIMITED


# --- peers that do not read ------------------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_loses_its_channel_at_the_limit():
    limit = 1 << 20
    async with serving(flood := Flood(), write_buffer_bytes_max=limit) as server:
        await opened(server, b"flood", receive_buffer_bytes=4096)
        await asyncio.wait_for(flood.ended.wait(), 20)
        [(code, reason)] = flood.endings
        assert code is Code.SLOW_READER
        assert limit < int(reason.split()[0]) <= limit + len(Flood.message)


async def test_channels_of_one_connection_share_the_limit_of_what_may_wait():
    limit = 1 << 20
    async with serving(flood := Flood(), write_buffer_bytes_max=limit) as server:
        stranger = await Stranger.connect(server.endpoints[0], receive_buffer_bytes=4096)
        await stranger.greet(hello(credit_bytes=4096))
        await stranger.send(b"".join(opening(channel, b"flood") for channel in range(1, 17, 2)))
        await until(lambda: len(flood.endings) == 8)
        unseen = 8 * HIGH_WATER_BYTES  # a channel is looked at from there on; all of them once a second
        waiting = [int(reason.split()[0]) for _, reason in flood.endings]
        assert all(limit < nbytes <= limit + unseen + len(Flood.message) for nbytes in waiting)


async def test_small_backlogs_of_many_channels_are_added_up_once_a_second():
    limit = 1 << 20

    class Once(Flood):
        message = bytes(200 * 1024)

        def opened(self, channel: Channel) -> None:
            channel.send(self.message)

    async with serving(once := Once(), write_buffer_bytes_max=limit) as server:
        stranger = await Stranger.connect(server.endpoints[0], receive_buffer_bytes=4096)
        await stranger.greet(hello(credit_bytes=4096))
        await stranger.send(b"".join(opening(channel, b"flood") for channel in range(1, 41, 2)))
        await until(lambda: len(once.endings) == 15)
        assert sum(channel.buffered_bytes for channel in server.channels) <= limit


async def test_answers_that_are_not_read_end_the_connection():
    async with serving(Recorder(), control_buffer_bytes_max=10_000, control_frames_per_second_max=10**9) as server:
        stranger = await Stranger.connect(server.endpoints[0], receive_buffer_bytes=4096)
        await stranger.greet()
        [link] = server._links
        while link.code is None:
            await stranger.send(frame(PING, bytes(64)) * 100)
            await asyncio.sleep(0)
        assert link.code is Code.SLOW_READER


# --- peers that do nothing -------------------------------------------------------------------------------------------


async def test_a_silent_peer_is_asked_and_then_given_up():
    async with serving(Recorder(), ping_interval_seconds=0.1, idle_seconds_max=0.4) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.greet()
        kinds = [f.kind async for f in stranger.frames()]
        assert kinds == [PING, ERROR]


def test_a_peer_that_answers_pings_stays_and_one_that_does_not_is_noticed_within_45_seconds():
    server, client = StreamSession(client=False, limits=Limits()), StreamSession(client=True, limits=Limits())
    server.started()
    client.started()
    for second in range(1000):
        exchange(server, client)
        assert server.tick(float(second)) == []
    silent_since = 999
    ended = next(second for second in range(1000, 2000) if server.tick(float(second)))
    assert ended - silent_since <= 45


def exchange(one: StreamSession, other: StreamSession) -> None:
    """Carry what they have to say to each other, until they are silent."""
    silent = 0
    while silent < 2:
        said = b"".join(one.data_to_send(1 << 20))
        other.received(said)
        silent = 0 if said else silent + 1
        one, other = other, one


@pytest.mark.parametrize("framing", ["raw", "line", "length"])
async def test_on_a_plain_framing_a_peer_must_begin_in_time(framing: str):
    endpoint = f"tcp://127.0.0.1:0?framing={framing}"
    async with serving(recorder := Recorder(), endpoint, first_byte_seconds_max=0.2) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        assert await stranger.read_to_end() == b""
        assert recorder.endings[0][0] is Code.IDLE


def test_on_a_plain_framing_movement_keeps_the_connection_and_silence_ends_it():
    limits = Limits(first_byte_seconds_max=5, silence_seconds_max=60)
    session = PlainSession(client=False, decoder=RawDecoder(), encode=list, limits=limits)
    session.started()
    for second in range(4):
        assert session.tick(second) == []
    for second in range(4, 1000, 59):
        session.received(b"x")
        assert session.tick(second) == []
    assert session.tick(second + 59) == []
    assert [type(event) for event in session.tick(second + 60)] == [Closed, Ended]


async def test_frames_that_cannot_be_fields_are_refused():
    async with serving(Recorder()) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.greet()
        await stranger.send(frame(OPEN, fields({1: b"echo"})[:-1], channel=1))
        assert (await ended_by(stranger))[0] == Code.PROTOCOL
