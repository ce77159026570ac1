"""Measuring, on whoever's machine: what `kernel bench` runs, and what the repository's benchmarks/ builds upon."""
