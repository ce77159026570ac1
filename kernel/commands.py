"""What the client commands of services share: values with units on the command line, and the event loop they run in."""

from __future__ import annotations

import asyncio
import functools
import select
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from kernel import options
from kernel.config import Loop as Loop
from kernel.credentials import find_keys
from kernel.errors import OptionError, UsageError
from kernel.loop import DirectLoop

T = TypeVar("T")


def byte_count(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """The `callback` of a click option that takes 512, 64KiB or 1MiB."""
    return None if value is None else _read(options.read_bytes, value)


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """The `callback` of a click option that takes 0.5, 500ms, 30s, 5m or 1h; it gives seconds."""
    return None if value is None else _read(options.read_seconds, value)


def _read(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except OptionError as error:
        raise click.BadParameter(str(error)) from None


def secret_options(command: Callable[..., T]) -> Callable[..., T]:
    """A decorator, below `click.command`: the options by which a client gets its keys.

    The command is called with `keys`, a `Keyring` or None, for `kernel.connect` and `kernel.dial`.
    """

    @click.option(
        "--secret-file",
        default="",
        envvar="KERNEL_SECRET_FILE",
        metavar="FILE",
        help="Prove the key in FILE, as `kernel keys new` makes it.",
    )
    @click.option(
        "--secret-fd", type=click.IntRange(min=0), metavar="N", help="The same, from an inherited descriptor."
    )
    @functools.wraps(command)
    def with_keys(*args: Any, secret_file: str, secret_fd: int | None, **kwargs: Any) -> T:
        return command(*args, keys=find_keys(secret_file, secret_fd), **kwargs)

    return with_keys


def run(main: Coroutine[Any, Any, T], loop: Loop = "asyncio") -> T:
    """Run a command's coroutine to its end. Ctrl-C cancels it, and comes out as KeyboardInterrupt.

    Args:
        loop: the event loop; auto: uvloop where it is installed.

    Raises:
        UsageError: uvloop is wanted and not installed.
    """
    try:
        factory = loop_factory(loop)
    except UsageError:
        main.close()
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def loop_factory(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop; None: asyncio's own way, where its loop has no shorter one (kernel/loop.py).

    Raises:
        UsageError: uvloop is wanted and not installed.
    """
    of_asyncio = DirectLoop if hasattr(select, "epoll") else None
    if loop == "asyncio":
        return of_asyncio
    try:
        import uvloop
    except ImportError:
        if loop == "uvloop":
            raise UsageError("uvloop is not installed: pip install 'transport-kernel[uvloop]'") from None
        return of_asyncio
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
