"""What holds for all tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of packages share the wheels that they build: they run in one process."""
    for item in items:
        if item.get_closest_marker("packaging"):
            item.add_marker(pytest.mark.xdist_group("packaging"))
