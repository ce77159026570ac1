"""The file service and its client; see `service` and `client`."""

from .service import File

__all__ = ["File"]
