"""`kernel kv`: one request, its answer on stdout. The exit code is 1 when there is no such key, or it was refused."""

from __future__ import annotations

import os
import sys

import click

from kernel import Keyring, connect, run, secret_options


@click.command(short_help="Talk to a key-value store.")
@click.argument("endpoint")
@click.argument("request", nargs=-1, required=True)
@secret_options
def kv(endpoint: str, request: tuple[str, ...], keys: Keyring | None) -> int:
    """Send REQUEST to the store at ENDPOINT, and print its answer.

    \b
    Examples:
      kernel kv tcp://127.0.0.1:7000 set colour blue
      kernel kv tcp://127.0.0.1:7000 get colour
      kernel kv tcp://127.0.0.1:7000 keys col
    """

    async def ask() -> bytes:
        async with connect(endpoint, "kv", keys=keys) as channel:
            channel.send(os.fsencode(" ".join(request)))
            return await channel.receive() or b"error the store has hung up"

    word, _, rest = run(ask()).partition(b" ")
    if word == b"ok":
        sys.stdout.buffer.write(rest + b"\n" if rest else b"")
        return 0
    click.echo("there is none" if word == b"none" else rest.decode(errors="backslashreplace"), err=True)
    return 1
