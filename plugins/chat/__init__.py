"""Chat: rooms, people and history, over every transport at once, on one machine or on many."""

from __future__ import annotations

from .options import ChatOptions
from .service import Chat

__all__ = ["Chat", "ChatOptions"]
