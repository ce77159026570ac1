"""`kernel plugins`: what is installed, what a plugin says of itself, whether it keeps its promises, and a new one."""

from __future__ import annotations

import dataclasses
import shlex

import click

from kernel import config
from kernel.cli.output import print_json, print_table
from kernel.endpoint import Endpoint
from kernel.errors import PluginError, UsageError, did_you_mean
from kernel.registry import Plugin, Registry

KINDS = ("transport", "layer", "service", "framing", "command")


@click.group()
def plugins() -> None:
    """Look at plugins, check them, begin one of your own.

    \b
    Examples:
      kernel plugins list
      kernel plugins info echo
      kernel plugins check echo
      kernel plugins new my-transport --kind transport
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
    registry = _registry()
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


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Of several plugins of one name, only this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects for programs.")
def info(name: str, kind: str | None, as_json: bool) -> int:
    """Show what the plugins called NAME are and take: options, defaults, needs, where they come from.

    \b
    Examples:
      kernel plugins info tcp
      kernel plugins info echo --kind service --json

    They are imported for it, unless the configuration denies them. The exit code is 1 when one cannot be used.
    """
    from kernel.cli import plugin_info

    registry = _registry()
    found = [plugin_info.facts(plugin, registry) for plugin in named(registry, name, kind)]
    if as_json:
        print_json(found)
    else:
        click.echo("\n\n".join(map(plugin_info.text, found)))
    return 1 if any(facts["refused"] for facts in found) else 0


@plugins.command()
@click.argument("name", metavar="NAME[?OPTION=VALUE&...]")
@click.option("--kind", type=click.Choice(KINDS), help="Of several plugins of one name, only this kind.")
@click.option(
    "--endpoint", default="", metavar="ENDPOINT", help="Where to try it [its own example; a service: sim://]."
)
@click.option(
    "--say", "messages", multiple=True, metavar="TEXT", help="A message that a service understands; repeats, in order."
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects for programs.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what failed.")
def check(name: str, kind: str | None, endpoint: str, messages: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Run the conformance kit on the plugins called NAME: does each keep what the interface promises?

    \b
    Examples:
      kernel plugins check tcp
      kernel plugins check 'echo?mode=upper'
      kernel plugins check chaos --endpoint 'chaos+unix:{directory}/socket?delay_seconds=1ms'
      kernel plugins check length?width=2 --json

    The exit code is 1 when a check fails. In options and endpoints {directory} stands for a new directory, {unique} for
    a new name. A plugin's own tests can run the same kit under pytest: kernel.testing.
    """
    from kernel.cli import plugin_check

    asked = Endpoint.parse(f"plugin://{name}")
    options = name.partition("?")[2]
    registry = _registry()
    report: list[dict[str, object]] = []
    for plugin in named(registry, asked.address, kind):
        said = [message.encode() for message in messages]
        suite = plugin_check.suite_of(plugin, registry, options, endpoint, said)
        if not (as_json or quiet):
            click.echo(f"{plugin.kind} {plugin.name} ({plugin.origin})")
        for outcome in plugin_check.outcomes(suite):
            report.append({"kind": plugin.kind, "name": plugin.name, **dataclasses.asdict(outcome)})
            if not as_json and (outcome.status == "failed" or not quiet):
                click.echo(plugin_check.line(outcome))
    if as_json:
        print_json(report)
    return 1 if any(outcome["status"] == "failed" for outcome in report) else 0


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["transport", "service", "framing"]), required=True, help="What it will be.")
@click.option("--directory", default="", metavar="DIRECTORY", help="Where to write it [NAME].")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def new(name: str, kind: str, directory: str, quiet: bool) -> None:
    """Write a small distribution with a plugin called NAME that works, its tests, and a README.

    \b
    Examples:
      kernel plugins new my-transport --kind transport
      kernel plugins new wave --kind service --directory ~/src/wave

    Nothing that exists is overwritten. docs/plugin-author.md leads from there to a distribution that is published.
    """
    from kernel import scaffold

    planned = scaffold.plan(name, kind, directory)
    scaffold.write(planned)
    if quiet:
        return
    click.echo(f"made {planned.directory}:")
    for path in planned.files:
        click.echo(f"  {path}")
    click.echo(f"next:\n  cd {shlex.quote(str(planned.directory))} && pip install -e '.[test]' && pytest && mypy")
    click.echo(f"  kernel plugins check {name}")


def named(registry: Registry, name: str, kind: str | None) -> list[Plugin]:
    """The plugins of a name, of one kind or of all.

    Raises:
        PluginError: there is none.
    """
    if not name:
        raise UsageError("NAME is empty: `kernel plugins list` shows the names")
    installed = [plugin for plugin in registry.listing() if kind in (None, plugin.kind)]
    found = [plugin for plugin in installed if plugin.name == name]
    if not found:
        meant = did_you_mean(name, {plugin.name for plugin in installed})
        raise PluginError(
            f"there is no {kind or 'plugin'} '{name}': {meant or '`kernel plugins list` shows what is installed'}"
        )
    return found


def _registry() -> Registry:
    return Registry(config.load({}).plugins_policy)
