"""Endpoints: text in, text out, and the same again."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from kernel import Endpoint

NAMES = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
# Percent signs before what looks like hexadecimal digits are what goes wrong.
ADDRESSES = st.text(st.sampled_from("ab4%2 ?&=#+é/:[].@\n"), max_size=12)


@given(ADDRESSES, st.dictionaries(NAMES, ADDRESSES), st.sampled_from(["unix", "tcp"]))
def test_what_is_printed_can_be_read_again(address: str, options: dict[str, str], scheme: str) -> None:
    endpoint = Endpoint(scheme, address, options)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "tcp://[fe80::1%eth0]:7000",
        "tcp://127.0.0.1:0?framing=line",
        "unix:/run/a,b.sock",
        "chaos+tcp://127.0.0.1:7000?loss=1%&delay_seconds=5ms",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert str(Endpoint.parse(text)) == text
