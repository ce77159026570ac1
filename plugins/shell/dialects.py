"""Two plain protocols for clients that know nothing of ours, each a command line at a time:

    cmd-ready   command in; the length of the answer out, in ASCII digits; after `recv_ready` the answer
    cmd-sized   command in; the length of the answer out, four bytes, signed, little-endian, then the answer

The answer is what the command wrote on stdout; `cmd-sized` answers what it wrote on stderr if that is anything, and
`cmd-ready` does if stdout is empty. A command is one read of at most `_COMMAND_BYTES_MAX`, cut into words as a shell
does it, and what may run is what our own clients may run, too. `cd` lasts as long as the connection.

Whoever ends his side of the connection may still want an answer (`nc -N`), or have left: TCP does not tell. So what
he has asked for gets `_LAST_ANSWERS_SECONDS` to answer, and is ended then.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections import deque
from typing import TYPE_CHECKING

from kernel.api import ChannelHandler, Dialect, Needs
from kernel.channel import Channel
from kernel.errors import Code
from kernel.limits import MIB

from . import audit
from .access import Denied
from .protocol import END_OF_STDIN, Exit, Kind, Request, credit

if TYPE_CHECKING:
    from .service import Shell
    from .session import Session

READY, SIZED = "cmd-ready", "cmd-sized"
_COMMAND_BYTES_MAX = 4096
_COMMANDS_WAITING_MAX = 16
_ANSWER_BYTES_MAX = 4 * MIB
_LAST_ANSWERS_SECONDS = 5.0
GO_THERE = ["pwd", "-P"]
"""What `cd` runs: it says where it has arrived, if it may."""
_GO = b"recv_ready"
_CHANGE_DIRECTORY = re.compile(r"\s*cd(?:\s+(.*))?", re.S)


def offered(*, authenticated: bool) -> dict[str, Dialect]:
    """The dialects, for peers that have proved who they are, or for anybody."""
    needs = Needs(reliable=True, ordered=True, authenticated=authenticated)
    return {
        READY: Dialect({"framing": "raw"}, "a command; its answer's length as text, then the answer", needs),
        SIZED: Dialect({"framing": "raw"}, "a command; its answer behind four bytes of length", needs),
    }


class Answer:
    """Watches a session as a channel does, and collects what it says.

    Attributes:
        code: as a channel's; set when nobody wants the answer any longer.
    """

    full = False

    def __init__(self, dialogue: Dialogue, *, directory: bool) -> None:
        self._dialogue = dialogue
        self._directory = directory
        self._session: Session | None = None
        self.code: Code | None = None
        self.out, self.err = bytearray(), bytearray()

    def run(self, request: Request, channel: Channel, service: Shell) -> None:
        """Have it run.

        Raises:
            Denied: it may not be.
        """
        self._session = service.open(self, channel.peer, request, changes_directory=self._directory)

    def send(self, message: bytes) -> None:
        """What a session tells a client."""
        kind, body = message[0], message[1:]
        if kind == Kind.STARTED:
            self._tell(END_OF_STDIN)
        elif kind in (Kind.STDOUT, Kind.STDERR):
            room = _ANSWER_BYTES_MAX - len(self.out) - len(self.err)
            (self.out if kind == Kind.STDOUT else self.err).extend(body[:room])
            self._tell(credit(Kind(kind), len(body)))
            if len(body) > room and self._session is not None:  # it may write on for a while, before it is killed
                self._session.end(f"its answer is longer than {_ANSWER_BYTES_MAX:,} bytes")
        elif kind == Kind.EXIT:
            how = Exit.decode(message)
            if how.reason:
                self.err.extend(f"{how.reason}\n".encode())
            self._dialogue.answered(self.out, self.err, directory=self._directory and how.status == 0)

    def _tell(self, message: bytes) -> None:
        if self._session is not None:
            self._session.message(message)

    def close(self) -> None:
        """The session has said all."""

    def reset(self, code: Code, reason: str = "") -> None:
        """It ends otherwise."""

    def abandon(self, code: Code) -> None:
        """Nobody waits for it any longer."""
        self.code = code
        if self._session is not None:
            self._session.left(self, code)


class Dialogue(ChannelHandler):
    """One connection: commands, one after the other."""

    def __init__(self, service: Shell) -> None:
        self._service = service
        self._channel: Channel | None = None
        self._waiting: deque[bytes] = deque()
        self._running: Answer | None = None
        self._held = b""
        self._holding = False
        self._cwd = ""
        self._last: asyncio.TimerHandle | None = None

    def opened(self, channel: Channel) -> None:
        self._channel = channel

    def on_message(self, channel: Channel, message: bytes) -> None:
        if len(message) > _COMMAND_BYTES_MAX or len(self._waiting) >= _COMMANDS_WAITING_MAX:
            channel.reset(Code.MESSAGE_TOO_LARGE, f"a command has at most {_COMMAND_BYTES_MAX:,} bytes")
            return
        self._waiting.append(message)
        self._next()

    def _next(self) -> None:
        """Do what comes next, unless a command runs."""
        while self._waiting and self._running is None and self._channel is not None:
            message = self._waiting.popleft()
            if self._holding:
                self._release(message)
            else:
                self._run(self._channel, message)
        if self._last is not None and self._running is None and self._channel is not None:
            self._channel.close()

    def finished(self) -> None:
        """The client says no more."""
        if self._channel is not None:
            self._last = asyncio.get_running_loop().call_later(_LAST_ANSWERS_SECONDS, self._channel.close)
            self._next()

    def _release(self, message: bytes) -> None:
        if not message.startswith(_GO):
            assert self._channel is not None
            self._channel.reset(Code.PROTOCOL, "'recv_ready' was expected")
            return
        held, self._held, self._holding = self._held, b"", False
        self._send(held)
        if rest := message.removeprefix(_GO).lstrip():  # after an empty answer nothing keeps the next command apart
            self._waiting.appendleft(rest)

    def _run(self, channel: Channel, message: bytes) -> None:
        line = message.decode("utf-8", "surrogateescape")
        change = _CHANGE_DIRECTORY.fullmatch(line.rstrip())
        try:
            if change:
                request = Request(GO_THERE, cwd=self._place(change[1]))
            else:
                request = Request(self._words(channel, line), cwd=self._cwd)
            answer = self._running = Answer(self, directory=change is not None)
            answer.run(request, channel, self._service)
        except (Denied, ValueError) as error:
            audit.refused(channel.peer, line, self._cwd, str(error))
            self._running = None
            self.answered(b"", f"{error}\n".encode("utf-8", "surrogateescape"), directory=False)

    def _words(self, channel: Channel, line: str) -> list[str]:
        """The command line; who may run anything gets a shell for it, as those clients expect."""
        access = self._service.access
        if access is not None and access.is_free(channel.peer.principal):
            return ["sh", "-c", line]
        return shlex.split(line)

    def _place(self, text: str | None) -> str:
        words = shlex.split(text or "")
        return f"{self._cwd}/{words[0]}" if words and self._cwd and not words[0].startswith("/") else (words or [""])[0]

    def answered(self, out: bytes | bytearray, err: bytes | bytearray, *, directory: bool) -> None:
        """A command has ended."""
        self._running = None
        if directory:
            self._cwd, out = out.decode("utf-8", "surrogateescape").removesuffix("\n"), b""
        channel = self._channel
        if channel is None or channel.code is not None:
            return
        if channel.dialect == READY:
            self._held, self._holding = bytes(out or err), True
            self._send(b"%d" % len(self._held))
        else:
            answer = bytes(err or out)
            self._send(len(answer).to_bytes(4, "little", signed=True) + answer)
        self._next()

    def _send(self, data: bytes) -> None:
        if data and self._channel is not None:
            self._channel.send(data)

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self._channel = None
        if self._last is not None:
            self._last.cancel()
        if self._running is not None:
            self._running.abandon(Code.CANCELLED)
