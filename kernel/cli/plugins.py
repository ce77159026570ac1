"""`kernel plugins`: what is installed, without importing any of it."""

from __future__ import annotations

import click

from kernel import config
from kernel.cli.output import print_json, print_table
from kernel.registry import Policy, Registry


@click.group()
def plugins() -> None:
    """Show which plugins are installed.

    \b
    Examples:
      kernel plugins list
      kernel plugins list --json
    """


@plugins.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects for programs.")
def list_(as_json: bool) -> None:
    """List the installed plugins. Nothing of them is imported.

    \b
    Examples:
      kernel plugins list
      kernel plugins list --json | jq -r '.[].name'
    """
    settings = config.load({})
    registry = Registry(Policy(settings.plugins_allowed, settings.plugins_denied))
    found = [(plugin, registry.verdict(plugin)) for plugin in registry.listing()]
    if as_json:
        print_json(
            [
                {
                    "kind": plugin.kind,
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "object": f"{plugin.module}:{plugin.attribute}",
                    "path": plugin.path,
                    "refused": refused or None,
                }
                for plugin, refused in found
            ]
        )
        return
    rows = [(p.kind, p.name, p.distribution, p.version, refused) for p, refused in found]
    print_table(("KIND", "NAME", "DISTRIBUTION", "VERSION", "REFUSED"), rows)
