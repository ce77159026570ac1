"""The client without a terminal: lines in, lines out, so that a script can be a bot in five lines.

Each line of standard input is carried out as if typed, one after the other; at its end everything has been answered.
Standard output gets a line for each event: text, or with `--json` the event's own JSON, with `own` where we said it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Sequence

import click
import msgspec

from kernel import KernelError

from .client import ChatClient, ClientEvent, Connected, Disconnected
from .conversation import Conversation
from .protocol import Event, Failed, Notice, Room, Said, Told, TopicSet, encode
from .render import help_lines, plain, render

_READ_BYTES = 64 * 1024
_LINE_BYTES_MAX = 64 * 1024
_COLUMNS = 80
_ASIDE = (Connected, Disconnected, Failed, Notice)


class TextView:
    """What was said on stdout, all else on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.own_nick = ""
        self._quiet = quiet

    def event(self, event: ClientEvent) -> None:
        text = plain(render(event, own_nick=self.own_nick))
        aside = isinstance(event, _ASIDE)
        if not (aside and self._quiet):
            click.echo(text, nl=False, err=aside)

    def room(self, room: Room) -> None:
        self.messages(room.room, room.messages)

    def messages(self, room: str, messages: list[Said | TopicSet]) -> None:
        for message in messages:
            self.event(message)

    def info(self, lines: list[str]) -> None:
        if not self._quiet:
            for line in lines:
                click.echo(line, err=True)

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        self.info(help_lines(commands, _COLUMNS))

    def error(self, text: str) -> None:
        click.echo(f"kernel: error: {text}", err=True)


class JsonView:
    """Each event as one JSON object on stdout."""

    def __init__(self) -> None:
        self.own_nick = ""

    def event(self, event: Event) -> None:
        fields = msgspec.json.decode(encode(event))
        if isinstance(event, Said | Told) and event.nick == self.own_nick:
            fields["own"] = True
        click.echo(json.dumps(fields))

    def room(self, room: Room) -> None:
        self.event(room)

    def messages(self, room: str, messages: list[Said | TopicSet]) -> None:
        for message in messages:
            self.event(message)

    def info(self, lines: list[str]) -> None:
        for line in lines:
            self.event(Notice(text=line))

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        self.info([f"{usage}: {meaning}" for usage, meaning in commands])

    def error(self, text: str) -> None:
        self.event(Failed(code="usage", reason=text))


async def converse(client: ChatClient, room: str, view: TextView | JsonView, *, last: int, follow: bool) -> bool:
    """From the first line of standard input to its end, and with `follow` on to the end of the chat.

    Returns:
        everything that was asked for could be done.

    Raises:
        KernelError: there was no conversation, or it ended.
    """
    conversation = Conversation(client, view, last=last)
    async with client:
        view.own_nick = client.nick
        if room:
            await conversation.join(room)
        watching = asyncio.ensure_future(_watch(client, conversation, view))
        entering = asyncio.ensure_future(_enter_all(conversation))
        try:
            await asyncio.wait([watching, entering], return_when=asyncio.FIRST_COMPLETED)
            if entering.done():
                entering.result()
                if follow and not conversation.over:
                    await watching
            else:
                watching.result()
            await client.close(conversation.reason)
            await watching
        finally:
            for task in (watching, entering):
                task.cancel()
            await asyncio.gather(watching, entering, return_exceptions=True)
    return conversation.good


async def _watch(client: ChatClient, conversation: Conversation, view: TextView | JsonView) -> None:
    async for event in client:
        view.own_nick = client.nick
        conversation.happened(event)


async def _enter_all(conversation: Conversation) -> None:
    async for line in _lines(sys.stdin.fileno()):
        await conversation.enter(line)
        if conversation.over:
            return


async def _lines(descriptor: int) -> AsyncIterator[str]:
    """The lines of standard input, as they come. A file is always readable, all else is waited for."""
    loop = asyncio.get_running_loop()
    waits = not stat.S_ISREG(os.fstat(descriptor).st_mode) and os.fstat(descriptor).st_rdev != os.makedev(1, 3)
    rest = b""
    while True:
        if waits:
            await _readable(loop, descriptor)
        chunk = os.read(descriptor, _READ_BYTES)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _text(line)
        if len(rest) > _LINE_BYTES_MAX:
            raise KernelError(f"a line of the input is longer than {_LINE_BYTES_MAX:,} bytes")
        if not chunk:
            if rest:
                yield _text(rest)
            return


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    with contextlib.suppress(PermissionError):  # always readable
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
