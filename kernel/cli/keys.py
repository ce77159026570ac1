"""`kernel keys`: make the keys with which peers prove who they are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from kernel.auth.keys import new_key
from kernel.cli.output import print_json, print_table
from kernel.credentials import read_keys, write_key

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")


@click.group()
def keys() -> None:
    """Make and look at shared keys.

    \b
    Examples:
      kernel keys new alice.key
      kernel keys list alice.key
    """


@keys.command()
@click.argument("file")
@click.option("--id", "key_id", metavar="NAME[/GENERATION]", help="Whose key it is [the file's name].")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def new(file: str, key_id: str | None, quiet: bool) -> None:
    """Write a key of 32 random bytes to FILE, which only you can read.

    \b
    Examples:
      kernel keys new alice.key
      kernel keys new alice-2.key --id alice/2

    The server and the client get the same file. A server takes several keys, one a line; a client proves the first one.
    An existing FILE is never overwritten.
    """
    key = new_key(key_id or _id_from(file))
    write_key(file, key)
    if not quiet:
        shown = shlex.quote(file)
        click.echo(f"made {file}: the key '{key.id}', for the principal hmac:{key.name}")
        click.echo(f"  kernel serve --plugin echo --secret-file {shown}")
        click.echo(f"  kernel echo tcp://127.0.0.1:7420 --secret-file {shown} hello")


@keys.command(name="list")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects for programs.")
def list_(file: str, as_json: bool) -> None:
    """List the keys of FILE by their ids; the secrets are not shown.

    \b
    Examples:
      kernel keys list alice.key
    """
    ring = read_keys(file)
    if as_json:
        print_json([{"id": key.id, "principal": f"hmac:{key.name}"} for key in ring])
    else:
        print_table(("ID", "PRINCIPAL"), [(key.id, f"hmac:{key.name}") for key in ring])


def _id_from(file: str) -> str:
    """The file's name without its ending, as far as an id can be made of it."""
    stem = Path(file).name.partition(".")[0]
    return stem if _ID.fullmatch(stem) else "default"
