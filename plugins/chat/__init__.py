"""Chat: rooms, people and history, over every transport at once, on one machine or on many.

The names are imported when they are first used, so that the client's command starts without the service.
"""

from __future__ import annotations

_HOMES = {"Chat": "service", "ChatClient": "client", "ChatOptions": "options"}

__all__ = ["Chat", "ChatClient", "ChatOptions"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .client import ChatClient as ChatClient
    from .options import ChatOptions as ChatOptions
    from .service import Chat as Chat
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
