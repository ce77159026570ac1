"""Both engines add up the sizes of messages alike."""

import pytest

from kernel.framing import engine


@pytest.mark.parametrize("name", ["c", "python"])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [([], (0, 0)), ([b""], (0, 0)), ([b"ab", b"", b"abc"], (5, 3)), ((b"a", bytearray(7)), (8, 7))],
)
def test_measure(name, messages, expected):
    assert engine(name).measure(messages) == expected
