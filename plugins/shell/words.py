"""Text of others in our own messages: nothing in it reaches a terminal as a command."""

from __future__ import annotations


def shown(text: str) -> str:
    """The text with every character that does not print as its escape: `\\x1b`, `\\u202e`, `\\n`."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
