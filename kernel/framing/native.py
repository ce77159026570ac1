"""The C engine: the builtin functions and types of the module kernel._bridge.

That module lives in the same library as cffi's kernel._framing, so it is loaded from there by name. Loading it needs
nothing of cffi's; whoever wants the C core itself imports `ffi` and `lib` from kernel._framing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from types import ModuleType

from kernel.framing.interface import Engine

_LIBRARY = "kernel._framing"
_MODULE = "kernel._bridge"


def _load_bridge() -> ModuleType:
    library = importlib.util.find_spec(_LIBRARY)
    if library is None or library.origin is None:
        raise ImportError(f"{_LIBRARY} was not built")
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, library.origin)
    spec = importlib.util.spec_from_file_location(_MODULE, library.origin, loader=loader)
    assert spec is not None
    bridge = importlib.util.module_from_spec(spec)
    loader.exec_module(bridge)
    return bridge


_bridge = _load_bridge()

ENGINE = Engine(
    name="c",
    length_decoder=_bridge.length_decoder,
    knl_decoder=_bridge.knl_decoder,
    length_header=_bridge.length_header,
    encode_length=_bridge.encode_length,
    knl_header=_bridge.knl_header,
    encode_knl=_bridge.encode_knl,
    measure=_bridge.measure,
    crc32=_bridge.crc32,
    assembler=_bridge.assembler,
    parse_packet=_bridge.parse_packet,
    pack_fragments=_bridge.pack_fragments,
    reassembly=_bridge.reassembly,
)

make_length_lane, make_knl_lane = _bridge.length_lane, _bridge.knl_lane
"""The short way between a socket and a service, for kernel/lane.py: what decodes and encodes there is this engine."""

make_account = _bridge.account
"""The numbers that a lane and its session share: see kernel/session/account.py."""

make_batches, BATCH_BYTES = getattr(_bridge, "batches", None), getattr(_bridge, "BATCH_BYTES", 0)
"""Many datagrams in one system call, where the system has such a one: see kernel/batches.py."""
