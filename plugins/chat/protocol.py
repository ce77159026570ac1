"""What client and server say to each other: JSON objects, one a message; `type` says what it is. docs/protocol-chat.md
specifies it.

A request carries `n`, a number that grows within a session; its answer carries the same. Messages in rooms, and direct
ones, have ids that the server gives, growing within a room: a client that comes back asks for what follows the last one
that it saw, and says again what was not answered, with the `n` that it had: the server takes it once.

Unknown fields are ignored and unknown types answered by `failed`, so that both sides can learn more.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

VERSION = 1

Number = Annotated[int, Meta(ge=0, le=1 << 53)]
"""A number from a client: one that a database holds, and that every JSON reader reads as it was written."""

# A page of messages, people or rooms is cut here, so that it passes as one message on every transport.
PAGE_BYTES_MAX = 32 * 1024
# The people in the answer to `join`, beside a page of messages.
PEOPLE_BYTES_MAX = 8 * 1024
PAGE_MESSAGES_MAX = 200


class Request(Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """From client to server.

    Attributes:
        n: the client's number of it, growing; 0: the client counts nothing, and a repetition cannot be told.
    """

    n: Number = 0


class Hello(Request, tag="hello"):
    """The first message. `session` is the client's secret: whoever comes back with it is the same person."""

    version: int = VERSION
    nick: str = ""
    session: str = ""
    since: Number = 0
    """The last direct message that was seen."""


class Join(Request, tag="join"):
    """Come into a room; answered by `room`, with what was said after the id `since`, or with the last messages."""

    room: str
    since: Number | None = None
    last: int = 50


class Leave(Request, tag="leave"):
    room: str


class Say(Request, tag="say"):
    """A message to everybody in a room. `action`: the text says what the speaker does (`/me`)."""

    room: str
    text: str
    action: bool = False


class Tell(Request, tag="tell"):
    """A message to one person."""

    to: str
    text: str
    action: bool = False


class Rename(Request, tag="nick"):
    nick: str


class SetTopic(Request, tag="topic"):
    """Set a room's topic; it is announced like a message."""

    room: str
    topic: str


class ListRooms(Request, tag="rooms"):
    """Which rooms there are, the fullest first, but for the first `skip` of them; answered by `rooms`."""

    skip: Number = 0


class Who(Request, tag="who"):
    """Who is in a room, or everywhere, in the order of their names, from behind a name on; answered by `who`."""

    room: str = ""
    after: str = ""


class History(Request, tag="history"):
    """What was said in a room after or before an id; answered by `page`."""

    room: str
    after: Number | None = None
    before: Number | None = None
    count: int = 50


class Search(Request, tag="search"):
    """Messages of a room, before an id, that hold all of the words, the newest last; answered by `page`."""

    room: str
    text: str
    before: Number | None = None
    count: int = 50


class Quit(Request, tag="quit"):
    """Leave for good: nobody waits for this session to come back."""

    reason: str = ""


class Event(Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """From server to client."""


class Welcome(Event, tag="welcome"):
    """The answer to `hello`: what we are called here, and what is allowed. What we were told meanwhile follows.

    Attributes:
        resumed: the server knows the session: its rooms still list us.
    """

    nick: str
    server: str
    message_bytes_max: int
    messages_per_second: float
    burst: int
    n: int = 0
    version: int = VERSION
    resumed: bool = False


class Said(Event, tag="said"):
    """Somebody said something in a room. `at`: seconds since 1970."""

    room: str
    id: int
    at: float
    nick: str
    text: str
    action: bool = False


class TopicSet(Event, tag="topic"):
    room: str
    id: int
    at: float
    nick: str
    topic: str


class Told(Event, tag="told"):
    """Somebody said something to us alone."""

    id: int
    at: float
    nick: str
    text: str
    action: bool = False


class Room(Event, tag="room"):
    """The answer to `join`.

    Attributes:
        people: who is here; where there are too many for one message, the first of them.
        people_more: there are more behind the last of them: ask `who`.
        messages: what was asked for, the oldest first.
        last_id: of the last message that there is, or of the last of `messages`; what has a larger id comes by itself.
        more: there is more after the last of them: ask for it with `history`.
        logged: the room keeps its history.
    """

    room: str
    n: int = 0
    topic: str = ""
    people: list[str] = []
    people_more: bool = False
    messages: list[Said | TopicSet] = []
    last_id: int = 0
    more: bool = False
    logged: bool = True


class Page(Event, tag="page"):
    """Some messages. `before`: what is older was not searched: do so `before` this id."""

    room: str
    n: int = 0
    messages: list[Said | TopicSet] = []
    more: bool = False
    before: int = 0


class RoomInfo(Struct, omit_defaults=True, kw_only=True):
    room: str
    people: int = 0
    topic: str = ""


class Rooms(Event, tag="rooms"):
    n: int = 0
    rooms: list[RoomInfo] = []
    more: bool = False


class PersonInfo(Struct, omit_defaults=True, kw_only=True):
    nick: str
    rooms: list[str] = []
    idle_seconds: float = 0.0
    away: bool = False
    """His connection is lost; he may come back."""
    principal: str = ""


class WhoIs(Event, tag="who"):
    n: int = 0
    room: str = ""
    people: list[PersonInfo] = []
    more: bool = False


class Left(Struct, omit_defaults=True, kw_only=True):
    nick: str
    reason: str = ""


class Presence(Event, tag="people"):
    """Who has come into a room and who has left, in a moment together."""

    room: str
    joined: list[str] = []
    left: list[Left] = []


class Renamed(Event, tag="renamed"):
    """Somebody has another name. To himself it comes in any case, else to who shares a room."""

    old: str
    new: str


class Done(Event, tag="done"):
    """A request was carried out. `id`: of the message, where it has one."""

    n: int
    id: int = 0


class Failed(Event, tag="failed"):
    """A request was not carried out.

    Attributes:
        code: for programs.
        reason: for people; one line.
    """

    code: str
    reason: str
    n: int = 0


class Notice(Event, tag="notice"):
    """Something that the server wants people to know; one line."""

    text: str


Requests = (
    Hello | Join | Leave | Say | Tell | Rename | SetTopic | ListRooms | Who | History | Search | Quit
)  # fmt: skip
Events = (
    Welcome | Said | TopicSet | Told | Room | Page | Rooms | WhoIs | Presence | Renamed | Done | Failed | Notice
)  # fmt: skip

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Requests)
_events: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Events)
_stub: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    msgspec.defstruct("Stub", [("n", Number, 0), ("type", str, "")])
)

encode = _encoder.encode


def decode_request(message: bytes) -> Requests:
    """What a client has sent.

    Raises:
        BadMessage: it makes no sense.
    """
    return _decode(_requests, message)  # type: ignore[no-any-return]


def decode_event(message: bytes) -> Events | None:
    """What a server has sent; None: a sort that we do not know yet.

    Raises:
        BadMessage: it makes no sense.
    """
    try:
        return _decode(_events, message)  # type: ignore[no-any-return]
    except BadMessage as error:
        if error.unknown_type:
            return None
        raise


class BadMessage(ValueError):
    """A message that makes no sense.

    Attributes:
        n: the number of the request, as far as it could be read.
        unknown_type: it is well-formed, but of a type that we do not know.
    """

    def __init__(self, reason: str, n: int = 0, *, unknown_type: bool = False) -> None:
        super().__init__(reason)
        self.n = n
        self.unknown_type = unknown_type


def _decode(decoder: msgspec.json.Decoder[Any], message: bytes) -> Any:
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            stub = _stub.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadMessage(f"not a JSON object as this protocol has them: {error}") from None
        unknown = "Invalid value" in str(error) and str(error).endswith("`$.type`")
        raise BadMessage(f"'{stub.type}': {error}", stub.n, unknown_type=unknown) from None
