"""A pluggable transport microkernel: write a service once, serve it over any transport.

Every public name is here; docs/api.md explains them. The modules behind them are imported when one of their names is
first used, so `import kernel` costs nothing and `kernel.Service` is the same object as `kernel.api.Service`.
"""

from __future__ import annotations

__version__ = "0.1.0"

_NAMES = {
    "kernel.api": (
        "API_VERSION API_VERSION_MIN Acceptor Buffer Capabilities ChannelHandler Connection Dialect Layer Listener "
        "Needs NoOptions Peer Principal Receiver Service ServiceContext Transport"
    ),
    "kernel.auth.keys": "Key Keyring",
    "kernel.auth.policy": "AccessPolicy",
    "kernel.batches": "DatagramBatches datagram_batches",
    "kernel.blocking": "BlockingChannel",
    "kernel.channel": "Channel",
    "kernel.client": "Client connect dial",
    "kernel.commands": "Loop byte_count duration run secret_options",
    "kernel.datagram.gate": "DatagramGate",
    "kernel.datagram.peers": "PeerTable",
    "kernel.datagram.reassembly": "ReassemblyBudget",
    "kernel.endpoint": "Endpoint format_host_port",
    "kernel.errors": (
        "BrokenPlugin ChannelClosed Code DialError EndpointError KernelError NeedsCapability OptionError PeerError "
        "PluginError Refused StartError UsageError"
    ),
    "kernel.limits": "KIB MIB Limits",
    "kernel.options": "Meta",
    "kernel.server": "Server",
    "kernel.slices": "FileSlice",
    "kernel.sockets": "SocketConnection SocketListener dial_socket",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_HOMES]

TYPE_CHECKING = False  # not from typing, which takes longer to import than all else here
if TYPE_CHECKING:
    from kernel.api import (
        API_VERSION as API_VERSION,
        API_VERSION_MIN as API_VERSION_MIN,
        Acceptor as Acceptor,
        Buffer as Buffer,
        Capabilities as Capabilities,
        ChannelHandler as ChannelHandler,
        Connection as Connection,
        Dialect as Dialect,
        Layer as Layer,
        Listener as Listener,
        Needs as Needs,
        NoOptions as NoOptions,
        Peer as Peer,
        Principal as Principal,
        Receiver as Receiver,
        Service as Service,
        ServiceContext as ServiceContext,
        Transport as Transport,
    )
    from kernel.auth.keys import Key as Key, Keyring as Keyring
    from kernel.auth.policy import AccessPolicy as AccessPolicy
    from kernel.batches import DatagramBatches as DatagramBatches, datagram_batches as datagram_batches
    from kernel.blocking import BlockingChannel as BlockingChannel
    from kernel.channel import Channel as Channel
    from kernel.client import Client as Client, connect as connect, dial as dial
    from kernel.commands import (
        Loop as Loop,
        byte_count as byte_count,
        duration as duration,
        run as run,
        secret_options as secret_options,
    )
    from kernel.datagram.gate import DatagramGate as DatagramGate
    from kernel.datagram.peers import PeerTable as PeerTable
    from kernel.datagram.reassembly import ReassemblyBudget as ReassemblyBudget
    from kernel.endpoint import Endpoint as Endpoint, format_host_port as format_host_port
    from kernel.errors import (
        BrokenPlugin as BrokenPlugin,
        ChannelClosed as ChannelClosed,
        Code as Code,
        DialError as DialError,
        EndpointError as EndpointError,
        KernelError as KernelError,
        NeedsCapability as NeedsCapability,
        OptionError as OptionError,
        PeerError as PeerError,
        PluginError as PluginError,
        Refused as Refused,
        StartError as StartError,
        UsageError as UsageError,
    )
    from kernel.limits import KIB as KIB, MIB as MIB, Limits as Limits
    from kernel.options import Meta as Meta
    from kernel.server import Server as Server
    from kernel.slices import FileSlice as FileSlice
    from kernel.sockets import (
        SocketConnection as SocketConnection,
        SocketListener as SocketListener,
        dial_socket as dial_socket,
    )
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'kernel' has no attribute '{name}'")
        try:
            module = import_module(_HOMES[name])
        except AttributeError as error:  # `from kernel import ...` would take it for "no such name", and hide it
            raise ImportError(f"{_HOMES[name]} cannot be imported: {error}") from error
        globals()[name] = getattr(module, name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
