"""What `kernel serve` prints when it is ready: each endpoint, and commands that talk to it, ready to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from kernel import __version__
from kernel.auth.level import HMAC
from kernel.endpoint import Endpoint
from kernel.errors import PluginError
from kernel.registry import COMMANDS, SERVICES, Registry
from kernel.server import Server
from kernel.wiring import Wiring

# Framings whose messages a person can type into nc.
_TYPEABLE = ("raw", "line")


def banner(server: Server, registry: Registry, monitor: Server | None = None) -> str:
    """The whole text."""
    services = server.services
    lines = [f"kernel {__version__} serves {', '.join(services)}", ""]
    for endpoint, wiring in server.listening:
        lines.append(f"  {endpoint}")
        lines += [f"      {command}" for command in commands(endpoint, wiring, services, registry)]
    if monitor is not None:
        from kernel.monitor import url

        lines += ["", f"  for operators: {url(monitor.endpoints[0])}"]
    return "\n".join([*lines, "", "Press Ctrl-C to stop."])


def commands(endpoint: Endpoint, wiring: Wiring, services: list[str], registry: Registry) -> Iterator[str]:
    """The commands with which to talk to one endpoint, or what its transport has to say in their place."""
    hint = wiring.transport.hint()
    if hint:
        yield hint
        return
    if wiring.framing.partition("/")[0] in _TYPEABLE:
        yield from _netcat(endpoint)
        return
    for service in services if wiring.channels else [wiring.service]:
        yield from _example(service, endpoint, wiring.auth, registry)


def _example(service: str, endpoint: Endpoint, auth: str, registry: Registry) -> Iterator[str]:
    """What the service's own text says, else the command of its name."""
    text: str = registry.load(SERVICES, service).example
    if not text:
        try:
            registry.find(COMMANDS, service)
        except PluginError:
            return
        text = f"kernel {service} {{endpoint}}"
    command = text.replace("{endpoint}", shlex.quote(str(endpoint)))
    yield f"{command} --secret-file FILE" if auth == HMAC and command.startswith("kernel ") else command


def _netcat(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.scheme == "unix":
        yield f"nc -U {shlex.quote(endpoint.address)}"
    elif endpoint.scheme in ("tcp", "udp"):
        host, port = endpoint.host_port()
        yield " ".join(["nc", *(["-u"] if endpoint.scheme == "udp" else []), host, str(port)])
