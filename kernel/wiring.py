"""From an endpoint string to what serves it: transport, framing and session, with their options shared out and checked.

Everything that can be known before a socket is touched is checked here: unknown options, a service's needs against
the transport's capabilities, a framing without channels that must be bound to a service. Nothing is found out later.

An endpoint's options belong to, in this order: the kernel (`auth`, `dialect`, `framing`, `recv`, `send`, `service`),
the `Options` of its layers (outermost first) and of its transport, the framing's fields. Who declares `framing` among
its options sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kernel import dialects, options
from kernel.api import Capabilities, Connection, Layer, Needs, Transport
from kernel.auth import level
from kernel.endpoint import Endpoint
from kernel.errors import Code, NeedsCapability, OptionError, UsageError
from kernel.limits import Limits
from kernel.registry import FRAMINGS, LAYERS, TRANSPORTS, Registry
from kernel.session.base import Session

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring
    from kernel.datagram.identity import PacketAuthenticator
    from kernel.session.handshake import Authenticator

DEFAULT_FRAMING = "knl"
_KERNEL_OPTIONS = ("auth", "dialect", "framing", "recv", "send", "service")


@dataclass(frozen=True, slots=True)
class Wiring:
    """One endpoint, ready to be bound or dialled.

    Attributes:
        endpoint: as it was given.
        transport: made, not started; with layers, the outermost.
        capabilities: what connections give, cut by their framing.
        framing: how they are cut: the name, or `recv/send` where the two differ.
        channels: many channels in one connection, the peer chooses the service.
        service: where there are none: the service to which the listener is bound.
        dialect: which of the service's dialects it speaks; empty: none.
        auth: the level of authentication, see `kernel.auth.level`.
        session: makes the session of one connection.
        farewell: the words for a client that gets no session, as bytes; empty where the framing has none.
    """

    endpoint: Endpoint
    transport: Transport
    capabilities: Capabilities
    framing: str
    channels: bool
    service: str
    dialect: str
    auth: str
    session: Callable[[Connection], Session]
    farewell: Callable[[Code, str], bytes]


def wire(
    endpoint: Endpoint | str,
    registry: Registry,
    limits: Limits,
    *,
    client: bool,
    service: str = "",
    offers: dialects.Offers = MappingProxyType({}),
    keys: Keyring | None = None,
) -> Wiring:
    """Find the plugins that an endpoint names, and give each its options.

    Args:
        service: the one to bind to where the framing has no channels and the endpoint does not say.
        offers: the dialects that a listener can ask for; a client has none.
        keys: with which both sides prove who they are, where the endpoint does not have another way.

    Raises:
        EndpointError, OptionError, PluginError: one line that says what is wrong with the endpoint.
    """
    if isinstance(endpoint, str):
        endpoint = Endpoint.parse(endpoint)
    given = dict(endpoint.options)
    spoken = given.pop("dialect", "")
    if spoken and client:
        raise OptionError(f"'{endpoint}': dialect= is for listeners; its clients are other people's programs, like nc")
    if spoken:
        service, dialect = dialects.find(endpoint, spoken, given.pop("service", ""), offers)
        dialects.settle(endpoint, dialect, given)
    receiving = given.pop("recv", None)
    sending = given.pop("send", None)
    framing_name = given.setdefault("framing", receiving or sending or DEFAULT_FRAMING)
    service = given.pop("service", service)
    asked = given.pop("auth", None)

    transport = _transport(endpoint, endpoint.layers, given, registry, limits)
    capabilities = transport.capabilities()

    names = (receiving or framing_name, sending or framing_name)
    types = [registry.load(FRAMINGS, name) for name in names]
    known = {*_KERNEL_OPTIONS, *_option_names(transport), *_field_names(types[0]), *_field_names(types[1])}
    for name in given:
        if name not in known:
            raise OptionError(options.unknown(name, known, f"the endpoint '{endpoint}'"))
    recv, send = (_framing(kind, given, name, limits) for kind, name in zip(types, names, strict=True))
    if recv.channels != send.channels:
        raise OptionError(f"'{endpoint}': knl carries channels both ways, it cannot be mixed with another framing")
    auth = level.choose(asked, endpoint, capabilities, keys, in_band=recv.channels, client=client)
    prover = keys if auth == level.HMAC else None
    return Wiring(
        endpoint,
        transport,
        dataclasses.replace(capabilities, preserves_messages=capabilities.preserves_messages or recv.keeps_messages),
        names[0] if names[0] == names[1] else f"{names[0]}/{names[1]}",
        recv.channels,
        service,
        spoken,
        auth,
        _session_maker(recv, send, capabilities, limits, client=client, service=service, keys=prover),
        _farewell if recv.channels and not capabilities.preserves_messages else lambda code, reason: b"",
    )


def check_needs(service: str, needs: Needs, wiring: Wiring) -> None:
    """Compare what a service needs with what an endpoint gives.

    Raises:
        NeedsCapability: one line that names both and the remedy.
    """
    gives = wiring.capabilities
    missing = [
        *(["delivery of every message"] if needs.reliable and not gives.reliable else []),
        *(["messages in order"] if needs.ordered and not gives.ordered else []),
        *(["half-close"] if needs.half_close and not (gives.half_close or wiring.channels) else []),
    ]
    if needs.authenticated and wiring.auth == level.NONE:
        raise NeedsCapability(
            f"the service '{service}' is for peers that prove who they are, and {wiring.endpoint} does not ask them: "
            "add --secret-file FILE (`kernel keys new FILE` makes one), or serve it on unix:"
        )
    limit = gives.message_bytes_max
    if limit is not None and limit < needs.message_bytes_min:
        missing.append(f"messages of {needs.message_bytes_min} bytes (it carries {limit})")
    if missing:
        raise NeedsCapability(
            f"the service '{service}' needs {' and '.join(missing)}, which {wiring.endpoint} does not give: "
            "serve it on tcp:// or unix:"
        )


def _transport(
    endpoint: Endpoint, layers: tuple[str, ...], given: dict[str, str], registry: Registry, limits: Limits
) -> Transport:
    """The transport with its layers around it; each takes its options out of `given`."""
    if not layers:
        kind = registry.load(TRANSPORTS, endpoint.scheme)
        plain: Transport = kind(endpoint, _own_options(kind, given, f"the transport {endpoint.scheme}"), limits)
        return plain
    kind = registry.load(LAYERS, layers[0])
    own = _own_options(kind, given, f"the layer {layers[0]}")
    layer: Transport = kind(endpoint, own, limits, _transport(endpoint, layers[1:], given, registry, limits))
    return layer


def _own_options(kind: type[Transport], given: dict[str, str], owner: str) -> object:
    fields = _field_names(kind.Options)
    values = {name: given[name] if name == "framing" else given.pop(name) for name in fields if name in given}
    return options.parse(kind.Options, values, owner)


def _option_names(transport: Transport) -> list[str]:
    inner = _option_names(transport.inner) if isinstance(transport, Layer) else []
    return _field_names(transport.Options) + inner


def _framing(kind: type, given: dict[str, str], name: str, limits: Limits) -> Any:
    fields = _field_names(kind)
    values: dict[str, object] = {key: value for key, value in given.items() if key in fields}
    if name == DEFAULT_FRAMING:
        values.setdefault("frame_bytes_max", limits.frame_bytes_max)
    elif "frame_bytes_max" in fields:
        values.setdefault("frame_bytes_max", limits.message_bytes_max)
    try:
        return options.parse(kind, values, f"the framing {name}")
    except ValueError as error:
        raise error if isinstance(error, UsageError) else OptionError(f"the framing {name}: {error}") from None


def _session_maker(
    recv: Any,
    send: Any,
    capabilities: Capabilities,
    limits: Limits,
    *,
    client: bool,
    service: str,
    keys: Keyring | None,
) -> Callable[[Connection], Session]:
    if recv.channels and capabilities.reliable and capabilities.ordered:
        from kernel.session.handshake import check_limits
        from kernel.session.stream import StreamSession

        own = dataclasses.replace(limits, frame_bytes_max=recv.frame_bytes_max)
        check_limits(own)
        authenticator = _authenticator_maker(keys, client=client) if keys else None
        return lambda connection: StreamSession(
            client=client, limits=own, authenticator=authenticator and authenticator(connection)
        )
    if recv.channels:
        from kernel.session.datagram import DatagramSession

        proof = _proof_maker(keys, client=client)
        return lambda connection: DatagramSession(
            client=client, limits=limits, authenticator=proof(), **datagram_options(connection)
        )
    from kernel.framing.layout import Length
    from kernel.session.plain import PlainSession

    if capabilities.preserves_messages:
        return lambda connection: PlainSession(client=client, decoder=None, encode=list, limits=limits, service=service)
    return lambda connection: PlainSession(
        client=client,
        decoder=recv.decoder(),
        encode=send.encoder(),
        limits=limits,
        service=service,
        layout=recv if recv == send and isinstance(recv, Length) else None,
        # A server's answer that cannot be sent ends the connection: what its peers make it say is no misuse of ours.
        check=send.checker() if client and hasattr(send, "checker") else None,
    )


def _authenticator_maker(keys: Keyring, *, client: bool) -> Callable[[Connection], Authenticator]:
    from kernel.auth.challenge import ClientChallenge, ServerChallenge

    if client:
        return lambda connection: ClientChallenge(keys.first, lambda: connection.channel_binding)
    return lambda connection: ServerChallenge(keys, lambda: connection.channel_binding)


def _proof_maker(keys: Keyring | None, *, client: bool) -> Callable[[], PacketAuthenticator | None]:
    if keys is None:
        return lambda: None
    from kernel.auth.packets import ClientProof, ServerProof

    return (lambda: ClientProof(keys.first)) if client else (lambda: ServerProof(keys))


def _farewell(code: Code, reason: str) -> bytes:
    from kernel.session.stream import farewell

    return farewell(code, reason)


def datagram_options(connection: Connection) -> dict[str, Any]:
    """What a transport of packets knows and its session needs: packet size, buffer, the budget that all peers share."""
    names = ("packet_bytes_max", "window_bytes", "budget")
    return {name: getattr(connection, name) for name in names if hasattr(connection, name)}


def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
