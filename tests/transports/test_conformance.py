"""The built-in transports, through the same kit as everybody else's."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from kernel.testing import TransportSuite, VirtualLoop


class TestTcp(TransportSuite):
    endpoint = "tcp://127.0.0.1:0"


class TestTcpOverIPv6(TransportSuite):
    endpoint = "tcp://[::1]:0"


class TestTcpUnderUvloop(TransportSuite):
    endpoint = "tcp://127.0.0.1:0"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class TestUnix(TransportSuite):
    endpoint = "unix:{directory}/socket"


@pytest.mark.skipif("sys.platform != 'linux'")
class TestUnixAbstract(TransportSuite):
    endpoint = "unix:@{unique}"


class TestTls(TransportSuite):
    endpoint = "tls+tcp://127.0.0.1:0?self_signed={directory}/certificate.pem"


class TestTlsUnderUvloop(TransportSuite):
    endpoint = "tls+unix:{directory}/socket?self_signed={directory}/certificate.pem"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class TestUdp(TransportSuite):
    endpoint = "udp://127.0.0.1:0"


class TestUdpOverIPv6UnderUvloop(TransportSuite):
    endpoint = "udp://[::1]:0"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class TestSim(TransportSuite):
    endpoint = "sim://{unique}"


class TestSimOnVirtualTime(TransportSuite):
    endpoint = "sim://{unique}?delay_seconds=20ms&jitter_seconds=20ms&loss=2%&bandwidth_bytes_per_second=20MiB"
    quiet_seconds = 3.0
    patience_seconds = 600.0
    check_seconds_max = 3600.0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()


class TestSimDatagrams(TransportSuite):
    endpoint = "sim://{unique}?mode=datagram"


class TestSimDatagramsOnVirtualTime(TransportSuite):
    endpoint = "sim://{unique}?mode=datagram&delay_seconds=20ms"
    quiet_seconds = 3.0
    patience_seconds = 600.0
    check_seconds_max = 3600.0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()


class TestChaosOverTcp(TransportSuite):
    endpoint = "chaos+tcp://127.0.0.1:0?delay_seconds=1ms&jitter_seconds=1ms"


class TestChaosOverUdp(TransportSuite):
    endpoint = "chaos+udp://127.0.0.1:0"


class TestChaosOverSim(TransportSuite):
    endpoint = "chaos+sim://{unique}?delay_seconds=20ms&jitter_seconds=20ms&loss=1%&bandwidth_bytes_per_second=20MiB"
    quiet_seconds = 3.0
    patience_seconds = 600.0
    check_seconds_max = 3600.0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()
