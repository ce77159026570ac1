"""File: the service that sends and takes files below a directory, and its client.

The names come late: the command's help needs neither of them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing, which takes a while to import
if TYPE_CHECKING:
    from .client import FileClient as FileClient
    from .service import File as File, FileOptions as FileOptions
else:

    def __getattr__(name: str) -> object:
        if name == "FileClient":
            from .client import FileClient

            return FileClient
        if name in ("File", "FileOptions"):
            from . import service

            return getattr(service, name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = ["File", "FileClient", "FileOptions"]
