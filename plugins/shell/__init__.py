"""Shell: commands and terminals of a distant machine, for peers that have proved who they are."""

from __future__ import annotations

from .options import ShellOptions
from .service import Shell

__all__ = ["Shell", "ShellOptions"]
