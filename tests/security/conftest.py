"""Hostile input is tried on both framing engines: a test that takes `engine` runs once on each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from security import figures

from kernel.framing import EngineUnavailableError, engine as find_engine
from kernel.framing.engine import _default as default_engine


@pytest.fixture(params=["python", "c"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine that every session uses while the test runs."""
    try:
        find_engine(request.param)
    except EngineUnavailableError as error:
        if os.environ.get("KERNEL_REQUIRE_EXT") == "1":
            raise
        pytest.skip(str(error))
    monkeypatch.setenv("KERNEL_FRAMING", request.param)
    default_engine.cache_clear()
    yield request.param
    default_engine.cache_clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, for docs/limits.md."""
    if figures.measured:
        terminalreporter.section("measured")
        for figure in figures.measured:
            terminalreporter.write_line(str(figure))
