"""What `kernel doctor` looks at, one function an area. Each yields findings and never raises for what it finds."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl

from kernel import config, options
from kernel.api import Dialect
from kernel.cli import supervision
from kernel.cli.doctor import Finding
from kernel.cli.root import OWN
from kernel.config import Settings
from kernel.credentials import SYSTEMD_CREDENTIAL, VARIABLE, find_keys
from kernel.endpoint import Endpoint
from kernel.errors import BrokenPlugin, DialError, KernelError, PluginError, StartError
from kernel.exposure import check_exposure
from kernel.limits import Limits
from kernel.registry import COMMANDS, SERVICES, Plugin, Registry
from kernel.wiring import Wiring, wire

# Where fewer descriptors than that are allowed, a server is soon full.
_DESCRIPTORS_MIN = 4096
_DIAL_SECONDS = 2.0


def all_findings(config_file: str) -> Iterator[Finding]:
    """Everything, in the order in which a start would meet it."""
    framing = list(engine())
    yield from framing
    if framing[0].level == "problem":
        return  # nothing else can be imported
    try:
        settings = config.load({}, config_file=config_file)
    except KernelError as error:
        yield Finding("settings", "problem", *split(str(error), "correct it, or leave it out"))
        settings = Settings()
    else:
        sources = [config_file or os.environ.get("KERNEL_CONFIG", ""), *map(str, config.default_files(os.environ))]
        read = [path for path in sources if path and os.path.isfile(path)]
        yield Finding("settings", "ok", f"read from {', '.join(read)}" if read else "the defaults, no file is there")
    registry = Registry(settings.plugins_policy)
    yield from plugins(registry)
    yield from services(settings, registry)
    yield from descriptors(settings.limits)
    yield from keys(settings)
    yield from listeners(settings, registry)


def split(message: str, otherwise: str) -> tuple[str, str]:
    """A message of ours ends with its remedy, behind the last colon; where it has none, `otherwise` is the remedy."""
    what, colon, remedy = message.rpartition(": ")
    return (what, remedy) if colon else (message, otherwise)


# --- engine, plugins -------------------------------------------------------------------------------------------------


def engine() -> Iterator[Finding]:
    from kernel import __version__

    try:
        from kernel.framing import engine_name

        name = engine_name()
    except (ImportError, ValueError) as error:
        yield Finding("engine", "problem", f"no framing engine runs: {error}", "unset KERNEL_FRAMING")
        return
    if name == "c":
        yield Finding("engine", "ok", f"kernel {__version__} frames in C")
    elif os.environ.get("KERNEL_FRAMING") == "python":
        yield Finding("engine", "ok", f"kernel {__version__} frames in Python, as KERNEL_FRAMING says")
    else:
        yield Finding(
            "engine",
            "warning",
            f"kernel {__version__} frames in Python: the engine in C, some times faster, was not built",
            "install a C compiler and Python's headers (Debian: gcc python3-dev), then "
            "KERNEL_REQUIRE_EXT=1 pip install --force-reinstall --no-deps transport-kernel",
        )


def plugins(registry: Registry) -> Iterator[Finding]:
    """Each plugin that may be used is imported and checked; of those that may not, the reason is told."""
    sound: list[Plugin] = []
    told: set[str] = set()
    for plugin in registry.listing():
        refused = registry.verdict(plugin)
        if refused:
            if refused not in told:
                told.add(refused)
                denied = "is not allowed here" in refused
                yield Finding("plugins", "ok" if denied else "problem", *split(refused, ""))
            continue
        try:
            registry.load(plugin.group, plugin.name)
        except BrokenPlugin as error:
            remedy = f"pip install --upgrade {plugin.distribution}, or tell its author; or uninstall it"
            yield Finding("plugins", "problem", str(error), remedy)
            continue
        sound.append(plugin)
        if plugin.group == COMMANDS and plugin.name in OWN:
            what = f"the command '{plugin.name}' of {plugin.origin} is hidden by the kernel's own of that name"
            yield Finding("plugins", "warning", what, "tell its author to choose another name")
    origins = sorted({plugin.origin for plugin in sound})
    yield Finding("plugins", "ok", f"{len(sound)} can be used, of {', '.join(origins)}")


def services(settings: Settings, registry: Registry) -> Iterator[Finding]:
    """The services that the settings name."""
    for text in settings.plugin:
        try:
            asked = Endpoint.parse(f"plugin://{text}")
            kind = registry.load(SERVICES, asked.address)
            options.parse(kind.Options, asked.options, f"the service {asked.address}")
        except PluginError as error:
            yield Finding("settings", "problem", *split(f"plugin '{text}': {error}", "install it, or leave it out"))
        except KernelError as error:
            yield Finding("settings", "problem", *split(str(error), "correct the option"))


# --- limits, keys ----------------------------------------------------------------------------------------------------


def descriptors(limits: Limits) -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_it = f"ulimit -n {min(65536, hard) if hard > 0 else 65536}, or LimitNOFILE=65536 in the systemd unit"
    what = (
        f"{soft:,} files and connections may be open at once; the server takes {limits.connections_max:,} connections"
    )
    if soft != resource.RLIM_INFINITY and limits.connections_max >= soft:
        yield Finding("descriptors", "problem", what, f"{raise_it}; or a lower connections_max")
    elif soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS_MIN:
        yield Finding("descriptors", "warning", what, raise_it)
    else:
        yield Finding("descriptors", "ok", what)


def keys(settings: Settings) -> Iterator[Finding]:
    """The shared keys, as `kernel serve` would read them, and private keys of listeners."""
    has_credential = os.path.exists(os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", ""), SYSTEMD_CREDENTIAL))
    if settings.secret_fd is not None and not settings.secret_file:
        yield Finding("keys", "ok", f"descriptor {settings.secret_fd}, not read here: it can be read only once")
    elif settings.secret_file or VARIABLE in os.environ or has_credential:
        try:
            ring = find_keys(settings.secret_file)
            yield Finding("keys", "ok", f"{', '.join(key.id for key in ring or ())} from {_source(settings)}")
        except KernelError as error:
            yield Finding("keys", "problem", *split(str(error), f"kernel keys new {settings.secret_file or 'FILE'}"))
    if VARIABLE in os.environ:
        yield Finding(
            "keys",
            "warning",
            f"{VARIABLE} holds a secret: child processes inherit it, and crash reports show it",
            "put it into a file that only you can read, and say --secret-file FILE",
        )
    for text in settings.listen:
        path = dict(parse_qsl(text.partition("?")[2])).get("key", "")
        if path and os.path.isfile(path) and os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding("keys", "problem", f"the private key {path} can be read by others", f"chmod 600 {path}")


def _source(settings: Settings) -> str:
    return settings.secret_file or (VARIABLE if VARIABLE in os.environ else "systemd's credentials")


# --- listeners -------------------------------------------------------------------------------------------------------


def listeners(settings: Settings, registry: Registry) -> Iterator[Finding]:
    """Whether each endpoint could be bound now."""
    listen = settings.listen
    if not listen:
        from kernel.cli.serve import DEFAULT_PORT

        try:
            listen = supervision.local_endpoints(DEFAULT_PORT, make_directory=False)
        except StartError as error:
            yield Finding("listeners", "problem", *split(str(error), "set XDG_RUNTIME_DIR"))
            return
    offers = dict(_offers(settings.plugin, registry))
    only = next(iter(offers)) if len(offers) == 1 else ""
    try:
        ring = None if settings.secret_fd is not None else find_keys(settings.secret_file)
    except KernelError:  # told above
        ring = None
    for text in listen:
        try:
            wiring = wire(text, registry, settings.limits, client=False, service=only, offers=offers, keys=ring)
            check_exposure(wiring, allowed=settings.allow_insecure_network)
        except KernelError as error:
            yield Finding("listeners", "problem", *split(str(error), "correct the endpoint"))
            continue
        yield _unix(wiring) if wiring.endpoint.scheme == "unix" else asyncio.run(_bound(wiring, registry))


def _offers(named: Iterable[str], registry: Registry) -> Iterator[tuple[str, Mapping[str, Dialect]]]:
    for text in named:
        name = text.partition("?")[0]
        try:
            kind = registry.load(SERVICES, name)
        except PluginError:  # told above
            continue
        yield name, kind.dialects if isinstance(kind.dialects, Mapping) else {}


def _unix(wiring: Wiring) -> Finding:
    """A UNIX socket is only looked at: to bind it would take it from who has it."""
    path = wiring.endpoint.address
    where = f"unix:{path}"
    address = "\0" + path[1:] if path.startswith("@") else path
    if not path.startswith("@") and not os.path.lexists(path):
        return _place_for(path)
    if not path.startswith("@") and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return Finding("listeners", "problem", f"{where} is a file, not a socket", "take another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_DIAL_SECONDS)
        result = probe.connect_ex(address)
    if result == 0:
        return Finding("listeners", "ok", f"{where} is served by a process that runs")
    if result == errno.ECONNREFUSED and not path.startswith("@"):
        what = f"{where} is stale: nobody listens there any more"
        return Finding("listeners", "warning", what, f"rm {path}, or start the server, which replaces it")
    if path.startswith("@"):
        return Finding("listeners", "ok", f"{where} is free")
    return Finding("listeners", "problem", f"{where}: {os.strerror(result).lower()}", f"look at ls -l {path}")


def _place_for(path: str) -> Finding:
    directory = os.path.dirname(path) or "."
    if directory == str(supervision.runtime_directory(make=False)):  # the server makes it
        return Finding("listeners", "ok", f"unix:{path} is free")
    if not os.path.isdir(directory):
        return Finding("listeners", "problem", f"unix:{path}: there is no directory {directory}", f"mkdir {directory}")
    if not os.access(directory, os.W_OK):
        what = f"unix:{path}: nothing of yours can be made in {directory}"
        return Finding("listeners", "problem", what, "take a directory of your own")
    return Finding("listeners", "ok", f"unix:{path} is free")


async def _bound(wiring: Wiring, registry: Registry) -> Finding:
    """Bind it for a moment; whoever comes meanwhile is turned away."""
    where = str(wiring.endpoint.without_options())
    try:
        listener = await wiring.transport.listen(lambda connection: connection.abort())
    except StartError as error:
        if await _is_ours(wiring.endpoint, registry):
            return Finding("listeners", "ok", f"{where} is served by a kernel that runs")
        return Finding("listeners", "problem", *split(str(error), "take another endpoint"))
    except KernelError as error:
        return Finding("listeners", "problem", *split(str(error), "correct the endpoint"))
    await listener.close()
    return Finding("listeners", "ok", f"{where} is free")


async def _is_ours(endpoint: Endpoint, registry: Registry) -> bool:
    """Whether what listens there speaks our protocol."""
    from kernel.client import dial
    from kernel.errors import Code

    try:
        client = await dial(endpoint, registry=registry, timeout_seconds=_DIAL_SECONDS)
    except DialError as error:
        return error.code is Code.UNAUTHENTICATED
    except KernelError:
        return False
    await client.close()
    return True
