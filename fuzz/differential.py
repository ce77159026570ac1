"""Both framing engines on millions of inputs: python fuzz/differential.py [--seconds S | --inputs N] [--seed N]

The invariant: same frames, same errors in the same words, same bytes left over. An input is named by its seed; the
first one on which the engines differ is printed with it, and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from framing.differential import decode, encode, make_input, make_packet, parse

from kernel import framing


def agree(c: framing.Engine, python: framing.Engine, seed: int) -> bool:
    source = random.Random(seed)
    case = make_input(source)
    if decode(c, case) != decode(python, case):
        print(f"seed {seed}: decoding differs\n{case}\nc       {decode(c, case)}\npython  {decode(python, case)}")
        return False
    messages = [source.randbytes(source.randrange(50)) for _ in range(source.randrange(4))]
    if encode(c, case.layout, messages) != encode(python, case.layout, messages):
        print(f"seed {seed}: encoding differs\n{case.layout}\n{messages}")
        return False
    packet = make_packet(source)
    if parse(c, packet) != parse(python, packet):
        print(f"seed {seed}: parsing differs\n{packet.hex()}")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to run (30)")
    parser.add_argument("--inputs", type=int, help="how many inputs to make, however long that takes")
    parser.add_argument("--seed", type=int, default=0, help="where to begin (0)")
    options = parser.parse_args()

    engines = framing.engine("c"), framing.engine("python")
    end = time.monotonic() + options.seconds
    seed = options.seed
    while seed - options.seed < options.inputs if options.inputs else time.monotonic() < end:
        if not agree(*engines, seed):
            return 1
        seed += 1
    print(f"{seed - options.seed} inputs from seed {options.seed} on: the engines agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
