"""Every test that takes `engine` runs once on each engine."""

import os

import pytest

from kernel import framing


@pytest.fixture(params=["python", "c"])
def engine(request: pytest.FixtureRequest) -> framing.Engine:
    try:
        return framing.engine(request.param)
    except framing.EngineUnavailableError as error:
        if os.environ.get("KERNEL_REQUIRE_EXT") == "1":
            raise
        pytest.skip(str(error))
