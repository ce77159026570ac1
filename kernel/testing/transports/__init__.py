"""The checks of a transport. See `TransportSuite`."""

from __future__ import annotations

from kernel.testing.transports.data import DataChecks
from kernel.testing.transports.ends import EndChecks
from kernel.testing.transports.places import PlaceChecks


class TransportSuite(PlaceChecks, DataChecks, EndChecks):
    """Everything that a transport promises (`kernel.api.Transport`), one check a promise.

        class TestMine(TransportSuite):
            transport = Mine                      # also when it is not installed
            endpoint = "mine://127.0.0.1:0"       # left out: the transport's own `example`

    What a transport does not declare in its `Capabilities` is not asked of it. In `endpoint`, `{directory}` stands for
    a new directory and `{unique}` for a new name, so that each listener gets a place of its own.
    """


__all__ = ["TransportSuite"]
