"""Every test that takes `engine_name` runs once on each engine."""

import os

import pytest

from kernel import framing


@pytest.fixture(params=["python", "c"])
def engine_name(request: pytest.FixtureRequest) -> str:
    try:
        return framing.engine(request.param).name
    except framing.EngineUnavailableError as error:
        if os.environ.get("KERNEL_REQUIRE_EXT") == "1":
            raise
        pytest.skip(str(error))
