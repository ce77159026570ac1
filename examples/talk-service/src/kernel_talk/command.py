"""`kernel talk`: the operator's end. What visitors say is shown, what is typed is sent to them."""

from __future__ import annotations

import asyncio
import sys
import threading

import click

from kernel import Channel, Keyring, connect, run, secret_options


@click.command(short_help="Answer the visitors of a talk service.")
@click.argument("endpoint")
@secret_options
def talk(endpoint: str, keys: Keyring | None) -> None:
    """Answer the visitors of the talk service at ENDPOINT, until standard input ends.

    \b
    Examples:
      kernel talk unix:/run/user/1000/talk.sock

    Each line is sent to the visitor who has waited longest; `@7 hello` answers number 7. The word by which a dialect
    ends (bye or q) ends the visitor's conversation.
    """

    async def operate() -> None:
        async with connect(endpoint, "talk", keys=keys) as channel:
            click.echo("you are the operator: type answers, Ctrl-D ends", err=True)
            showing = asyncio.ensure_future(_show(channel))
            typing = asyncio.ensure_future(_type(channel))
            await asyncio.wait([showing, typing], return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                typing.cancel()
                await showing  # raises, where the server has hung up
                return
            channel.finish()
            await showing

    run(operate())


async def _show(channel: Channel) -> None:
    async for message in channel:
        number, address, text = (*message.decode(errors="replace").split(" ", 2), "", "")[:3]
        line = f"[{number} {address}] {text}"
        click.echo("".join(char if char.isprintable() else repr(char)[1:-1] for char in line))


async def _type(channel: Channel) -> None:
    """Send the lines of standard input. A thread of its own reads them: nothing else waits for it at the end."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        while True:
            line = sys.stdin.readline()
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:  # the loop has ended
                return
            if not line:
                return

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        text = line.rstrip("\n")
        channel.send((text[1:] if text.startswith("@") else f"0 {text}").encode())
        await channel.drain()
