"""Any interleaving of calls, reads and writes of two sessions, with windows of a few bytes and reads cut anywhere.

What must hold at each step: no session ends (so no credit was exceeded, no frame was wrong), and what was received of a
stream is a beginning of what was sent, whole messages in order. What must hold in the end, when all is consumed: what
was not given up has arrived, streams that ended both ways are forgotten, and the windows are what they were before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from session.worlds import EVERYTHING, Pair, Side

from kernel.errors import Code
from kernel.limits import Limits
from kernel.session.base import Finished, Pong, Stream
from kernel.session.stream import StreamSession

CHANNELS_MAX = 6
SIZES = st.one_of(st.integers(0, 40), st.integers(0, 400), st.sampled_from([15, 16, 17, 1024, 1025, 5000]))


class Direction:
    """What one side has sent on a stream.

    Attributes:
        sent: whole messages, in order.
        rest_bytes: what is missing of a message that is sent in pieces.
        finished: no more comes.
    """

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.pieces = bytearray()
        self.rest_bytes = 0
        self.finished = False


class Conversation:
    """A channel as the test knows it; `given_up`: one side has reset or released it, so not everything needs arrive."""

    def __init__(self, client: Stream) -> None:
        self.streams: dict[str, Stream | None] = {"client": client, "server": None}
        self.directions = {"client": Direction(), "server": Direction()}
        self.given_up = False


class Interleavings(RuleBasedStateMachine):
    engine_name = "python"

    @initialize(
        windows=st.tuples(st.integers(64, 400), st.integers(64, 800), st.integers(64, 400), st.integers(64, 800)),
        pieces=st.booleans(),
        checksums=st.booleans(),
    )
    def connect(self, windows: tuple[int, int, int, int], pieces: bool, checksums: bool) -> None:
        client_channel, client_connection, server_channel, server_connection = windows
        common: dict[str, Any] = {
            "frame_bytes_max": 1024,
            "control_frames_per_second_max": 1_000_000,
            "channels_max": CHANNELS_MAX,
            "message_bytes_max": 6000,
            "assembly_bytes_max": 9000,
        }
        self.pair = Pair.of(
            self.engine_name,
            client=Limits(channel_credit_bytes=client_channel, connection_credit_bytes=client_connection, **common),
            server=Limits(channel_credit_bytes=server_channel, connection_credit_bytes=server_connection, **common),
            pieces=pieces,
            checksums=checksums,
        )
        self.conversations: list[Conversation] = []
        self.pings = {"client": 0, "server": 0}
        self.serial = 0
        self.going_away = False

    def side(self, name: str) -> Side:
        return self.pair.client if name == "client" else self.pair.server

    def content(self, nbytes: int) -> bytes:
        self.serial += 1
        block = self.serial.to_bytes(3, "big")
        return (block * (nbytes // 3 + 1))[:nbytes]

    def meet(self) -> None:
        """Let the test know the server's streams."""
        for conversation in self.conversations:
            ours = conversation.streams["client"]
            if conversation.streams["server"] is None and ours is not None:
                known = [stream for stream in self.pair.server.session.streams if stream.channel == ours.channel]
                conversation.streams["server"] = known[0] if known else None

    def pick(self, data: st.DataObject, name: str) -> tuple[Conversation, Stream, Direction] | None:
        """A stream of that side that may still send."""
        self.meet()
        able = [
            conversation
            for conversation in self.conversations
            if (stream := conversation.streams[name]) is not None
            and stream in self.side(name).session.streams
            and not conversation.directions[name].finished
        ]
        if not able:
            return None
        conversation = data.draw(st.sampled_from(able))
        stream = conversation.streams[name]
        assert stream is not None
        return conversation, stream, conversation.directions[name]

    # --- what the sides do ---------------------------------------------------------------------------------------

    @precondition(lambda self: not self.going_away)
    @rule(pieces=st.booleans())
    def open(self, pieces: bool) -> None:
        if len(self.pair.client.session.streams) < CHANNELS_MAX:
            self.conversations.append(Conversation(self.pair.client.session.open("echo", pieces=pieces)))

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]), sizes=st.lists(SIZES, min_size=1, max_size=5))
    def send(self, data: st.DataObject, name: str, sizes: list[int]) -> None:
        picked = self.pick(data, name)
        if picked is None or picked[2].rest_bytes:
            return
        _, stream, direction = picked
        messages = [self.content(size) for size in sizes]
        if len(messages) == 1:
            self.side(name).session.send(stream, messages[0])
        else:
            self.side(name).session.send_many(stream, messages)
        direction.sent += messages

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]), size=SIZES, part=st.integers(0, 100))
    def send_piece(self, data: st.DataObject, name: str, size: int, part: int) -> None:
        picked = self.pick(data, name)
        if picked is None:
            return
        _, stream, direction = picked
        if not direction.rest_bytes:
            direction.pieces = bytearray(self.content(size))
            direction.rest_bytes = size
        total = len(direction.pieces)
        start = total - direction.rest_bytes
        piece = bytes(direction.pieces[start : start + part])
        direction.rest_bytes -= len(piece)
        last = not direction.rest_bytes
        self.side(name).session.send_piece(stream, piece, total, last)
        if last:
            direction.sent.append(bytes(direction.pieces))

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]))
    def finish(self, data: st.DataObject, name: str) -> None:
        picked = self.pick(data, name)
        if picked is not None and not picked[2].rest_bytes:
            self.side(name).session.finish(picked[1])
            picked[2].finished = True

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]))
    def release(self, data: st.DataObject, name: str) -> None:
        picked = self.pick(data, name)
        if picked is not None:
            self.side(name).session.release(picked[1])
            picked[0].given_up = picked[2].finished = True

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]))
    def reset(self, data: st.DataObject, name: str) -> None:
        picked = self.pick(data, name)
        if picked is not None:
            self.side(name).session.reset(picked[1], Code.CANCELLED, "given up")
            picked[0].given_up = True

    @rule(data=st.data(), name=st.sampled_from(["client", "server"]))
    def consume(self, data: st.DataObject, name: str) -> None:
        """Some of what a stream was given, an event at a time."""
        side = self.side(name)
        owing = [stream for stream, costs in side.owed.items() if costs]
        if owing:
            stream = data.draw(st.sampled_from(owing))
            side.session.consumed(stream, side.owed[stream].pop(0))

    @rule(name=st.sampled_from(["client", "server"]))
    def ping(self, name: str) -> None:
        self.side(name).session.ping(bytes(self.pings[name] % 8))
        self.pings[name] += 1

    @rule()
    def go_away(self) -> None:
        self.pair.server.session.go_away(Code.SHUTTING_DOWN, "")
        self.going_away = True
        for conversation in self.conversations:
            conversation.given_up |= conversation.streams["server"] is None

    # --- what the network does -----------------------------------------------------------------------------------

    @rule(name=st.sampled_from(["client", "server"]), bytes_max=st.integers(1, 3000))
    def collect(self, name: str, bytes_max: int) -> None:
        self.side(name).collect(bytes_max)

    @rule(name=st.sampled_from(["client", "server"]), nbytes=st.integers(1, 200))
    def move_some(self, name: str, nbytes: int) -> None:
        self.pair.move(self.side(name), nbytes)

    @rule(name=st.sampled_from(["client", "server"]))
    def move_all(self, name: str) -> None:
        self.side(name).collect()
        self.pair.move(self.side(name), EVERYTHING)

    # --- what holds ----------------------------------------------------------------------------------------------

    @invariant()
    def nobody_ends(self) -> None:
        assert self.pair.client.ended is None
        assert self.pair.server.ended is None

    @invariant()
    def what_arrived_is_a_beginning_of_what_was_sent(self) -> None:
        self.meet()
        for conversation in self.conversations:
            for sender, receiver in (("client", "server"), ("server", "client")):
                stream = conversation.streams[receiver]
                if stream is not None:
                    received = self.side(receiver).received.get(stream, [])
                    assert received == conversation.directions[sender].sent[: len(received)]

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.complete_pieces()
        self.pair.settle()
        self.nobody_ends()
        self.what_arrived_is_a_beginning_of_what_was_sent()
        for conversation in self.conversations:
            if not conversation.given_up:
                self.everything_arrived(conversation)
        for name, pings in self.pings.items():
            assert len(self.side(name).all_of(Pong)) == pings
        self.end_all()
        self.the_windows_are_back()

    def complete_pieces(self) -> None:
        self.meet()
        for conversation in self.conversations:
            for name, direction in conversation.directions.items():
                stream = conversation.streams[name]
                if direction.rest_bytes and stream is not None and not direction.finished:
                    if stream in self.side(name).session.streams:
                        rest = bytes(direction.pieces[-direction.rest_bytes :])
                        self.side(name).session.send_piece(stream, rest, len(direction.pieces), True)
                    direction.sent.append(bytes(direction.pieces))

    def everything_arrived(self, conversation: Conversation) -> None:
        for sender, receiver in (("client", "server"), ("server", "client")):
            direction, stream = conversation.directions[sender], conversation.streams[receiver]
            assert stream is not None
            side = self.side(receiver)
            assert side.received.get(stream, []) == direction.sent
            assert any(isinstance(event, Finished) for event in side.of(stream)) == direction.finished
        if all(direction.finished for direction in conversation.directions.values()):
            for name, ended in conversation.streams.items():
                assert ended is not None
                closed = self.side(name).closed(ended)
                assert closed is not None
                assert closed.code is Code.OK

    def end_all(self) -> None:
        for side in (self.pair.client, self.pair.server):
            for stream in side.session.streams:
                side.session.release(stream)
        self.pair.settle()
        assert self.pair.client.session.streams == []
        assert self.pair.server.session.streams == []

    def the_windows_are_back(self) -> None:
        """White-box: a leak of a few bytes would show outside only after a long time."""
        client, server = self.pair.client.session, self.pair.server.session
        for sender, receiver in ((client, server), (server, client)):
            assert isinstance(sender, StreamSession)
            assert isinstance(receiver, StreamSession)
            window = receiver.limits.connection_credit_bytes
            assert sender.account.send_credit_bytes + receiver.account.ungranted_bytes == window
            assert receiver.account.receive_credit_bytes + receiver.account.ungranted_bytes == window
            assert receiver._inbox._assembly_bytes == receiver._inbox._held_long_bytes == 0
            assert sender.account.unfinished_bytes == 0
            outbox = sender._outbox
            assert not any((outbox._ready, outbox._starved, outbox._crowded))


def test_any_interleaving_delivers_everything_once_and_leaks_nothing(engine_name):
    machine: Callable[[], Interleavings] = type("Machine", (Interleavings,), {"engine_name": engine_name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
