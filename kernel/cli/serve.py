"""`kernel serve`: settings in, a running server out, until a signal says stop.

The first SIGTERM or SIGINT drains, a second one forces, a third one ends the process even where a plugin does not let
go; SIGHUP reads the settings again. Signal handlers only set state. stdout gets what a person needs (the bound
endpoints and how to talk to them), stderr the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import click

from kernel import commands, config, logs
from kernel.auth.policy import AccessPolicy
from kernel.cli import supervision
from kernel.cli.banner import banner
from kernel.cli.root import INTERRUPTED, discard_output
from kernel.credentials import find_keys
from kernel.errors import KernelError, UsageError
from kernel.registry import Registry
from kernel.server import Server

DEFAULT_PORT = 7420

log = logging.getLogger("kernel.serve")


@click.command(short_help="Serve plugins over any transports.")
@click.option("--plugin", multiple=True, metavar="NAME[?OPTION=VALUE&...]", help="A service to serve; repeats.")
@click.option("--listen", multiple=True, metavar="ENDPOINT", help="Where to listen; repeats.")
@click.option("--config", "config_file", default="", metavar="FILE", help="A TOML file that says what flags can say.")
@click.option("--ready-file", metavar="FILE", help="Written once everything listens: JSON with pid and endpoints.")
@click.option("--monitor", metavar="ENDPOINT", help="Tell operators over HTTP: /healthz, /readyz, /metrics.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Change a limit (docs/limits.md); repeats."
)
@click.option("--secret-file", metavar="FILE", help="Peers prove a key of FILE; `kernel keys new FILE` makes one.")
@click.option("--secret-fd", type=click.IntRange(min=0), metavar="N", help="The same, from an inherited descriptor.")
@click.option(
    "--policy", multiple=True, metavar="PRINCIPAL=SERVICE,...", help="Who may open what; repeats. Others may nothing."
)
@click.option(
    "--allow-insecure-network",
    is_flag=True,
    default=None,
    help="Listen on the network without authentication or encryption.",
)
@click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), help="The event loop; auto: uvloop if there.")
@click.option("--strict-plugins", is_flag=True, default=None, help="A broken plugin ends the start.")
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="How much to log; info unless told.")
@click.option("--log-format", type=click.Choice(logs.FORMATS), help="Text for people, json for programs.")
@click.option("--access-log", is_flag=True, default=None, help="Log each channel when it is over: who, what, why.")
@click.option("-v", "--verbose", is_flag=True, help="The same as --log-level debug.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings only, and do not print the endpoints.")
def serve(config_file: str, verbose: bool, quiet: bool, **flags: Any) -> int:
    """Serve plugins over any transports.

    \b
    Examples:
      kernel serve --plugin echo
      kernel serve --plugin echo --listen tcp://127.0.0.1:7000 --listen udp://127.0.0.1:7000
      kernel serve --plugin 'echo?mode=upper' --listen 'tcp://127.0.0.1:7001?framing=raw'
      kernel serve --config server.toml

    Without --listen: the loopback port 7420, and kernel.sock in your runtime directory. Each option can also be set
    in a configuration file, or as a variable: KERNEL_LISTEN, KERNEL_LOG_LEVEL.
    """
    if verbose or quiet:
        flags["log_level"] = flags["log_level"] or ("debug" if verbose else "warning")
    said = {name: value for name, value in flags.items() if value not in (None, ())}
    if "policy" in said:
        said["policy"] = config.policy_pairs(said["policy"], "--policy")
    if "limits" in said:
        said["limits"] = config.limit_pairs(said["limits"], "--limit")

    def load() -> config.Settings:
        return config.load(said, config_file=config_file)

    settings = load()
    logs.configure(settings.log_level, settings.log_format)
    if settings.access_log:
        logging.getLogger("kernel.access").setLevel(logging.INFO)  # also where -q wants nothing else
    return commands.run(_serve(settings, load, quiet), settings.loop)


async def _serve(settings: config.Settings, load: Callable[[], config.Settings], quiet: bool) -> int:
    """Run the server from start to drained; returns the exit code."""
    registry = Registry(settings.plugins_policy)
    if not settings.plugin:
        names = ", ".join(plugin.name for plugin in registry.listing("kernel.services")) or "none"
        raise UsageError(f"there is nothing to serve: add --plugin NAME (installed: {names})")
    listen = settings.listen or supervision.inherited_endpoints(os.environ) or supervision.local_endpoints(DEFAULT_PORT)
    server = Server(
        settings.plugin,
        listen,
        limits=settings.limits,
        registry=registry,
        keys=find_keys(settings.secret_file, settings.secret_fd),
        policy=AccessPolicy(settings.policy),
        allow_insecure_network=settings.allow_insecure_network,
        strict_plugins=settings.strict_plugins,
        access_log=settings.access_log,
    )
    stopping = _watch_signals(lambda: _reload(load, server))
    monitor = _monitor(server, settings.monitor, registry)
    try:
        if monitor is not None:
            await monitor.start()
        await server.start()
        endpoints = [str(endpoint) for endpoint in server.endpoints]
        told = {"monitor": str(monitor.endpoints[0].without_options())} if monitor is not None else {}
        with supervision.ready(settings.ready_file, endpoints, told):
            if not quiet:
                _show(banner(server, registry, monitor))
            await stopping.wait()
        log.info("draining, a second signal forces")
        await server.drain()
    except asyncio.CancelledError:
        return INTERRUPTED
    finally:
        await server.stop()
        if monitor is not None:
            await monitor.stop()
    return 0


def _monitor(server: Server, endpoint: str, registry: Registry) -> Server | None:
    """Who tells operators about the server, where somebody wants that."""
    if not endpoint:
        return None
    from kernel.monitor import monitor_of

    return monitor_of(server, endpoint, registry)


def _show(text: str) -> None:
    """A server that listens goes on when nobody reads where."""
    try:
        click.echo(text)
    except OSError as error:
        log.warning("the endpoints cannot be printed: %s", error.strerror)
        discard_output()


def _watch_signals(reload: Callable[[], None]) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second cancels the current task, the third ends it all."""
    loop, task, stopping = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def stop() -> None:
        if not stopping.is_set():
            stopping.set()
        elif not (task.done() or task.cancelling()):
            task.cancel()
        else:  # tasks that ignore their cancellation: asyncio would wait for them for ever
            os._exit(INTERRUPTED)

    loop.add_signal_handler(signal.SIGTERM, stop)
    # Ignored from the start: a background job of a script, whose Ctrl-C is meant for others.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    return stopping


def _reload(load: Callable[[], config.Settings], server: Server) -> None:
    """Read the settings again, and take over those that can change while the server runs."""
    try:
        settings = load()
        # What a descriptor gave has been read, and is gone.
        keys = server.keys if settings.secret_fd is not None else find_keys(settings.secret_file)
        server.set_access(keys, AccessPolicy(settings.policy))
    except KernelError as error:
        log.error("the settings stay as they were: %s", error)
        return
    server.set_limits(settings.limits)
    log.info("the settings were read again: keys, policy, limits and log level hold from now on")
    logs.set_level(settings.log_level)
