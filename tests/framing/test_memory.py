"""Nothing leaks, and an announced length alone costs nothing."""

import gc
import os
import subprocess
import sys

import pytest
from framing.streams import cut, outcome

from kernel.framing import DecodeError, Engine, Knl, Length

LENGTH = Length(frame_bytes_max=1 << 20)
KNL = Knl(frame_bytes_max=1 << 20)


def churn_frames(engine: Engine) -> None:
    messages = [bytes(16)] * 1000
    for layout, data in (
        (LENGTH, engine.encode_length(LENGTH, messages)),
        (KNL, engine.encode_knl(0, 4, 1, messages)),
    ):
        decoder = engine.decoder(layout)
        for chunk in cut(data * 50, range(0, 50 * len(data), 1001)):
            decoder.feed(chunk)


def churn_lending(engine: Engine) -> None:
    for layout, data in (
        (LENGTH, engine.encode_length(LENGTH, [bytes(5000)])),
        (KNL, engine.encode_knl(0, 4, 1, [bytes(5000)])),
    ):
        for _ in range(100):
            decoder = engine.decoder(layout, 1)
            outcome(decoder, cut(data * 3, range(0, 3 * len(data), 500)))
            decoder.feed(data[:3000])
            kept = decoder.wanted()
            del decoder, kept


def churn_errors(engine: Engine) -> None:
    for layout in (LENGTH, KNL):
        for _ in range(200):
            decoder = engine.decoder(layout)
            assert decoder.feed(b"\xff" * 40) == []
            with pytest.raises(DecodeError):
                decoder.feed(b"")
    for _ in range(200):
        for attempt in (
            lambda: engine.encode_length(LENGTH, [b"", bytes(1 << 20) + b"x"]),
            lambda: engine.encode_length(Length(width=1), [b"", bytes(256)]),
            lambda: engine.encode_length(LENGTH, [b"", 5]),
            lambda: engine.encode_knl(0, 0, 1, [b"", bytes(2)], frame_bytes_max=1),
            lambda: engine.encode_knl(-1, 0, 1, []),
            lambda: engine.decoder(LENGTH).feed("text"),
            lambda: engine.decoder(LENGTH).filled(1),
            lambda: engine.parse_packet(b"short"),
            lambda: engine.assembler(2, 1),
            lambda: engine.reassembly(2, 1),
        ):
            with pytest.raises((ValueError, TypeError)):
                attempt()


def churn_messages(engine: Engine) -> None:
    for _ in range(200):
        assembler = engine.assembler(10, 10)
        assert assembler.add(b"hello") is None
        assert assembler.add(memoryview(b"world")) == b"helloworld"
        reassembly = engine.reassembly(3, 5)
        for index, packet in enumerate(engine.pack_fragments(0, 1, 2, b"hello", 26)):
            reassembly.place(index, engine.parse_packet(packet)[-1])
        assert reassembly.take() == b"hello"
        engine.encode_length(LENGTH, [memoryview(b"a"), bytearray(b"b")])
        engine.knl_header(0, 4, 1, b"abc")
        engine.crc32(b"abc")


@pytest.mark.parametrize("churn", [churn_frames, churn_lending, churn_errors, churn_messages])
def test_nothing_is_left_behind(engine, churn):
    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    churn(engine)
    before = blocks()
    for _ in range(3):
        churn(engine)
    assert blocks() - before < 100


def test_references_are_given_back(engine):
    layout, message = Length(width=1), b"a message of its own".upper()
    data = engine.encode_length(layout, [message] * 3)
    decoder = engine.decoder(layout)
    views = [memoryview(data)]
    before = [sys.getrefcount(thing) for thing in (message, data, *views)]
    for _ in range(100):
        engine.encode_length(layout, [message] * 3)
        decoder.feed(data)
        decoder.feed(views[0])
    assert [sys.getrefcount(thing) for thing in (message, data, *views)] == before


def test_an_error_that_was_raised_does_not_keep_its_decoder(engine):
    decoder = engine.decoder(LENGTH)
    kind = type(decoder)

    def names() -> set[int]:
        gc.collect()
        return {id(thing) for thing in gc.get_objects() if type(thing) is kind}

    before = names() - {id(decoder)}
    decoder.feed(b"\xff" * 8)
    with pytest.raises(DecodeError):
        decoder.feed(b"")
    del decoder
    assert names() <= before


ANNOUNCE = """
import sys
from kernel import framing
engine = framing.engine(sys.argv[1])
peers, limit, sent = map(int, sys.argv[2:])
start = engine.length_header(framing.Length(frame_bytes_max=limit), limit) + bytes(sent)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
decoders = [engine.decoder(framing.Length(frame_bytes_max=limit)) for _ in range(peers)]
before = resident()
for decoder in decoders:
    decoder.feed(start)
    view = decoder.wanted()
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize(("peers", "limit", "sent"), [(1000, 1 << 20, 0), (100, 1 << 24, 20_000)])
def test_peers_that_announce_much_and_send_little_cost_less_than_16_mebibytes(engine, peers, limit, sent):
    command = [sys.executable, "-P", "-c", ANNOUNCE, engine.name, str(peers), str(limit), str(sent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(result.stdout) < 16 << 20


STARVE = """
import resource
from kernel import framing
decoder = framing.engine("c").decoder(framing.Length(width=8, frame_bytes_max=1 << 40))
resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
try:
    decoder.feed((1 << 40).to_bytes(8) + b"the rest is lost")
except MemoryError:
    print("no memory")
try:
    decoder.feed(b"more")
except RuntimeError as error:
    print(error)
print(decoder.wanted())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of the address space that holds")
def test_a_decoder_that_found_no_memory_is_of_no_use_any_more(c_engine):
    result = subprocess.run(
        [sys.executable, "-P", "-c", STARVE], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines() == [
        "no memory",
        "the decoder is in use, or broke off in the middle of a chunk",
        "None",
    ]
