"""The client in a terminal: a line to type on that stays where it is, while what is said passes above it.

Messages of the current room are shown; of other rooms the toolbar counts what is unread. What comes while nobody
touches the keyboard is unread too: a mark stands before it, and the toolbar counts it until a key is pressed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.application.current import get_app_session
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText, StyleAndTextTuples
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style

from .client import ChatClient, ClientEvent, Connected, Disconnected
from .conversation import COMMANDS, Conversation
from .protocol import Room, Said, Told, TopicSet
from .render import Parts, help_lines, render, wrapped
from .text import clean_line

_AWAY_SECONDS = 20.0
# Who leaves may have typed lines before that are not said yet.
_LAST_WORDS_SECONDS = 5.0

# Readable on a dark and on a light background.
_NICK_COLOURS = (
    "ansired", "ansigreen", "ansiyellow", "ansiblue", "ansimagenta", "ansicyan",
    "ansibrightred", "ansibrightgreen", "#d75f00", "ansibrightblue", "ansibrightmagenta", "#00afaf",
)  # fmt: skip
_STYLE = Style.from_dict(
    {
        "time": "ansibrightblack",
        "info": "ansibrightblack",
        "error": "ansired",
        "own": "bold",
        "action": "italic",
        "private": "bold",
        "unread": "ansiyellow",
        "prompt": "bold",
        "bottom-toolbar": "noreverse bg:ansibrightblack fg:ansiwhite",
        "bottom-toolbar.unread": "bold fg:ansiyellow",
        **{f"nick{number}": colour for number, colour in enumerate(_NICK_COLOURS)},
    }
)


class TerminalView:
    """Shows what happens above the line that is typed on."""

    def __init__(self, client: ChatClient) -> None:
        self.conversation: Conversation | None = None
        self.unread: dict[str, int] = {}
        self.typed: asyncio.Queue[str] = asyncio.Queue()
        self._client = client
        self._touched_at = time.monotonic()
        self._marked = False
        self.offline = ""

    @property
    def current(self) -> str:
        return self.conversation.current if self.conversation is not None else ""

    def event(self, event: ClientEvent) -> None:
        if isinstance(event, Disconnected):
            first, self.offline = not self.offline, clean_line(event.reason)
            if not first:
                self._redraw()
                return
        elif isinstance(event, Connected):
            self.offline = ""
        if isinstance(event, Said) and event.room != self.current:
            self.unread[event.room] = self.unread.get(event.room, 0) + 1
            self._redraw()
            return
        if isinstance(event, Said | Told) and event.nick != self._client.nick:
            self._mark_unread()
        self._print(render(event, room=self.current, own_nick=self._client.nick))

    def room(self, room: Room) -> None:
        topic = f": {room.topic}" if room.topic else ""
        history = "" if room.logged else ", no history is kept here"
        self._print([[("unread", clean_line(f"-- #{room.room}{topic} ({len(room.people)} here{history})"))]])
        self.messages(room.room, room.messages)
        if missed := self.unread.pop(room.room, 0):
            self.info([f"{missed} unread: /history {missed} shows them"])

    def messages(self, room: str, messages: list[Said | TopicSet]) -> None:
        for message in messages:
            self._print(render(message, room=room, own_nick=self._client.nick))

    def info(self, lines: list[str]) -> None:
        self._print([[("info", "-- " + clean_line(line))] for line in lines])

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        self._print([[("info", line)] for line in help_lines(commands, _columns())])

    def error(self, text: str) -> None:
        self._print([[("error", clean_line(f"-- {text}"))]])

    def type(self, line: str) -> None:
        """A line is to be carried out."""
        if self.offline and line.strip():
            self.info([f"waits for the connection: {line}"])
        self.typed.put_nowait(line)

    def touched(self) -> None:
        """A key was pressed: what is on the screen is read."""
        self._touched_at = time.monotonic()
        self._marked = False
        self.unread.pop(self.current, None)

    def toolbar(self) -> StyleAndTextTuples:
        """What the line below says."""
        if self.offline:
            return [("class:bottom-toolbar.unread", f" connection lost ({self.offline}), trying again ")]
        here = len(self._client.people.get(self.current, ()))
        parts: StyleAndTextTuples = [("", f" {self._client.nick} in #{self.current} ({here}) ")]
        for room, count in self.unread.items():
            where = f"#{room} " if room != self.current else ""
            parts.append(("class:bottom-toolbar.unread", f" {where}{count} unread "))
        return parts

    def _mark_unread(self) -> None:
        if time.monotonic() - self._touched_at < _AWAY_SECONDS:
            return
        if not self._marked:
            self._marked = True
            self._print([[("unread", "-- unread from here --")]])
        self.unread[self.current] = self.unread.get(self.current, 0) + 1

    def _print(self, lines: list[Parts]) -> None:
        columns = _columns()
        for parts in (fitting for line in lines for fitting in wrapped(line, columns)):
            styled = [(f"class:{style.replace(':', '')}", text) for style, text in parts]
            print_formatted_text(FormattedText(styled), style=_STYLE)

    def _redraw(self) -> None:
        if (app := get_app_or_none()) is not None:
            app.invalidate()


def _columns() -> int:
    """How wide the terminal is now, whatever the variable `COLUMNS` remembers."""
    return get_app_session().output.get_size().columns


class _Names(Completer):
    """Completes commands at the beginning, and names of people and rooms anywhere."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        word = document.get_word_before_cursor(WORD=True)
        if before.startswith("/") and " " not in before:
            found: Iterator[str] = (f"/{command} " for command in COMMANDS)
        else:
            found = self._names(is_first=word == before)
        for text in found:
            if word and text.casefold().startswith(word.casefold()):
                yield Completion(text, start_position=-len(word))

    def _names(self, *, is_first: bool) -> Iterator[str]:
        people = self._conversation.client.people
        for nick in people.get(self._conversation.current, ()):
            yield f"{nick}: " if is_first else f"{nick} "
        for room in people:
            yield f"{room} "
            yield f"#{room} "


async def converse_in_terminal(client: ChatClient, room: str, *, last: int) -> None:
    """Talk until the person leaves.

    Raises:
        KernelError: there was no conversation, or it ended.
    """
    view = TerminalView(client)
    conversation = view.conversation = Conversation(client, view, last=last)
    session: PromptSession[str] = PromptSession(
        message=lambda: [("class:prompt", f"#{conversation.current}> ")],
        bottom_toolbar=view.toolbar,
        completer=_Names(conversation),
        complete_while_typing=False,
        style=_STYLE,
        refresh_interval=1.0,
        erase_when_done=True,  # what was said comes back from the server, like everybody's
    )
    async with client:
        with patch_stdout():
            watching = asyncio.ensure_future(_watch(client, conversation))
            entering = asyncio.ensure_future(_enter_all(conversation, view.typed))
            typing = asyncio.ensure_future(_type(session, conversation, view, room))
            try:
                await asyncio.wait([watching, entering, typing], return_when=asyncio.FIRST_COMPLETED)
                next(task for task in (typing, entering, watching) if task.done()).result()
            finally:
                if not view.offline:
                    await asyncio.wait([asyncio.ensure_future(view.typed.join())], timeout=_LAST_WORDS_SECONDS)
                await client.close(conversation.reason)
                for task in (watching, entering, typing):
                    task.cancel()
                await asyncio.gather(watching, entering, typing, return_exceptions=True)
                while not view.typed.empty():
                    view.error(f"not delivered: {view.typed.get_nowait()}")


async def _watch(client: ChatClient, conversation: Conversation) -> None:
    async for event in client:
        conversation.happened(event)


async def _type(session: PromptSession[str], conversation: Conversation, view: TerminalView, room: str) -> None:
    if room:
        await conversation.join(room)
    view.info(["/help shows what can be typed, /quit leaves"])

    def touched(_: object) -> None:
        view.touched()

    session.default_buffer.on_text_changed += touched
    session.default_buffer.on_cursor_position_changed += touched
    while not conversation.over:
        try:
            line = await session.prompt_async()
        except KeyboardInterrupt:
            conversation.view.info(["Ctrl-D or /quit leaves"])
            continue
        except EOFError:
            return
        view.touched()
        if line.split(" ")[0].lower() == "/quit":
            await conversation.enter(line)
            return
        view.type(line)


async def _enter_all(conversation: Conversation, typed: asyncio.Queue[str]) -> None:
    """Carry out what is typed, in order, while the next line is typed."""
    while True:
        await conversation.enter(await typed.get())
        typed.task_done()
