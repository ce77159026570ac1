"""`kernel doctor`: look at this installation as `kernel serve` would find it, and say what to do about what is wrong.

It changes nothing: sockets are probed, ports are bound for a moment and let go. To know whether a plugin works it is
imported, as far as the settings allow it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import click

from kernel.cli.output import print_json

Level = Literal["ok", "warning", "problem"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: engine, settings, plugins, listeners, descriptors, keys.
        level: ok; warning: it works, and could be better; problem: something will not work.
        what: in one line.
        remedy: what to do; empty where nothing has to be done.
    """

    area: str
    level: Level
    what: str
    remedy: str = ""


@click.command(short_help="Look for what is wrong with this installation.")
@click.option("--config", "config_file", default="", metavar="FILE", help="Look at what this configuration would do.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects for programs.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and problems.")
def doctor(config_file: str, as_json: bool, quiet: bool) -> int:
    """Look for what is wrong: engine, settings, plugins, sockets and ports, descriptors, keys.

    \b
    Examples:
      kernel doctor
      kernel doctor --config server.toml --json

    Nothing is changed, and a server that runs is not disturbed. The exit code is 1 when there is a problem.
    """
    from kernel.cli import examinations

    found = list(examinations.all_findings(config_file))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        for finding in found:
            if not quiet or finding.level != "ok":
                click.echo(f"{finding.level:<7}  {finding.area:<11}  {finding.what}")
            if finding.remedy:
                click.echo(f"{'':<22}remedy: {finding.remedy}")
    return 1 if any(finding.level == "problem" for finding in found) else 0
