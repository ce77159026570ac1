"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest

_ENGINE_FIXTURES = {"engine", "engine_name"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of packages share the wheels that they build: they run in one process. Tests that try both engines in any
    case need no second run on the other one."""
    for item in items:
        if item.get_closest_marker("packaging"):
            item.add_marker(pytest.mark.xdist_group("packaging"))
        if _ENGINE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.both_engines)


def pytest_configure() -> None:
    """A job in a script's background starts with Ctrl-C ignored, and so would all that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
