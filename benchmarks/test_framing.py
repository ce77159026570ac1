"""The framing engines under pytest-benchmark: `pytest benchmarks/test_framing.py`.

The same cases as `kernel bench framing`, one by one, grouped so that the engines and memcpy stand side by side; for
comparing commits (`--benchmark-autosave`, `--benchmark-compare`) and for a look at one of them (`-k`). For ratios use
`kernel bench framing` or `python -m benchmarks.framing`: they time contestants in turn.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kernel.bench.framing import SIZES, Case, Corpus, cases, contestants

CONTESTANTS = contestants()


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("case", cases(SIZES), ids=lambda case: f"{case.group}-{case.message}".replace(" ", "-"))
def test_framing(benchmark: BenchmarkFixture, case: Case, name: str) -> None:
    corpus = Corpus(case)
    run = CONTESTANTS[name](corpus)
    assert run is not None
    benchmark.group = f"{case.group}, messages of {case.message}"
    benchmark.extra_info["frames"] = len(corpus.messages)
    benchmark.extra_info["payload_bytes"] = corpus.payload_bytes
    benchmark(run)
