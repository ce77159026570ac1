"""`kernel chat`: talk with people. In a terminal a client to live in, in a pipe lines for scripts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from kernel import run as run_command, secret_options

if TYPE_CHECKING:
    from kernel import Keyring


@click.command(short_help="Talk with people in rooms.")
@click.argument("endpoint")
@click.option("--nick", default="", metavar="NAME", help="What to be called; without: as the server knows you.")
@click.option("--room", default="lobby", metavar="ROOM", help="Where to go first [lobby].")
@click.option("--last", type=click.IntRange(0, 200), default=20, metavar="N", help="Show the last N messages [20].")
@click.option("--service", default="chat", metavar="NAME", help="The chat's name on that server [chat].")
@click.option("--follow", is_flag=True, help="In a pipe: stay when standard input has ended.")
@click.option("--plain", is_flag=True, help="In a terminal too: plain lines.")
@click.option("--json", "as_json", is_flag=True, help="Each event as one JSON object; for scripts.")
@secret_options
@click.option("-q", "--quiet", is_flag=True, help="In a pipe: only what is said, and errors.")
def chat(
    endpoint: str,
    nick: str,
    room: str,
    last: int,
    service: str,
    follow: bool,
    plain: bool,
    as_json: bool,
    keys: Keyring | None,
    quiet: bool,
) -> int:
    """Talk with people in rooms.

    \b
    Examples:
      kernel chat tcp://127.0.0.1:7000 --nick ada
      kernel chat unix:/run/kernel.sock --nick ada --room tea
      echo "the build is green" | kernel chat tcp://127.0.0.1:7000 --nick ci --room builds
      kernel chat tcp://127.0.0.1:7000 --nick log --follow < /dev/null >> chat.log

    In a terminal: /help shows what can be typed. In a pipe each line of standard input is said, or carried out when it
    begins with a slash, and the command ends, when all is answered, with standard input.
    """
    from .client import ChatClient

    client = ChatClient(endpoint, nick=nick, keys=keys, service=service)
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if as_json or plain or not in_terminal:
        from .pipe import JsonView, TextView, converse

        view = JsonView() if as_json else TextView(quiet=quiet)
        good = run_command(converse(client, room, view, last=last, follow=follow))
        return 0 if good else 1
    from .terminal import converse_in_terminal

    run_command(converse_in_terminal(client, room, last=last))
    return 0
