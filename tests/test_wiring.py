"""From an endpoint's text to what serves it: who gets which option, and what wraps what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from kernel import Acceptor, Capabilities, Connection, Layer, Limits, Listener, OptionError, PluginError, Transport
from kernel.framing.entry import KnlFraming, LineFraming
from kernel.registry import FRAMINGS, LAYERS, TRANSPORTS, Registry
from kernel.wiring import Wiring, wire


class Plain(Transport):
    """Remembers what it was made of."""

    name = "plain"

    @dataclass(frozen=True)
    class Options:
        depth: int = 0
        framing: str = ""

    def capabilities(self) -> Capabilities:
        return Capabilities(local_only=True)

    async def listen(self, accept: Acceptor) -> Listener:
        raise NotImplementedError

    async def dial(self) -> Connection:
        raise NotImplementedError


class Wrapper(Layer):
    name = "wrapper"

    @dataclass(frozen=True)
    class Options:
        colour: str = "red"
        depth: int = 0

    listen = Plain.listen
    dial = Plain.dial


class Secret(Wrapper):
    name = "secret"

    @dataclass(frozen=True)
    class Options:
        key: str = ""

    def capabilities(self) -> Capabilities:
        return Capabilities(encrypted=True, local_only=self.inner.capabilities().local_only)


class Fixed(Registry):
    """Exactly these plugins, wherever they come from."""

    def load(self, group: str, name: str) -> Any:
        known = {
            (TRANSPORTS, "plain"): Plain,
            (LAYERS, "wrapper"): Wrapper,
            (LAYERS, "secret"): Secret,
            (FRAMINGS, "knl"): KnlFraming,
            (FRAMINGS, "line"): LineFraming,
        }
        return known[group, name] if (group, name) in known else super().load(group, name)


def wired(endpoint: str) -> Wiring:
    return wire(endpoint, Fixed(), Limits(), client=True)


def test_layers_stand_around_the_transport_in_the_order_of_the_text():
    transport = wired("secret+wrapper+plain://here").transport

    assert isinstance(transport, Secret)
    assert isinstance(transport.inner, Wrapper)
    assert isinstance(transport.inner.inner, Plain)


def test_all_of_them_see_the_whole_endpoint():
    transport = wired("wrapper+plain://here?colour=blue").transport

    assert isinstance(transport, Wrapper)
    assert str(transport.endpoint) == str(transport.inner.endpoint) == "wrapper+plain://here?colour=blue"


def test_an_option_goes_to_the_outermost_that_knows_it():
    transport = wired("wrapper+plain://here?colour=blue&depth=3").transport

    assert isinstance(transport, Wrapper)
    assert transport.options == Wrapper.Options("blue", 3)
    assert transport.inner.options == Plain.Options(depth=0, framing="knl")


def test_a_transport_that_asks_is_told_the_framing():
    transport = wired("wrapper+plain://here?framing=line").transport

    assert isinstance(transport, Wrapper)
    assert transport.inner.options == Plain.Options(framing="line")


def test_what_the_outermost_layer_gives_is_what_counts():
    framed = Capabilities(local_only=True, preserves_messages=True)
    assert wired("secret+plain://here").capabilities == replace(framed, encrypted=True)
    assert wired("wrapper+plain://here").capabilities == framed


def test_a_framing_keeps_messages_apart_unless_it_is_raw():
    assert wired("plain://here?framing=line").capabilities.preserves_messages
    assert not wired("plain://here?framing=raw").capabilities.preserves_messages
    assert not wired("plain://here?recv=raw&send=line").capabilities.preserves_messages


@pytest.mark.parametrize(
    ("endpoint", "error", "message"),
    [
        ("wrapper+plain://here?color=blue", OptionError, "has no option 'color': did you mean 'colour'"),
        (
            "wrapper+plain://here?depth=deep",
            OptionError,
            "the layer wrapper: option 'depth=deep': write a whole number",
        ),
        ("wrapper+plain://here?framing=line&line_bytes=3", OptionError, "did you mean 'line_bytes_max'"),
        ("wraper+plain://here", PluginError, "there is no layer 'wraper'"),
        ("wrapper+plane://here", PluginError, "there is no transport 'plane'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(endpoint: str, error: type[Exception], message: str):
    with pytest.raises(error) as raised:
        wired(endpoint)

    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "limits", "named"),
    [
        ("?frame_bytes_max=100", Limits(), "frame_bytes_max is 100"),
        ("?frame_bytes_max=1GiB", Limits(), "frame_bytes_max is 1073741824"),
        ("", Limits(channel_credit_bytes=63), "channel_credit_bytes is 63"),
        ("", Limits(connection_credit_bytes=1 << 31), "connection_credit_bytes is 2147483648"),
        ("?framing=raw", Limits(channel_credit_bytes=63), ""),
    ],
)
def test_limits_that_the_protocol_cannot_say_are_refused_at_the_start(options: str, limits: Limits, named: str) -> None:
    if not named:
        wire(f"tcp://127.0.0.1:0{options}", Registry(), limits, client=False)
        return
    with pytest.raises(OptionError, match=named):
        wire(f"tcp://127.0.0.1:0{options}", Registry(), limits, client=False)
