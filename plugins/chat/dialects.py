"""Simple clients in the same rooms as everybody else: bare text, one message each way a turn.

- `talk` (a stream): who has said something waits for an answer: the next thing that somebody else says, or after a
  while that there is none yet. `bye` ends it, from either side: a direct message `bye` to him ends his conversation.
- `qq` (datagrams): exactly one datagram back for each that comes, at once: what others have said since the last one.
  `quit` ends it.

A turn's answer is one write of at most 1,024 bytes, for such clients receive once and into so much; what does not fit
waits for the next turn. What others say in the room begins with their name; a direct message is the bare text.

Invariant: what waits for a client that takes no turn is bounded; the oldest goes first, and that it went is said.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from types import MappingProxyType

from kernel import Channel, Code, Dialect, Needs

from .lines import Line
from .protocol import (
    Event,
    Failed,
    Hello,
    Join,
    Notice,
    Rename,
    Renamed,
    Said,
    Say,
    Tell,
    Told,
    TopicSet,
    decode_event,
)
from .seat import Host, Seat

TURN_BYTES_MAX = 1024

DIALECTS = MappingProxyType(
    {
        "talk": Dialect(
            {"framing": "raw"}, "bare text over a stream, a turn each, `bye` ends it", Needs(reliable=True)
        ),
        "qq": Dialect({"framing": "raw"}, "bare text in datagrams, one back for each, `quit` ends it", Needs()),
    }
)
_LAST_WORD = {"talk": "bye", "qq": "quit"}
_WAITING_BYTES_MAX = 64 * 1024
_REQUESTS_MAX = 32
_NO_ANSWER_SECONDS = 20.0
_NOTHING_NEW = b"(nothing new)"
_CONTINUATION = "\n  | "

_numbers = itertools.count(1)


class SimpleSeat(Seat):
    """The seat of such a client."""

    __slots__ = ("_dialect", "_missed", "_newline", "_no_answer", "_owes_answer", "_room", "_waiting", "_waiting_bytes")

    def __init__(self, host: Host, dialect: str, room: str) -> None:
        super().__init__(host)
        self.leaving = ""  # who comes back is somebody else
        self._dialect = dialect
        self._room = room
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._missed = 0
        self._owes_answer = False
        self._newline = b""
        self._no_answer: asyncio.TimerHandle | None = None

    # --- in ----------------------------------------------------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        self._line = Line(channel)
        self.source = self._host.source(channel.peer.source)
        self._queue.extend([Hello(nick=f"{self._dialect}-{next(_numbers)}"), Join(room=self._room, last=0)])
        self.pump()

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        for message in messages:
            self._turn(message)

    def _turn(self, message: bytes) -> None:
        if self._dialect == "qq" and message == _NOTHING_NEW:
            return  # a server like us, brought together with us by a forged datagram: to answer would never end
        self._owes_answer = True
        self._newline = b"\n" if message.endswith(b"\n") else b""
        text = message.decode(errors="replace").strip("\r\n")
        if text.strip() == _LAST_WORD[self._dialect]:
            self._end(text.strip())
            return
        if len(self._queue) >= _REQUESTS_MAX:
            self._tell("(too fast: not delivered)")
        elif text.strip():
            self._queue.append(self._request(text))
            if self._pump_timer is None:
                self.pump()
        if self._dialect == "qq" or self._waiting or not text.strip():
            self._answer()
        elif self._no_answer is None:
            self._no_answer = asyncio.get_running_loop().call_later(_NO_ANSWER_SECONDS, self._answer)

    def _request(self, text: str) -> Say | Tell | Rename:
        """Text is said; two commands are known, for who wants a name, or to speak to one person."""
        command, _, rest = text.partition(" ")
        if command == "/nick":
            return Rename(nick=rest.strip())
        if command == "/msg":
            to, _, words = rest.partition(" ")
            return Tell(to=to, text=words)
        return Say(room=self._room, text=text)

    # --- out ---------------------------------------------------------------------------------------------------------

    def reply(self, event: Event) -> None:
        match event:
            case Said() | TopicSet() if self.guest is not None and event.nick == self.guest.nick:
                pass
            case Said():
                text = event.text.replace("\n", _CONTINUATION)  # no line of it looks like another person's
                self._tell(f"* {event.nick} {text}" if event.action else f"{event.nick}: {text}")
            case TopicSet():
                self._tell(f"({event.nick} sets the topic: {event.topic})")
            case Told() if event.text == "bye" and self._dialect == "talk":
                self._end("bye")
            case Told():
                self._tell(event.text)
            case Failed() | Notice():
                self._tell(f"({event.reason if isinstance(event, Failed) else event.text})")
            case Renamed() if self.guest is not None and event.new == self.guest.nick:
                self._tell(f"(you are now {event.new})")

    def send(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            event = decode_event(payload)
            if event is not None:
                self.reply(event)

    def leave(self) -> None:
        self._end("(the server is shutting down)")

    def _tell(self, text: str) -> None:
        """Have it in one of the next answers."""
        line = text.encode()
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        while self._waiting_bytes > _WAITING_BYTES_MAX:
            self._waiting_bytes -= len(self._waiting.popleft())
            self._missed += 1
        if self._owes_answer and self._dialect == "talk":
            self._answer()

    def _answer(self) -> None:
        """One write, which ends the turn."""
        self._stop_waiting()
        if not self._owes_answer or self.channel.code is not None:
            return
        self._owes_answer = False
        if self._missed:
            self._waiting.appendleft(b"(%d messages missed)" % self._missed)
            self._missed = 0
        answer = self._fitting() or (b"(no answer yet)" if self._dialect == "talk" else _NOTHING_NEW)
        self.channel.send(answer + self._newline)

    def _fitting(self) -> bytes:
        """As many lines as fit into a turn; one that is longer than that is cut between two characters."""
        room = TURN_BYTES_MAX - len(self._newline)
        taken: list[bytes] = []
        while self._waiting and room > 0:
            line = self._waiting.popleft()
            part = line if len(line) <= room else _cut(line, room)
            if len(part) < len(line):
                self._waiting.appendleft(line[len(part) :])
                if taken:  # begins on the next turn instead
                    self._waiting[0] = line
                    break
            taken.append(part)
            room -= len(part) + 1
        answer = b"\n".join(taken)
        self._waiting_bytes = sum(map(len, self._waiting))
        return answer

    def _end(self, last_word: str) -> None:
        """The last answer, and goodbye."""
        self._stop_waiting()
        if self.channel.code is None:
            if self._owes_answer or self._dialect == "talk":
                self.channel.send(last_word.encode() + self._newline)
            self.channel.close()

    def _stop_waiting(self) -> None:
        if self._no_answer is not None:
            self._no_answer.cancel()
            self._no_answer = None

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self._stop_waiting()
        super().on_closed(channel, Code.OK, "")


def _cut(line: bytes, room: int) -> bytes:
    return line[:room].decode(errors="ignore").encode()
