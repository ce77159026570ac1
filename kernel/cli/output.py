"""Data on stdout: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

import click


def print_json(data: object) -> None:
    """One JSON value, indented, with a newline."""
    import json

    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under heads; a last column that is empty in every row is left out."""
    shown = [heads, *rows] if any(row[-1] for row in rows) else [heads[:-1], *(row[:-1] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
