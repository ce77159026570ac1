"""Which engine does the framing: the C one, or the Python one that does the same.

`KERNEL_FRAMING` in the environment says which is the default: `auto` (C where its module was built, as a
rule), `c` (an error where it wasn't) or `python`. It is read once, when first needed.
"""

from __future__ import annotations

import functools
import os

from kernel.errors import OptionError, StartError
from kernel.framing.interface import Engine

CHOICES = ("auto", "c", "python")


class EngineUnavailableError(StartError, ImportError):
    """The C engine was asked for by name, and its module isn't there; or it is there, and is another version's."""


def engine(name: str | Engine | None = None) -> Engine:
    """The engine called "c" or "python"; "auto" is C where there is one, None the default.

    Raises EngineUnavailableError for "c" where the C module was not built, and for "auto", too, where it is of another
    version than the rest; ValueError for an unknown name (OptionError for one in the environment).
    """
    if isinstance(name, Engine):
        return name
    return _default() if name is None else _named(name)


def engine_name() -> str:
    """The default engine's name."""
    return _default().name


@functools.cache
def _default() -> Engine:
    name = os.environ.get("KERNEL_FRAMING") or "auto"
    if name not in CHOICES:
        raise OptionError(f"KERNEL_FRAMING is {name!r}, it must be one of {', '.join(CHOICES)}")
    return _named(name)


@functools.cache
def _named(name: str) -> Engine:
    if name not in CHOICES:
        raise ValueError(f"no framing engine is called {name!r}; there are {', '.join(CHOICES)}")
    if name != "python":
        try:
            from kernel.framing.native import ENGINE as NATIVE

            return NATIVE
        except ImportError as error:
            if name == "c":
                raise EngineUnavailableError(
                    f"the C framing engine is not available ({error}); "
                    "install with a C compiler at hand, or set KERNEL_FRAMING=python"
                ) from None
        except AttributeError as error:  # no reason to go on slowly and silently: one half of an installation is old
            raise EngineUnavailableError(
                f"the C framing module is not of this kernel's version ({error}); "
                "install the kernel again (in a checkout: ./dev setup), or set KERNEL_FRAMING=python"
            ) from None
    from kernel.framing.pure import ENGINE as PURE

    return PURE
