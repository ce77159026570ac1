"""The Python engine: what serves where there is no C module, and what the C engine is held against."""

from zlib import crc32

from kernel.framing.interface import Engine
from kernel.framing.pure.assembler import Assembler
from kernel.framing.pure.datagram import Reassembly, pack_fragments, parse_packet
from kernel.framing.pure.knl import KnlDecoder, encode_knl, knl_header
from kernel.framing.pure.length import LengthDecoder, encode_length, length_header, measure

ENGINE = Engine(
    name="python",
    length_decoder=LengthDecoder,
    knl_decoder=KnlDecoder,
    length_header=length_header,
    encode_length=encode_length,
    knl_header=knl_header,
    encode_knl=encode_knl,
    measure=measure,
    crc32=crc32,
    assembler=Assembler,
    parse_packet=parse_packet,
    pack_fragments=pack_fragments,
    reassembly=Reassembly,
)
