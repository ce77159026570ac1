"""The built-in transports, through the same kit as everybody else's."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from kernel.testing import TransportSuite


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
