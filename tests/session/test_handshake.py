"""From the first byte to Ready: the preface, HELLO, AUTH's place, and what is told to who speaks something else."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from session.worlds import Lone, Pair, decode, frame, hello_frame

from kernel.api import Principal
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.framing import knl
from kernel.limits import Limits
from kernel.session import fields
from kernel.session.base import Ready
from kernel.session.handshake import AuthenticationError, Hello
from kernel.session.preface import PREFACE
from kernel.session.stream import StreamSession


def ended_with(lone: Lone, code: Code) -> str:
    """Check that the session ended so, and that its last frame says so; returns the reason."""
    lone.collect()
    assert lone.ended is not None
    assert lone.ended.code is code
    kind, _, channel, payload = decode(bytes(lone.wire).removeprefix(PREFACE))[-1]
    assert (kind, channel, payload[:2]) == (knl.ERROR, 0, code.to_bytes(2, "big"))
    return lone.ended.reason


def test_both_sides_say_hello_at_once(engine_name):
    for client in (True, False):
        lone = Lone(engine_name, client=client, ready=False)
        assert bytes(lone.wire).startswith(PREFACE)
        assert [kind for kind, *_ in lone.frames()] == [knl.HELLO]
        assert lone.events == []


def test_ready_is_told_at_every_split_point(engine_name):
    greeting = PREFACE + hello_frame()
    for point in range(len(greeting) + 1):
        lone = Lone(engine_name, ready=False)
        lone.feed(greeting[:point])
        lone.feed(greeting[point:])
        assert lone.all_of(Ready), point
        assert lone.ended is None


def test_ready_tells_what_the_peer_says_of_itself(engine_name):
    assert Pair.of(engine_name).client.all_of(Ready)[0].peer["software"] == "transport-kernel"


def test_frames_may_follow_hello_in_the_same_read(engine_name):
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + hello_frame() + frame(knl.PING, 0, b"x"))
    assert lone.frames()[-1] == (knl.PONG, 0, 0, b"x")


def test_a_later_minor_version_is_welcome_and_another_major_one_is_not(engine_name):
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE[:5] + b"\x07\xff\xff" + hello_frame())
    assert lone.all_of(Ready)
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE[:4] + b"\x02" + PREFACE[5:])
    assert "KNL/2" in ended_with(lone, Code.VERSION)


def test_a_frame_of_another_version_ends_the_session(engine_name):
    lone = Lone(engine_name)
    lone.feed(b"\x02" + frame(knl.PING)[1:])
    ended_with(lone, Code.VERSION)


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "TLS"),
        (b"hello\n", "framing=raw"),
        (b"\x05\x00\x00\x00hello", "endian=little"),
        (b"\x00\x00\x00\x05hello", "framing=length"),
        (b"\xde\xad\xbe\xef" * 50_000, "de ad be ef de ad be ef"),
    ],
)
def test_wrong_first_bytes_are_explained(engine_name, first, hint):
    lone = Lone(engine_name, ready=False)
    lone.feed(first)
    reason = ended_with(lone, Code.PROTOCOL)
    assert hint in reason
    assert len(reason) < 200


def test_wrong_first_bytes_are_found_byte_by_byte(engine_name):
    lone = Lone(engine_name, ready=False)
    for byte in b"\x00KNX":
        assert lone.ended is None
        lone.feed(bytes([byte]))
    ended_with(lone, Code.PROTOCOL)


def test_hello_comes_once_and_only_as_the_first(engine_name):
    lone = Lone(engine_name)
    lone.feed(hello_frame())
    ended_with(lone, Code.PROTOCOL)
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + frame(knl.PING))
    ended_with(lone, Code.PROTOCOL)
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + frame(knl.DATA, 1, b"x"))
    ended_with(lone, Code.PROTOCOL)
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + frame(knl.HELLO, 1, Hello.of(Limits(), checksums=False, mechanism="none").pack()))
    ended_with(lone, Code.PROTOCOL)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\x00\x01\x00\x04\x00\x00",
        fields.pack({1: b"\x00\x01\x00\x00"}),
        fields.pack({1: b"\x03\xff", 2: b"\x01\x00\x00", 3: b"\x01\x00\x00"}),
        fields.pack({1: b"\x04\x00", 2: b"\x3f", 3: b"\x01\x00\x00"}),
        fields.pack({1: b"\x04\x00", 2: b"\x01\x00\x00", 3: b""}),
        fields.pack({1: b"\x04\x00", 2: b"\x00" * 9, 3: b"\x01\x00\x00"}),
        fields.pack({2: b"\x01\x00\x00"}) + fields.pack({1: b"\x04\x00"}),
        fields.pack({2: b"\x01\x00\x00"}) + fields.pack({2: b"\x01\x00\x00"}),
    ],
    ids=[
        "empty", "half a field", "field cut off", "no credit", "frames below 1024", "credit below 64",
        "a number of 0 bytes", "a number of 9 bytes", "keys that descend", "a key twice",
    ],
)  # fmt: skip
def test_a_hello_that_makes_no_sense_is_refused(engine_name, payload):
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + frame(knl.HELLO, 0, payload))
    ended_with(lone, Code.PROTOCOL)


def test_unknown_fields_and_large_numbers_of_a_later_version_are_read(engine_name):
    huge = (1 << 63).to_bytes(8, "big")
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + hello_frame(values={1: huge, 2: huge, 3: huge, 4: huge, 99: b"later"}))
    stream = lone.opened()
    lone.session.send(stream, bytes(20 << 20))
    sizes = [len(payload) for kind, *_, payload in lone.frames() if kind == knl.DATA]
    assert max(sizes) <= 16 << 20
    lone.brings(frame(knl.CREDIT, 0, (1 << 20).to_bytes(4, "big")))
    assert lone.ended is None


@pytest.mark.parametrize("sent", [[(5000, 16)], [(1000, 1016)] * 4 + [(1000, 16)]], ids=["one frame", "several"])
def test_what_the_peer_may_send_before_ready_is_bounded(engine_name, sent):
    """What is announced counts: a header alone is refused."""
    lone = Lone(engine_name, ready=False, limits=Limits(handshake_bytes_max=4096))
    lone.feed(PREFACE)
    for payload_bytes, there in sent:
        assert lone.ended is None
        lone.feed(frame(knl.INFO, 0, bytes(payload_bytes))[:there])
    assert "handshake_bytes_max" in ended_with(lone, Code.PROTOCOL)


def test_ignorable_frames_pass_before_ready_too(engine_name):
    lone = Lone(engine_name, ready=False)
    lone.feed(PREFACE + frame(99, 0, b"later", knl.IGNORABLE) + frame(knl.INFO, 0, b"hi") + hello_frame())
    assert lone.all_of(Ready)


def test_the_handshake_takes_no_longer_than_its_limit(engine_name):
    lone = Lone(engine_name, ready=False, limits=Limits(handshake_seconds_max=10))
    lone.handle(lone.session.tick(100.0))
    lone.handle(lone.session.tick(109.9))
    assert lone.ended is None
    lone.handle(lone.session.tick(110.0))
    lone.collect()
    ended_with(lone, Code.HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize("received", [b"", PREFACE[:3], PREFACE, PREFACE + hello_frame()[:20]])
def test_eof_inside_the_handshake_is_told(engine_name, received):
    lone = Lone(engine_name, ready=False)
    lone.feed(received)
    lone.handle(lone.session.received_eof())
    assert lone.ended is not None
    assert lone.ended.code is Code.LOST


def test_before_ready_nothing_can_be_opened(engine_name):
    lone = Lone(engine_name, client=True, ready=False)
    with pytest.raises(UsageError):
        lone.session.open("echo")


def test_checksums_are_used_by_both_when_one_asks(engine_name):
    pair = Pair.of(engine_name, checksums=True)
    ours, theirs = pair.open()
    for side, stream in ((pair.client, ours), (pair.server, theirs)):
        side.session.send(stream, b"hello")
        side.collect()
        header = bytes(side.wire[:16])
        assert int.from_bytes(header[2:4], "big") & knl.CHECKSUM
        pair.settle()
    assert pair.client.received[ours] == pair.server.received[theirs] == [b"hello"]


def test_a_damaged_payload_is_found_where_checksums_are_used(engine_name):
    pair = Pair.of(engine_name, checksums=True)
    ours, _ = pair.open()
    pair.client.session.send(ours, b"hello")
    pair.client.collect()
    pair.client.wire[-1] ^= 1
    pair.settle()
    assert pair.server.ended is not None
    assert pair.server.ended.code is Code.BAD_CHECKSUM
    assert pair.client.ended is not None
    assert pair.client.ended.code is Code.BAD_CHECKSUM


# --- AUTH ------------------------------------------------------------------------------------------------------------


class Password:
    """Client sends a word, server answers with another; both are bound to the transcript."""

    mechanism = "password"

    def __init__(self, *, client: bool, word: bytes = b"sesame") -> None:
        self.client = client
        self.word = word
        self.transcript = b""
        self.done = False
        self.principal = Principal("somebody", "password")

    def begin(self, transcript: bytes) -> bytes | None:
        self.transcript = transcript
        return self._proof(b"c") if self.client else None

    def received(self, payload: bytes) -> bytes | None:
        if payload != self._proof(b"s" if self.client else b"c"):
            raise AuthenticationError("the words differ")
        self.done = True
        return None if self.client else self._proof(b"s")

    def _proof(self, role: bytes) -> bytes:
        return hashlib.sha256(role + self.word + self.transcript).digest()


def authenticated(engine_name: str, **client: Any) -> tuple[Pair, Password, Password]:
    ours, theirs = Password(client=True, **client), Password(client=False)
    limits = Limits()

    def session(*, client: bool, authenticator: Password) -> StreamSession:
        return StreamSession(client=client, limits=limits, authenticator=authenticator, engine_name=engine_name)

    from session.worlds import Side

    pair = Pair(Side(session(client=True, authenticator=ours)), Side(session(client=False, authenticator=theirs)))
    pair.settle()
    return pair, ours, theirs


def test_auth_comes_between_hello_and_ready(engine_name):
    pair, ours, theirs = authenticated(engine_name)
    assert ours.transcript == theirs.transcript
    assert len(ours.transcript) == 32
    assert ours.done
    assert theirs.done
    stream, _ = pair.open()
    assert stream.accepted


def test_who_fails_to_authenticate_learns_no_details(engine_name):
    pair, _, _ = authenticated(engine_name, word=b"guess")
    assert pair.server.ended is not None
    assert (pair.server.ended.code, pair.server.ended.reason) == (Code.UNAUTHENTICATED, "the words differ")
    assert pair.client.ended is not None
    assert (pair.client.ended.code, pair.client.ended.reason) == (Code.UNAUTHENTICATED, "authentication failed")


def test_no_channel_is_reached_before_authentication(engine_name):
    session = StreamSession(
        client=False, limits=Limits(), authenticator=Password(client=False), engine_name=engine_name
    )
    session.started()
    greeting = PREFACE + hello_frame(values={6: b"password"})
    assert session.received(greeting) == []
    events = session.received(frame(knl.OPEN, 1, fields.pack({1: b"echo"})))
    assert [type(event).__name__ for event in events] == ["Ended"]


def test_one_side_cannot_drop_the_authentication(engine_name):
    session = StreamSession(
        client=False, limits=Limits(), authenticator=Password(client=False), engine_name=engine_name
    )
    session.started()
    (ended,) = session.received(PREFACE + hello_frame())
    assert ended.code is Code.UNAUTHENTICATED


def test_auth_that_nobody_asked_for_ends_the_session(engine_name):
    for ready in (True, False):
        lone = Lone(engine_name, ready=ready)
        lone.feed((b"" if ready else PREFACE) + frame(knl.AUTH, 0, b"x"))
        ended_with(lone, Code.PROTOCOL)


def test_after_the_end_nothing_can_be_opened(engine_name):
    lone = Lone(engine_name, client=True)
    lone.session.close(Code.OK, "")
    with pytest.raises(ChannelClosed):
        lone.session.open("echo")
