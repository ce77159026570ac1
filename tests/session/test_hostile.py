"""A peer that sends whatever it likes. The invariant: nothing ever leaves a session but events and bytes.

Whatever arrives, in whatever state: late frames are ignored, or the session ends once, with a reason in one line for
people and an ERROR as its last frame for the peer; what it holds and what it has to say stay within its limits.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from session.worlds import (
    EVERYTHING,
    Lone,
    Side,
    begin,
    code_payload,
    credit,
    data,
    decode,
    frame,
    hello_frame,
    open_payload,
)

from kernel.errors import Code
from kernel.framing import engine, knl
from kernel.framing.entry import LengthFraming, LineFraming
from kernel.limits import Limits
from kernel.session import fields
from kernel.session.base import Stream
from kernel.session.plain import PlainSession
from kernel.session.preface import PREFACE

SMALL = Limits(
    frame_bytes_max=1024,
    channel_credit_bytes=4096,
    connection_credit_bytes=8192,
    channels_max=4,
    message_bytes_max=20_000,
    assembly_bytes_max=40_000,
    control_frames_per_second_max=50,
    control_buffer_bytes_max=4096,
)
ANSWER_BYTES_MAX = 4096 + 50 * 600
"""What may wait for a peer that does not read: the control frames' limit, and what one read can add to it."""

FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

TYPES = st.one_of(st.integers(knl.DATA, knl.INFO), st.integers(0, 255))
FLAGS = st.one_of(
    st.just(0),
    st.sampled_from([knl.MORE, knl.FIN, knl.BEGIN, knl.BEGIN | knl.MORE, knl.IGNORABLE, knl.CHECKSUM]),
    st.integers(0, 0xFFFF),
)
CHANNELS = st.one_of(st.integers(0, 9), st.sampled_from([0xFFFFFFFE, 0xFFFFFFFF]))
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "big")),
    st.tuples(st.integers(0, 30_000), st.binary(max_size=1000)).map(lambda t: t[0].to_bytes(8, "big") + t[1]),
    st.binary(max_size=20).map(lambda name: fields.pack({1: name})),
    st.integers(0, 1025).map(bytes),
)
FRAMES = st.builds(
    lambda kind, flags, channel, payload: frame(kind, channel, payload, flags), TYPES, FLAGS, CHANNELS, PAYLOADS
)


def check(side: Side) -> None:
    """What must hold of a session, whatever has come."""
    assert all(0 <= stream.held_bytes <= SMALL.channel_credit_bytes for stream in side.session.streams)
    assert sum(stream.held_bytes for stream in side.session.streams) <= SMALL.connection_credit_bytes
    assert len(side.session.streams) <= SMALL.channels_max
    if side.ended is not None:
        assert side.session.streams == []
        assert side.ended.reason.isprintable()
        assert len(side.ended.reason) < 2100


def check_last_words(lone: Lone) -> None:
    """The peer's fault is told by one ERROR, the last frame; a peer that ended in order is told nothing."""
    said = decode(bytes(lone.wire).removeprefix(PREFACE))
    errors = [at for at, (kind, *_) in enumerate(said) if kind == knl.ERROR]
    assert errors in ([], [len(said) - 1])


def bring(lone: Lone, received: bytes, cuts: random.Random, *, reads: bool = True) -> None:
    """The bytes, cut anywhere; the service consumes, and the peer reads, now and then."""
    at = 0
    while at < len(received) and lone.ended is None:
        nbytes = cuts.choice([1, 7, 16, 100, 5000])
        lone.feed(received[at : at + nbytes])
        at += nbytes
        if cuts.random() < 0.3:
            lone.consume()
        if reads:
            lone.collect()
        check(lone)
    waiting = sum(map(len, lone.session.data_to_send(EVERYTHING))) if not reads else 0
    assert waiting <= ANSWER_BYTES_MAX
    lone.handle(lone.session.take_events())
    check(lone)


# --- anything --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [False, True])
@FAST
@given(received=st.binary(max_size=300), behind=st.sampled_from([b"", PREFACE, PREFACE + hello_frame()]))
def test_any_bytes(engine_name: str, client: bool, received: bytes, behind: bytes) -> None:
    lone = Lone(engine_name, client=client, limits=SMALL, ready=False)
    bring(lone, behind + received, random.Random(1))
    check_last_words(lone)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("client", [False, True])
@FAST
@given(frames=st.lists(FRAMES, max_size=30), seed=st.integers(0, 1000), reads=st.booleans())
def test_any_frames(engine_name: str, client: bool, pieces: bool, frames: list[bytes], seed: int, reads: bool) -> None:
    lone = Lone(engine_name, client=client, limits=SMALL, pieces=pieces)
    if client:
        for _ in range(3):
            lone.session.open("echo", pieces=pieces)
        lone.collect()
    bring(lone, b"".join(frames), random.Random(seed), reads=reads)
    if reads:
        check_last_words(lone)


def conversation() -> list[bytes]:
    """What a peer in order says, a frame each."""
    return [
        frame(knl.OPEN, 1, open_payload()),
        data(b"hello"),
        begin(3000, bytes(500)),
        data(bytes(1000), flags=knl.MORE),
        data(bytes(1000), flags=knl.MORE),
        frame(knl.PING, 0, b"12345678"),
        data(bytes(500)),
        frame(knl.OPEN, 3, open_payload()),
        data(b"x" * 100, 3),
        credit(1000),
        credit(1000, 3),
        data(flags=knl.FIN),
        frame(knl.RESET, 3, code_payload(Code.CANCELLED, "enough")),
        data(b"late", 3),
        frame(knl.GOAWAY, 0, bytes(2) + bytes(4) + b"bye"),
    ]


def mutations() -> dict[str, Callable[[list[bytes], random.Random], bytes]]:
    def flip(frames: list[bytes], chance: random.Random) -> bytes:
        stream = bytearray(b"".join(frames))
        stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
        return bytes(stream)

    def change_a_header(frames: list[bytes], chance: random.Random) -> bytes:
        """With a checksum that is right: what is found out is what it says."""
        at = chance.randrange(len(frames))
        old = frames[at]
        kind, flags = old[1], int.from_bytes(old[2:4], "big")
        channel, payload = int.from_bytes(old[4:8], "big"), old[16:]
        match chance.randrange(4):
            case 0:
                kind = chance.randrange(14)
            case 1:
                flags ^= 1 << chance.randrange(6)
            case 2:
                channel = chance.randrange(6)
            case 3:
                payload = payload[: chance.randrange(len(payload) + 1)]
        return b"".join([*frames[:at], frame(kind, channel, payload, flags), *frames[at + 1 :]])

    def leave_out(frames: list[bytes], chance: random.Random) -> bytes:
        at = chance.randrange(len(frames))
        return b"".join(frames[:at] + frames[at + 1 :])

    def repeat(frames: list[bytes], chance: random.Random) -> bytes:
        at = chance.randrange(len(frames))
        return b"".join(frames[: at + 1] + frames[at:])

    def swap(frames: list[bytes], chance: random.Random) -> bytes:
        one, other = chance.randrange(len(frames)), chance.randrange(len(frames))
        frames = list(frames)
        frames[one], frames[other] = frames[other], frames[one]
        return b"".join(frames)

    def cut_off(frames: list[bytes], chance: random.Random) -> bytes:
        stream = b"".join(frames)
        return stream[: chance.randrange(len(stream))]

    return {f.__name__: f for f in (flip, change_a_header, leave_out, repeat, swap, cut_off)}


@pytest.mark.parametrize("mutation", list(mutations()))
def test_a_conversation_with_one_mistake(engine_name: str, mutation: str) -> None:
    for seed in range(150):
        chance = random.Random(seed)
        lone = Lone(engine_name, limits=SMALL)
        bring(lone, mutations()[mutation](conversation(), chance), chance)
        check_last_words(lone)


def test_the_conversation_without_a_mistake(engine_name: str) -> None:
    for seed in range(50):
        lone = Lone(engine_name, limits=SMALL)
        bring(lone, b"".join(conversation()), random.Random(seed))
        assert lone.ended is None
        assert [list(map(len, messages)) for messages in lone.received.values()][:1] == [[5, 3000]]


# --- each type in each state -----------------------------------------------------------------------------------------

Prepare = Callable[[Lone], None]


def _opened(lone: Lone) -> Stream:
    return lone.opened(1)


def _in_message(lone: Lone) -> None:
    lone.opened(1)
    lone.brings(begin(3000, bytes(100)))


def _peer_finished(lone: Lone) -> None:
    lone.opened(1)
    lone.brings(data(flags=knl.FIN))


def _we_finished(lone: Lone) -> None:
    lone.session.finish(lone.opened(1))
    lone.collect()


def _reset(lone: Lone) -> None:
    lone.session.reset(lone.opened(1), Code.CANCELLED, "")
    lone.collect()


def _unanswered(lone: Lone) -> None:
    lone.accepts = False
    lone.opened(1)


def _going_away(lone: Lone) -> None:
    lone.opened(1)
    lone.session.go_away(Code.SHUTTING_DOWN, "")
    lone.collect()


STATES: dict[str, Callable[[Lone], object]] = {
    "ready": lambda lone: None,
    "opened": _opened,
    "in a message": _in_message,
    "peer finished": _peer_finished,
    "we finished": _we_finished,
    "reset": _reset,
    "unanswered": _unanswered,
    "going away": _going_away,
    "ended": lambda lone: lone.session.close(Code.INTERNAL, "over"),
}


@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("kind", [*range(13), 200])
def test_every_type_in_every_state(engine_name: str, kind: int, state: str) -> None:
    for flags in (0, knl.FIN, knl.MORE, knl.BEGIN, knl.BEGIN | knl.MORE, knl.IGNORABLE):
        for channel in (0, 1, 2, 3):
            for payload in (b"", b"\0", b"\0\0", bytes(4), b"\0\0\1\0", bytes(6), bytes(8), open_payload(), bytes(600)):
                lone = Lone(engine_name, limits=SMALL)
                STATES[state](lone)
                bring(lone, frame(kind, channel, payload, flags) * 2, random.Random(kind))
                check_last_words(lone)


@pytest.mark.parametrize("kind", [*range(13), 200])
def test_every_type_before_ready(engine_name: str, kind: int) -> None:
    for before in (PREFACE, PREFACE + frame(knl.INFO)):
        for flags in (0, knl.IGNORABLE):
            for payload in (b"", b"\0\0", bytes(6), bytes(600)):
                lone = Lone(engine_name, limits=SMALL, ready=False)
                bring(lone, before + frame(kind, 0, payload, flags), random.Random(kind))
                check_last_words(lone)


# --- plain framings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing", [LengthFraming(frame_bytes_max=2000), LengthFraming(width=1, signed=True), LineFraming(100)]
)
@FAST
@given(received=st.binary(max_size=300), seed=st.integers(0, 1000))
def test_any_bytes_of_a_plain_framing(
    engine_name: str, framing: LengthFraming | LineFraming, received: bytes, seed: int
) -> None:
    decoder = engine(engine_name).decoder(framing) if isinstance(framing, LengthFraming) else framing.decoder()
    side = Side(PlainSession(client=False, decoder=decoder, encode=list, limits=SMALL, service="echo"))
    chance, at = random.Random(seed), 0
    while at < len(received):
        nbytes = chance.choice([1, 7, 100])
        side.feed(received[at : at + nbytes])
        at += nbytes
        if chance.random() < 0.2:
            side.consume()
    side.handle(side.session.received_eof())
    side.session.close(Code.OK, "")
    side.collect()
    assert side.ended is not None
