"""Any sequence of steps at all: whatever a stranger says in whatever order, no service is reached without the key."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from security import hostile_auth
from security.hostile import (
    AUTH,
    DATA,
    ERROR,
    GOAWAY,
    IGNORABLE,
    INFO,
    PING,
    PREFACE,
    frame,
    hello,
    opening,
    split_preface,
)
from security.hostile_auth import ALICE, BOB, HandMade, said_by, server_session

from kernel import Key, Limits
from kernel.session.base import Event, Messages, OpenRequested, Ready

# What docs/protocol.md lets anybody say before READY, and what it does not.
HARMLESS = (frame(GOAWAY, bytes(6)), frame(INFO), frame(INFO, b"hello"), frame(77, b"what?", flags=IGNORABLE))
OUT_OF_PLACE = (
    opening(),
    opening(3),
    frame(DATA, b"hello", channel=1),
    frame(DATA, b"", channel=1, flags=2),
    frame(PING),
    frame(ERROR, bytes(2)),
    frame(77),
    frame(AUTH),
)


class AnyStranger(RuleBasedStateMachine):
    """Steps in any order, each torn in two; some are those of somebody who holds the key: both ends are reached."""

    def __init__(self) -> None:
        super().__init__()
        self.server = server_session()
        self.hand = HandMade(self.server)
        self.events: list[Event] = []
        self.heard = said_by(self.server)
        # How far along the only way in: preface, HELLO, first AUTH, proof. None: it has been left.
        self.way: int | None = 0

    def step(self, said: bytes, stage: int | None) -> None:
        self.events += self.server.received(said[:7]) + self.server.received(said[7:])
        self.heard += said_by(self.server)
        if said and self.way is not None and self.way < 4:
            self.way = self.way + 1 if stage == self.way else None

    def right_words(self, stage: int) -> bytes:
        """What somebody who holds the key says at a stage; before it has heard the challenge, about none."""
        if stage < 3:
            return (PREFACE, self.hand.hello, hostile_auth.auth(self.hand.said))[stage]
        frames = split_preface(self.heard)
        seen = hostile_auth.transcript(self.hand.hello[16:], frames[0].payload)
        challenge = next((found.payload for found in frames if found.kind == AUTH), b"")
        value = hostile_auth.proof(ALICE.secret, b"client", seen, self.hand.said, challenge)
        return hostile_auth.auth(hostile_auth.second(value))

    @initialize(steps=st.integers(0, 4))
    def begin_well(self, steps: int) -> None:
        for stage in range(steps):
            self.step(self.right_words(stage), stage)

    @rule(stage=st.integers(0, 3))
    def right_words_at_any_time(self, stage: int) -> None:
        self.step(self.right_words(stage), stage)

    @rule(mechanism=st.sampled_from([b"none", b"", b"hmac-md5", b"hmac-sha256\0"]))
    def greet_otherwise(self, mechanism: bytes) -> None:
        self.step(hello(mechanism), None)

    @rule(key=st.sampled_from([ALICE, BOB]), role=st.sampled_from([b"client", b"server"]))
    def wrong_proof(self, key: Key, role: bytes) -> None:
        value = hostile_auth.proof(key.secret, role, bytes(32), self.hand.said, bytes(32))
        self.step(hostile_auth.auth(hostile_auth.second(value)), None)

    @rule()
    def echo_what_the_server_said(self) -> None:
        self.step(self.heard[-100:], None)

    @rule(said=st.sampled_from(HARMLESS))
    def a_frame_that_leaves_everything_as_it_is(self, said: bytes) -> None:
        before = self.way
        self.step(said, None)
        self.way = None if before == 0 else before  # the preface must be first

    @rule(said=st.sampled_from(OUT_OF_PLACE))
    def a_frame_that_is_out_of_place(self, said: bytes) -> None:
        self.step(said, None)

    @rule(said=st.binary(max_size=40))
    def garbage(self, said: bytes) -> None:
        self.step(said, None)

    @invariant()
    def only_who_proved_the_key_reaches_a_service(self) -> None:
        reached = any(isinstance(event, Ready | OpenRequested | Messages) for event in self.events)
        assert not reached or self.way == 4
        assert self.way != 4 or reached

    @invariant()
    def strangers_hear_little(self) -> None:
        assert self.way == 4 or len(self.heard) <= Limits().handshake_reply_bytes_max


def sequences(count: int) -> None:
    run_state_machine_as_test(
        AnyStranger,
        settings=settings(max_examples=count, stateful_step_count=12, deadline=None, suppress_health_check=HealthCheck),
    )


@pytest.mark.usefixtures("engine")
def test_no_sequence_reaches_a_service_without_the_key():
    sequences(150)


@pytest.mark.long
@pytest.mark.usefixtures("engine")
def test_no_sequence_of_100_000_reaches_a_service_without_the_key():
    sequences(100_000)
