"""The load generator against one of the servers here; both compiled or started when they are needed."""

from __future__ import annotations

import resource

from benchmarks import native
from benchmarks.servers import Running
from kernel.bench import load as loading
from kernel.bench.load import Load, Sample


def sample(running: Running, load: Load, seconds: float, warmup_seconds: float, cpu: int | None) -> Sample:
    """Run the load generator once."""
    return loading.sample(native.load_generator(), running.target, load, seconds, warmup_seconds, cpu)


def held(running: Running, connections: int, cpu: int | None) -> loading.Held:
    """So many idle connections, for as long as the context lasts."""
    return loading.Held(loading.command(native.load_generator(), running.target, Load(16, 1, connections), cpu))


def raise_file_limit() -> None:
    """Thousands of connections need descriptors; the servers inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
