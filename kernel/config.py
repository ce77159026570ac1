"""What a server is told to do: flag, KERNEL_* variable, --config file, user's file, system's file, default.

Every setting of `Settings` can be said in every layer. A higher layer replaces a setting of a lower one; of the limits
it replaces those that it names. Each layer is checked on its own, so what is wrong is named with the file (or variable,
or flag) and the key, even where a higher layer would have hidden it.

A file is TOML, its keys are the names of the settings:

    listen = ["tcp://127.0.0.1:7000", { endpoint = "unix:/run/k.sock", framing = "line" }]
    log_level = "debug"

    [plugin.echo]          # or: plugin = ["echo?mode=upper"]
    mode = "upper"         # lists and tables, too, where a plugin's options hold them

    [policy]               # who may open what
    "hmac:alice" = ["echo"]

    [limits]
    message_bytes_max = "1MiB"
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kernel import pins
from kernel.errors import OptionError, UsageError
from kernel.limits import Limits
from kernel.logs import Format, Level
from kernel.options import parse, unknown
from kernel.registry import Policy

Loop = Literal["auto", "asyncio", "uvloop"]


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """All that `kernel serve` can be told.

    Attributes:
        plugin: the services to serve, `NAME` or `NAME?option=value&...`.
        listen: the endpoints; none: those of systemd, or a loopback port and a UNIX socket.
        ready_file: written once everything listens; empty: none.
        monitor: where operators ask over HTTP, see `kernel.monitor`; empty: nowhere.
        loop: the event loop; auto: uvloop where it is installed.
        log_level, log_format: see `kernel.logs`.
        access_log: log each channel when it is over.
        strict_plugins: a broken plugin ends the start, in place of being left out.
        plugins_allowed, plugins_denied, plugins_pinned: see `kernel.registry.Policy`.
        secret_file, secret_fd: where the keys of `auth=hmac` are; see `kernel.credentials` for the other sources.
        allow_insecure_network: listeners may be open to the network without authentication or encryption.
        policy: for each pattern of principals the services that they may open; None: no table. See `AccessPolicy`.
        limits: see `kernel.limits`.
    """

    plugin: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    ready_file: str = ""
    monitor: str = ""
    loop: Loop = "auto"
    log_level: Level = "info"
    log_format: Format = "text"
    access_log: bool = False
    strict_plugins: bool = False
    plugins_allowed: tuple[str, ...] = ()
    plugins_denied: tuple[str, ...] = ()
    plugins_pinned: tuple[str, ...] = ()
    secret_file: str = ""
    secret_fd: int | None = None
    allow_insecure_network: bool = False
    policy: Mapping[str, tuple[str, ...]] | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)

    @property
    def plugins_policy(self) -> Policy:
        """Which plugins may be used."""
        pinned = tuple(pin for pin in map(pins.parse, self.plugins_pinned) if pin is not None)
        return Policy(self.plugins_allowed, self.plugins_denied, pinned)


_NAMES = tuple(field.name for field in dataclasses.fields(Settings))
_LISTS = ("plugin", "listen", "plugins_allowed", "plugins_denied", "plugins_pinned")


class Layer(NamedTuple):
    """Settings as one source says them, and the source's name for messages."""

    source: str
    values: Mapping[str, Any]


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, config_file: str = "") -> Settings:
    """Put the layers together.

    Args:
        flags: the settings that the command line gives; `limits` as a mapping.
        config_file: the file of `--config`, or the one that KERNEL_CONFIG names; empty: none.

    Raises:
        UsageError: a file that cannot be read, a key that nobody knows, a value that does not fit.
    """
    chosen = config_file or environ.get("KERNEL_CONFIG", "")
    layers = [
        *(Layer(_flag(name), {name: value}) for name, value in flags.items()),
        *variables(environ),
        *([_file_layer(Path(chosen))] if chosen else []),
        *(_file_layer(path) for path in default_files(environ) if path.is_file()),
    ]
    return merge(layers)


def _flag(name: str) -> str:
    """The flag that sets it: what repeats is named in the singular."""
    return "--limit" if name == "limits" else f"--{name.replace('_', '-')}"


def default_files(environ: Mapping[str, str]) -> list[Path]:
    """The user's file and the system's; neither has to exist."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return [Path(home, "kernel", "config.toml"), Path("/etc/kernel/config.toml")]


def merge(layers: Iterable[Layer]) -> Settings:
    """The settings of several layers, the first of which wins."""
    settings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for layer in layers:
        typed = dict(_checked(layer))
        limits = dict(typed.pop("limits", {})) | limits
        settings = typed | settings
    return Settings(**settings, limits=Limits(**limits))


def _checked(layer: Layer) -> Iterator[tuple[str, Any]]:
    """Every setting of a layer in its own type; the limits as a mapping of those that are named."""
    plain: dict[str, Any] = {}
    for name, value in layer.values.items():
        if name not in _NAMES:
            raise OptionError(unknown(name, _NAMES, layer.source))
        if name == "limits":
            yield name, dict(_limits(value, layer.source))
        elif name == "policy":
            yield name, dict(_policy(value, layer.source))
        elif name in _LISTS:
            yield name, tuple(_texts(name, value, layer.source))
        else:
            plain[name] = value
    settings = parse(Settings, plain, layer.source)
    yield from ((name, getattr(settings, name)) for name in plain)


def _limits(value: object, source: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{source}: 'limits' is a table: write [limits] and a line for each limit")
    limits = parse(Limits, value, f"{source}: [limits]")
    for name in value:
        number = getattr(limits, name)
        if number <= 0:
            raise OptionError(f"{source}: [limits]: option '{name}={value[name]}': a limit is more than 0")
        yield name, number


def _policy(value: object, source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(value, Mapping):
        raise OptionError(f'{source}: \'policy\' is a table: write [policy] and lines like "hmac:alice" = ["echo"]')
    for pattern, services in value.items():
        if not isinstance(services, list | tuple) or not all(isinstance(service, str) for service in services):
            raise OptionError(f"{source}: [policy]: '{pattern}' needs a list of services, for example [\"echo\"]")
        yield pattern, tuple(services)


def _texts(name: str, value: object, source: str) -> Iterator[str]:
    """A list of strings; of endpoints and plugins also the forms in which a table says the options."""
    if isinstance(value, Mapping) and name == "plugin":
        value = [{"name": key} | _table(options, f"{source}: [plugin.{key}]") for key, options in value.items()]
    if not isinstance(value, list | tuple):
        raise OptionError(f"{source}: '{name}' is a list: write {name} = [\"...\"]")
    for item in value:
        if isinstance(item, str):
            if name == "plugins_pinned" and pins.parse(item) is None:
                raise OptionError(
                    f"{source}: '{name}' holds '{item}', which is no pin: "
                    "write DISTRIBUTION=sha256:HASH, as `kernel plugins info NAME` shows it"
                )
            yield item
        elif isinstance(item, Mapping) and name in ("plugin", "listen"):
            yield _with_options(item, "name" if name == "plugin" else "endpoint", f"{source}: [[{name}]]")
        else:
            raise OptionError(f"{source}: '{name}' holds {item!r}, which is not a string: put it in quotes")


def _table(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise OptionError(f"{where} is a table of options: write {where.rpartition(' ')[2]} and a line for each option")


def _with_options(table: Mapping[str, Any], key: str, where: str) -> str:
    """`{ endpoint = "tcp://...", framing = "line" }` as `tcp://...?framing=line`."""
    from urllib.parse import quote

    options = dict(table)
    base = options.pop(key, None)
    if not isinstance(base, str):
        raise OptionError(f"{where} needs a line '{key} = \"...\"'")
    pairs = [f"{quote(name)}={quote(_text(value, f'{where}: {name}'), safe='/:,@')}" for name, value in options.items()]
    return "&".join([base + ("&" if "?" in base else "?") + pairs[0], *pairs[1:]]) if pairs else base


def _text(value: object, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list | dict):  # as `kernel.options` reads lists and tables
        import json

        with contextlib.suppress(TypeError):
            return json.dumps(value)
    raise OptionError(f"{where} holds {value!r}: an option is a string, a number, true or false, a list or a table")


def variables(environ: Mapping[str, str]) -> Iterator[Layer]:
    """KERNEL_LISTEN, KERNEL_LOG_LEVEL, ...: lists are separated by spaces, tables hold pairs (NAME=VALUE)."""
    for name in _NAMES:
        variable = f"KERNEL_{name.upper()}"
        text = environ.get(variable)
        if text is None:
            continue
        if name == "limits":
            yield Layer(variable, {name: limit_pairs(text.split(), variable)})
        elif name == "policy":
            yield Layer(variable, {name: policy_pairs(text.split(), variable)})
        else:
            yield Layer(variable, {name: text.split() if name in _LISTS else text})


def limit_pairs(pairs: Iterable[str], source: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        OptionError: a pair without its `=`.
    """
    split = [pair.partition("=") for pair in pairs]
    for name, equals, _ in split:
        if not equals:
            raise OptionError(f"{source}: '{name}' is not NAME=VALUE, for example connections_max=100")
    return {name: value for name, _, value in split}


def policy_pairs(pairs: Iterable[str], source: str) -> dict[str, list[str]]:
    """`PATTERN=SERVICE,SERVICE` texts as a mapping.

    Raises:
        OptionError: a pair without its `=`.
    """
    rules: dict[str, list[str]] = {}
    for pair in pairs:
        pattern, equals, services = pair.rpartition("=")
        if not equals:
            raise OptionError(f"{source}: '{pair}' is not PRINCIPAL=SERVICE,..., for example hmac:alice=echo")
        rules.setdefault(pattern, []).extend(filter(None, services.split(",")))
    return rules


def _file_layer(path: Path) -> Layer:
    import tomllib

    try:
        return Layer(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
