"""Echo: the service that sends back what it gets, and the client that checks a whole path byte by byte."""

from __future__ import annotations

from .service import Echo, EchoOptions

__all__ = ["Echo", "EchoOptions"]
