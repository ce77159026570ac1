"""Writes the vectors of tests/vectors as seeds for fuzz_kf.c: python fuzz/seeds.py DIRECTORY

Each seed is settings and a stream: libFuzzer finds out by itself which settings suit which bytes.
"""

import sys
from pathlib import Path

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
KNL = bytes([1, 0, 0xFF, 0, 0, 0, 3, 0])
LENGTH = bytes([0, 2, 0xFF, 0, 0, 4, 3, 0])


def streams() -> list[bytes]:
    """What arrives in each case."""
    found: list[bytes] = []
    for path in sorted(VECTORS.glob("*.txt")):
        for line in path.read_text().splitlines():
            word, _, rest = line.split("#")[0].partition(" ")
            if line.startswith("=="):
                found.append(b"")
            elif word == "in":
                found[-1] += bytes.fromhex(rest)
    return found


def main() -> None:
    directory = Path(sys.argv[1])
    for number, stream in enumerate(streams()):
        for name, settings in (("knl", KNL), ("length", LENGTH)):
            (directory / f"{name}-{number}").write_bytes(settings + stream)


if __name__ == "__main__":
    main()
