"""Receiving straight into a frame's own buffer: what `wanted` lends, and what happens to those who keep it."""

import asyncio
import gc
import socket

import pytest
from framing.streams import cut, flatten, outcome

from kernel.framing import Engine, Knl, Length

SIZE = 100_000
BODY = bytes(byte & 0xFF for byte in range(SIZE))
LAYOUTS = [Length(frame_bytes_max=1 << 20), Knl(frame_bytes_max=1 << 20)]
FRAME = {Length: BODY, Knl: (0, 4, 1, BODY)}


def encoded(engine: Engine, layout: Length | Knl) -> bytes:
    if isinstance(layout, Length):
        return engine.encode_length(layout, [BODY])
    return engine.encode_knl(0, 4, 1, [BODY], frame_bytes_max=1 << 20)


@pytest.fixture(params=LAYOUTS, ids=["length", "knl"])
def layout(request: pytest.FixtureRequest) -> Length | Knl:
    return request.param


@pytest.fixture
def halfway(engine, layout):
    """A decoder in the middle of a large frame, and the bytes that are missing."""
    data = encoded(engine, layout)
    decoder = engine.decoder(layout, 1000)
    assert decoder.feed(data[: SIZE // 2]) == []
    return decoder, data[SIZE // 2 :]


def receive(decoder, rest):
    """Fill what the decoder lends until its frame is whole."""
    while (view := decoder.wanted()) is not None:
        nbytes = min(len(view), len(rest))
        view[:nbytes] = rest[:nbytes]
        frames = decoder.filled(nbytes)
        rest = rest[nbytes:]
        if frames:
            return frames
    return decoder.feed(rest)


def test_a_large_frame_is_received_into_its_own_buffer(halfway, layout):
    decoder, rest = halfway
    assert flatten(receive(decoder, rest)) == [FRAME[type(layout)]]
    assert decoder.pending_bytes == 0
    assert decoder.wanted() is None


def test_nothing_is_lent_between_frames_and_for_small_rests(engine, layout):
    data = encoded(engine, layout)
    decoder = engine.decoder(layout, SIZE // 2)
    assert decoder.wanted() is None
    decoder.feed(data[:10])
    decoder.feed(data[10 : SIZE // 2])
    assert decoder.wanted() is not None
    decoder.feed(data[SIZE // 2 : SIZE // 2 + 1000])
    assert decoder.wanted() is None


def test_filling_and_feeding_may_take_turns(engine, layout):
    data = encoded(engine, layout) * 2
    decoder = engine.decoder(layout, 1)
    assert outcome(decoder, cut(data, range(777, len(data), 777))) == ([FRAME[type(layout)]] * 2, None, 0)
    decoder = engine.decoder(layout, 1)
    frames = []
    for number, chunk in enumerate(cut(data, range(777, len(data), 777))):
        found, error, _ = outcome(decoder, [chunk], direct=number % 2 == 0)
        frames += found
        assert error is None
    assert frames == [FRAME[type(layout)]] * 2


def test_a_view_that_was_not_used_costs_nothing(halfway, layout):
    decoder, rest = halfway
    assert decoder.wanted() is not None
    assert decoder.wanted() is not None
    assert decoder.filled(0) == []
    decoder.wanted()
    assert flatten(decoder.feed(rest)) == [FRAME[type(layout)]]


def test_more_than_was_lent_cannot_be_filled(halfway):
    decoder, rest = halfway
    for nbytes in (0, 1, -1):
        with pytest.raises(ValueError, match=f"filled\\({nbytes}\\) without a view"):
            decoder.filled(nbytes)
    view = decoder.wanted()
    size = len(view)
    for nbytes in (size + 1, -1):
        with pytest.raises(ValueError, match="without a view of that size"):
            decoder.filled(nbytes)
    view[:] = rest[:size]
    decoder.filled(size)
    with pytest.raises(ValueError, match="without a view"):
        decoder.filled(0)


def test_a_view_is_of_no_use_after_filled_or_fed(halfway):
    decoder, rest = halfway
    view = decoder.wanted()
    decoder.filled(0)
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    view = decoder.wanted()
    decoder.feed(rest[:10])
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_a_slice_that_is_kept_stays_safe_to_use(halfway, layout):
    decoder, rest = halfway
    view = decoder.wanted()
    kept = view[:100]
    frames = receive(decoder, rest)
    assert flatten(frames) == [FRAME[type(layout)]]
    del decoder, frames, view
    gc.collect()
    kept[:] = b"x" * 100
    assert bytes(kept) == b"x" * 100


def test_a_view_that_is_kept_outlives_its_decoder(halfway):
    decoder, _ = halfway
    view = decoder.wanted()
    del decoder
    gc.collect()
    filler = [bytes(SIZE) for _ in range(10)]
    view[:] = b"y" * len(view)
    assert bytes(view) == b"y" * len(view)
    del filler


def test_somebody_who_exports_the_view_does_not_stop_the_frame(halfway, layout):
    decoder, rest = halfway
    while (view := decoder.wanted()) is not None:
        nbytes = min(len(view), len(rest))
        with memoryview(view) as held:  # as a loop does while it calls back
            held[:nbytes] = rest[:nbytes]
            frames = decoder.filled(nbytes)
        rest = rest[nbytes:]
    assert flatten(frames or decoder.feed(rest)) == [FRAME[type(layout)]]


def test_many_views_that_are_kept_do_not_disturb_each_other(halfway, layout):
    decoder, rest = halfway
    kept = []
    while decoder.pending_bytes:
        view = decoder.wanted()
        if view is None:
            frames = decoder.feed(rest)
            break
        kept.append(view[:1])
        nbytes = min(len(view), len(rest), 5000)
        view[:nbytes] = rest[:nbytes]
        frames = decoder.filled(nbytes)
        rest = rest[nbytes:]
    assert flatten(frames) == [FRAME[type(layout)]]
    assert len(kept) > 1


def test_a_corrupt_frame_is_noticed_in_its_own_buffer_too(engine):
    layout = Knl(1 << 20)
    data = bytearray(encoded(engine, layout))
    data[-1] ^= 1
    frames, error, pending = outcome(engine.decoder(layout, 1000), cut(data, [SIZE // 2]))
    assert (frames, error[0], pending) == ([], "bad_checksum", 0)


class Receiver(asyncio.BufferedProtocol):
    """Receives as a link does: into the frame's own buffer where one is lent."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.buffer = memoryview(bytearray(65536))
        self.frames = []
        self.lent = False
        self.direct = 0
        self.whole = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint):
        view = self.decoder.wanted()
        self.lent = view is not None
        self.direct += self.lent
        return self.buffer if view is None else view

    def buffer_updated(self, nbytes):
        frames = self.decoder.filled(nbytes) if self.lent else self.decoder.feed(self.buffer[:nbytes])
        self.frames += flatten(frames)
        if len(self.frames) == 5:
            self.whole.set_result(None)


def run_asyncio(main):
    asyncio.run(main)


def run_uvloop(main):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("run", [run_asyncio, run_uvloop])
def test_event_loops_receive_into_the_lent_buffer(engine, layout, run):
    data = encoded(engine, layout) * 5

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            transport, receiver = await loop.create_connection(
                lambda: Receiver(engine.decoder(layout, 1000)), sock=ours
            )
            theirs.setblocking(False)
            await loop.sock_sendall(theirs, data)
            await asyncio.wait_for(receiver.whole, 10)
            transport.close()
        assert receiver.frames == [FRAME[type(layout)]] * 5
        assert receiver.direct > 0

    run(main())
