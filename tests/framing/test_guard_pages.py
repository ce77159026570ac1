"""No byte is read beyond a buffer: each vector, cut anywhere, at the very end and the very start of mapped memory.

A page without any access lies behind the last byte, or before the first. Reading it kills the process, this one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Callable

import pytest
from framing.streams import outcome
from framing.vectors import Case, cases, flat, layout_of

from kernel.framing import DecodeError, Engine

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect by way of libc")

PAGE = mmap.PAGESIZE
PROT_NONE = 0
Place = Callable[[bytes], memoryview]


@pytest.fixture(scope="module")
def memory() -> memoryview:
    """One accessible page between two that aren't."""
    mapping = mmap.mmap(-1, 3 * PAGE)
    view = memoryview(mapping)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (address, address + 2 * PAGE):
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return view[PAGE : 2 * PAGE]


@pytest.fixture(params=["end", "start"])
def place(request: pytest.FixtureRequest, memory: memoryview) -> Place:
    """Puts bytes at an edge of the accessible page."""

    def at_edge(data: bytes) -> memoryview:
        start = PAGE - len(data) if request.param == "end" else 0
        memory[start : start + len(data)] = data
        return memory[start : start + len(data)]

    return at_edge


@pytest.mark.parametrize("case", cases("length", "knl"))
def test_decoders_stay_within_each_chunk(engine: Engine, case: Case, place: Place) -> None:
    for point in range(len(case.data) + 1):
        decoder = engine.decoder(layout_of(case))
        frames, _, _ = outcome(decoder, (place(part) for part in (case.data[:point], case.data[point:])))
        assert frames == flat(case)[0]


@pytest.mark.parametrize("case", cases("packet"))
def test_packets_are_not_read_beyond_their_end(engine: Engine, case: Case, place: Place) -> None:
    for size in range(len(case.data) + 1):
        with contextlib.suppress(DecodeError):
            assert engine.parse_packet(place(case.data[:size])) == engine.parse_packet(case.data[:size])


def test_encoders_and_checksums_stay_within_what_they_are_given(engine: Engine, place: Place) -> None:
    for size in range(300):
        data = place(bytes(size))
        assert engine.crc32(data) == engine.crc32(bytes(size))
        assert engine.knl_header(0, 4, 1, data) == engine.knl_header(0, 4, 1, bytes(size))
        assert engine.encode_knl(0, 4, 1, [data]) == engine.encode_knl(0, 4, 1, [bytes(size)])
        assert engine.assembler(size, size).add(data) == bytes(size)
        assert len(engine.pack_fragments(0, 0, 0, data, 50)) == max(1, -(-size // 26))
