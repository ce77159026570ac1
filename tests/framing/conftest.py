"""Every test that takes `engine` runs once on each engine."""

import os

import pytest

from kernel import framing


def engine_or_skip(name: str) -> framing.Engine:
    try:
        return framing.engine(name)
    except framing.EngineUnavailableError as error:
        if os.environ.get("KERNEL_REQUIRE_EXT") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(params=["python", "c"])
def engine(request: pytest.FixtureRequest) -> framing.Engine:
    return engine_or_skip(request.param)


@pytest.fixture(scope="session")
def c_engine() -> framing.Engine:
    """The C engine, for what only it can show."""
    return engine_or_skip("c")
