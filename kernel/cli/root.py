"""The main command: which commands there are, and what becomes of an error.

A command is imported when it is called, and only that one; the help knows the others by this file's table and by the
registry. Whatever ends a command early is told in one line on stderr, `kernel: error: what, where, remedy`, and in the
exit code: 1 at run time, 2 for wrong usage, 3 when the server could not start, 130 when interrupted. A reader of our
output that goes away (`| head -1`) is no error.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from kernel.errors import KernelError, did_you_mean
from kernel.registry import COMMANDS, Plugin, Registry

INTERRUPTED = 130


class Own(NamedTuple):
    """A command that is part of the kernel: where it lies, and its line in the help."""

    module: str
    attribute: str
    help: str


OWN = {
    "bench": Own("kernel.cli.bench", "bench", "Measure on this machine."),
    "doctor": Own("kernel.cli.doctor", "doctor", "Look for what is wrong with this installation."),
    "keys": Own("kernel.cli.keys", "keys", "Make and look at shared keys."),
    "plugins": Own("kernel.cli.plugins", "plugins", "Look at plugins, check them, begin one of your own."),
    "serve": Own("kernel.cli.serve", "serve", "Serve plugins over any transports."),
}


class LazyGroup(click.Group):
    """The kernel's own commands and those of plugins. Our own names cannot be taken by a plugin."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.registry = Registry()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*OWN, *(plugin.name for plugin in self.registry.listing(COMMANDS))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN:
            from importlib import import_module

            own = OWN[cmd_name]
            command: click.Command = getattr(import_module(own.module), own.attribute)
            return command
        if cmd_name in self.list_commands(ctx):
            return self._load(cmd_name)
        return None

    def _load(self, name: str) -> click.Command:
        """A plugin's command; the settings say which plugins may be imported."""
        from kernel import config

        self.registry.policy = config.load({}).plugins_policy
        loaded: click.Command = self.registry.load(COMMANDS, name)
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            meant = did_you_mean(name, self.list_commands(ctx))
            raise click.UsageError(f"there is no command '{name}'" + (f": {meant}" if meant else ""), ctx)
        resolved = super().resolve_command(ctx, args)
        # Whatever was imported so far stays for good: from here on only the rest is looked through for garbage.
        gc.freeze()
        gc.enable()
        _set_up_log()
        return resolved

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, own.help) for name, own in OWN.items()])
        of_plugins = [(plugin.name, _help_of(plugin)) for plugin in self.registry.listing(COMMANDS)]
        if of_plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(of_plugins)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_leave():  # the help is printed here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_may_leave():
            return super().invoke(ctx)


def _set_up_log() -> None:
    """What a command logs looks like the server's log; `serve` sets it up once more, from all of its settings."""
    if "logging" in sys.modules:  # else the command cannot log
        from kernel import config, logs

        said = {name: os.environ[name] for name in ("KERNEL_LOG_LEVEL", "KERNEL_LOG_FORMAT") if name in os.environ}
        settings = config.merge([*config.variables(said), config.Layer("default", {"log_level": "warning"})])
        logs.configure(settings.log_level, settings.log_format)


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Nobody reads our output any longer: we are done."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        raise click.exceptions.Exit(0) from None


def discard_output() -> None:
    """Let what is printed go nowhere from now on, what is still buffered too: the interpreter flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _help_of(plugin: Plugin) -> str:
    """A line of help without importing the plugin."""
    if plugin.name in OWN:
        return f"Hidden by the command of the same name above ({plugin.origin})."
    return f"Talk to the {plugin.name} service ({plugin.origin})."


def _version_text() -> str:
    import platform

    from kernel import __version__
    from kernel.framing import engine_name

    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"kernel {__version__} (framing engine: {engine_name()}, {python})"


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(_version_text())
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def root() -> None:
    """Write a network service once, serve it over any transport.

    \b
    Examples:
      kernel serve --plugin echo                  serve echo on this machine
      kernel echo tcp://127.0.0.1:7420 hello      talk to it
      kernel plugins list                         see what can be served
    """


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        result = root.main(arguments, prog_name="kernel", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_with_hint(error), error.exit_code)
    except click.Abort:
        return INTERRUPTED
    except KernelError as error:
        if "--json" in arguments:
            _print_refusal(error)
        return _fail(str(error), error.exit_code, error)
    except OSError as error:
        return _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 1, error)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return _fail(f"this is a fault of the program, please report it: {what}", 1, error)
    return result if isinstance(result, int) else 0


def _with_hint(error: click.ClickException) -> str:
    """The message in one line, and where to read on."""
    if isinstance(error, click.NoSuchOption):
        meant = did_you_mean(error.option_name, error.possibilities or ())
        message = f"there is no option '{error.option_name}'" + (f": {meant}" if meant else "")
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return message
    return f"{message} ({error.ctx.command_path} --help shows what can be said)"


def _print_refusal(error: KernelError) -> None:
    """Who reads JSON gets an object also when there was no conversation: what the person reads, and the code of why."""
    code = getattr(error, "code", None)
    if code is not None:
        from kernel.cli.output import print_json

        print_json({"error": str(error), "code": code.label})


def _fail(message: str, code: int, error: Exception | None = None) -> int:
    """Say what went wrong; KERNEL_TRACEBACK=1 also says where in the program."""
    if error is not None and os.environ.get("KERNEL_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    from kernel.logs import printable

    click.echo(f"kernel: error: {printable(message)}", err=True)
    return code
