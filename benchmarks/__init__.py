"""Measurements of this project, and of its peers beside it. Start with `python -m benchmarks.echo --short`."""
