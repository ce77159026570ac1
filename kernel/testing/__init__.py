"""The conformance kit: prove that a plugin keeps what the interface (`kernel.api`) promises.

    class TestMyTransport(TransportSuite):
        transport = MyTransport

Under pytest, or without it by `kernel plugins check NAME`. It needs nothing that the kernel itself does not need.
"""

from __future__ import annotations

from kernel.testing.checks import CheckFailed, Outcome, Suite, check, require, run_checks, skip
from kernel.testing.clock import Deadlock, VirtualLoop
from kernel.testing.framings import FramingSuite, Outcomes
from kernel.testing.plugins import LocalRegistry
from kernel.testing.services import ServiceSuite
from kernel.testing.transports import TransportSuite

__all__ = [
    "CheckFailed",
    "Deadlock",
    "FramingSuite",
    "LocalRegistry",
    "Outcome",
    "Outcomes",
    "ServiceSuite",
    "Suite",
    "TransportSuite",
    "VirtualLoop",
    "check",
    "require",
    "run_checks",
    "skip",
]
