"""`kernel shell`: run a command on a distant machine, or open a terminal there.

A command's streams are ours, byte for byte, and so is its exit status (128 and its number after a signal, 124 after a
time-out, 127 when there is no such command).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from kernel.commands import duration, run as run_command, secret_options
from kernel.errors import UsageError

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring


class _Shell(click.Command):
    """Whoever is used to ssh forgets the two dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        said = [word for word in args if not word.startswith("-")]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if len(said) < 2:
                raise
            what = f"there is no option '{error.option_name}': what belongs to CMD stands after --"
            raise click.UsageError(f"{what}: kernel shell ENDPOINT -- CMD {error.option_name}", ctx) from None


@click.command(cls=_Shell, short_help="Run a command on a distant machine, or open a terminal there.")
@click.argument("endpoint")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD [ARGS]...]")
@click.option("--timeout", callback=duration, metavar="SECONDS", help="End the command after this time: 10, 500ms, 5m.")
@click.option("--cwd", default="", metavar="DIRECTORY", help="Where the command starts.")
@click.option(
    "--env", multiple=True, metavar="NAME=VALUE", help="A variable for the command; NAME alone: ours. Repeats."
)
@click.option("-t", "--tty", is_flag=True, help="Give CMD a terminal, too.")
@click.option("--attach", default="", metavar="SESSION", help="Go on with a session that was detached.")
@click.option("--output-encoding", default="", metavar="NAME", help="What the output is written in there, such as gbk.")
@click.option("--raw", is_flag=True, help="Control characters reach our terminal as they are.")
@secret_options
def shell(
    endpoint: str,
    argv: tuple[str, ...],
    timeout: float | None,
    cwd: str,
    env: tuple[str, ...],
    tty: bool,
    attach: str,
    output_encoding: str,
    raw: bool,
    keys: Keyring | None,
) -> int:
    """Run CMD on the server's machine with our standard input, output and error; without CMD, open a terminal there.

    \b
    Examples:
      kernel shell unix:/run/kernel.sock                       a terminal
      kernel shell unix:/run/kernel.sock -- df -h
      tar c . | kernel shell tls+tcp://host:7000 --secret-file ops.key -- tar x
      kernel shell unix:/run/kernel.sock --timeout 5m -- make test > log

    The exit status is the command's: 128 and the signal's number when one ended it, 124 when its time was up, 127 when
    there is no such command. In a terminal, ~ at the start of a line is ours: ~. disconnects, ~d detaches, ~? shows
    more.
    """
    from . import views
    from .protocol import Request

    request = Request(list(argv), _variables(env), _locale(), cwd, timeout or 0.0, attach=attach)
    if attach and (argv or env or cwd or timeout):
        raise UsageError("--attach goes on with what runs: leave CMD, --env, --cwd and --timeout out")
    if tty or attach or (not argv and os.isatty(0)):
        from . import terminal

        return run_command(terminal.run(endpoint, request, keys, views.make(output_encoding, harmless=False)))
    from . import pipes

    def view(descriptor: int) -> views.View | None:
        return views.make(output_encoding, harmless=os.isatty(descriptor) and not raw)

    return run_command(pipes.run(endpoint, request, keys, view))


def _locale() -> dict[str, str]:
    """What a terminal's programs want to know about ours."""
    names = ("LANG", "COLORTERM", "NO_COLOR", "TZ")
    return {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name:
            raise UsageError(f"--env '{pair}' is not NAME=VALUE")
        if not equals and name not in os.environ:
            raise UsageError(f"--env {name}: it is not set here: write {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables
