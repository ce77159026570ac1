"""What each request of a guest does. A handler that has to wait is a coroutine; his next request waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from . import backplane
from .backplane import ACT, SAY, TOPIC, NotPosted, Post, Taken
from .names import check_nick, check_room, is_logged
from .pages import entry_bytes, fitting, info_bytes, name_bytes
from .protocol import (
    PAGE_MESSAGES_MAX,
    PEOPLE_BYTES_MAX,
    Done,
    Failed,
    History,
    Join,
    Leave,
    ListRooms,
    Page,
    PersonInfo,
    Quit,
    Rename,
    Renamed,
    Request,
    Room,
    Rooms,
    Said,
    Say,
    Search,
    SetTopic,
    Tell,
    TopicSet,
    Who,
    WhoIs,
)
from .rooms import said_in_room
from .text import clean, clean_line

if TYPE_CHECKING:
    from . import rooms
    from .people import Guest
    from .seat import Seat
    from .service import Chat

_TOPIC_BYTES_MAX = 400
_WORDS_MAX = 8
_ACTIVE_SECONDS = 30.0


class Refused(Exception):
    """The request is not carried out.

    Attributes:
        code: for programs; the message is for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


Handler = Callable[["Chat", "Seat", "Guest", Any], Coroutine[Any, Any, None] | None]


def _refusable(handler: Handler) -> Handler:
    """What is refused is said to who asked."""

    def handle(chat: Chat, seat: Seat, guest: Guest, request: Request) -> Coroutine[Any, Any, None] | None:
        try:
            work = handler(chat, seat, guest, request)
        except Refused as error:
            seat.reply(Failed(n=request.n, code=error.code, reason=str(error)))
            return None
        return None if work is None else _until_refused(chat, work, seat, request)

    return handle


async def _until_refused(chat: Chat, work: Coroutine[Any, Any, None], seat: Seat, request: Request) -> None:
    try:
        await work
    except Refused as error:
        seat.reply(Failed(n=request.n, code=error.code, reason=str(error)))
    except Exception:
        chat.context.log.exception("a request failed", extra={"request": type(request).__name__})
        seat.reply(Failed(n=request.n, code="internal", reason="the server could not do that: its log says why"))


# --- what is said -----------------------------------------------------------------------------------------------------


def _say(chat: Chat, seat: Seat, guest: Guest, request: Say) -> None:
    room = _room_of(guest, request.room)
    text = _text(chat, request.text)
    _post(
        chat,
        seat,
        guest,
        request,
        Post(room, ACT if request.action else SAY, guest.nick, text, guest.session, request.n),
    )


def _tell(chat: Chat, seat: Seat, guest: Guest, request: Tell) -> None:
    text = _text(chat, request.text)
    to = chat.backplane.people.get(chat.rooms.session_of(request.to))
    if to is None:
        raise Refused("nobody", f"there is no '{clean_line(request.to)}' here")
    if to.away:
        raise Refused("away", f"the connection of '{to.nick}' is lost: not delivered")
    log = backplane.MAILBOX + to.session
    _post(
        chat,
        seat,
        guest,
        request,
        Post(log, ACT if request.action else SAY, guest.nick, text, guest.session, request.n),
    )


def _topic(chat: Chat, seat: Seat, guest: Guest, request: SetTopic) -> None:
    room = _room_of(guest, request.room)
    topic = clean_line(request.topic)
    if len(topic.encode()) > _TOPIC_BYTES_MAX:
        raise Refused("long", f"a topic has at most {_TOPIC_BYTES_MAX} bytes")
    _post(chat, seat, guest, request, Post(room, TOPIC, guest.nick, topic, guest.session, request.n))


def _post(chat: Chat, seat: Seat, guest: Guest, request: Request, post: Post) -> None:
    def done(result: int | Exception) -> None:
        seat.posted()
        if isinstance(result, NotPosted):
            seat.reply(Failed(n=request.n, code="lost", reason=f"not delivered: {result}"))
        elif isinstance(result, int):
            seat.reply(Done(n=request.n, id=result))

    _is_active(chat, guest)
    seat.posting += 1
    chat.backplane.post(post, done)


def _text(chat: Chat, text: str) -> str:
    text = clean(text).strip("\n")
    limit = chat.chat_options.message_bytes_max
    if not text.strip():
        raise Refused("empty", "an empty message says nothing")
    if len(text.encode()) > limit:
        raise Refused("long", f"a message has at most {limit} bytes here, not {len(text.encode())}")
    return text


def _is_active(chat: Chat, guest: Guest) -> None:
    """Now and then tell the others that he is not idle."""
    guest.active_at = time.time()
    if guest.active_at - guest.told_active_at > _ACTIVE_SECONDS:
        chat.backplane.update(guest.person())


# --- rooms ------------------------------------------------------------------------------------------------------------


async def _join(chat: Chat, seat: Seat, guest: Guest, request: Join) -> None:
    name = _room_name(request.room)
    limit = chat.chat_options.rooms_per_person_max
    if name not in guest.rooms and len(guest.rooms) >= limit:
        raise Refused("rooms", f"you are in {limit} rooms, which is all that you may: leave one")
    await _make_place(chat, name)
    room = chat.rooms.get(name)
    was_here = seat in room.seats
    seat.begin_join(name)
    room.seats[seat] = None
    if name not in guest.rooms:
        guest.rooms[name] = None
        chat.backplane.update(guest.person())
    try:
        answer = await _entered(chat, room, request)
    except Exception:
        seat.fail_join(name)
        if not was_here and room.seats.pop(seat, seat) is None:
            guest.rooms.pop(name, None)
            chat.backplane.update(guest.person())
        raise
    seat.end_join(name, [answer], answer.last_id)


async def _make_place(chat: Chat, name: str) -> None:
    """Where there are as many rooms as may be, one that stands empty gives way to a new one."""
    if chat.rooms.find(name) is not None or len(chat.rooms) < chat.chat_options.rooms_max:
        return
    deserted = chat.rooms.forget_one()
    if deserted is None:
        raise Refused("rooms", f"there are {len(chat.rooms)} rooms, which is all that may be here: /rooms shows them")
    await chat.backplane.forget_topics([deserted])


async def _entered(chat: Chat, room: rooms.Room, request: Join) -> Room:
    """What somebody sees who comes in."""
    name = room.name
    last_id = room.last_id if request.since is None else request.since
    if request.since is None:
        count = min(max(request.last, 0), PAGE_MESSAGES_MAX)
        page = await chat.backplane.page(name, count=max(count, 1))
        messages, more = _fit(page, newest=True)[0][-count or len(page.entries) :], False
    else:
        page = await chat.backplane.page(name, after=request.since, count=PAGE_MESSAGES_MAX)
        messages, more = _fit(page, newest=False)
    if messages or page.entries:
        last_id = (messages or page.entries)[-1].id
    nicks = sorted((person.nick for person in room.people.values()), key=str.casefold)
    people, people_more = fitting(nicks, name_bytes, PEOPLE_BYTES_MAX)
    return Room(
        room=name,
        n=request.n,
        topic=room.topic,
        people=people,
        people_more=people_more,
        messages=messages,
        last_id=last_id,
        more=more,
        logged=is_logged(name) and chat.chat_options.history,
    )


def _leave(chat: Chat, seat: Seat, guest: Guest, request: Leave) -> None:
    name = _room_of(guest, request.room)
    room = chat.rooms.get(name)
    del guest.rooms[name]
    room.seats.pop(seat, None)
    chat.backplane.update(guest.person())
    seat.reply(Done(n=request.n))


def _list_rooms(chat: Chat, seat: Seat, guest: Guest, request: ListRooms) -> None:
    rooms, more = fitting(chat.rooms.infos()[request.skip :], info_bytes)
    seat.reply(Rooms(n=request.n, rooms=rooms, more=more))


def _who(chat: Chat, seat: Seat, guest: Guest, request: Who) -> None:
    name = _room_name(request.room) if request.room else ""
    room = chat.rooms.find(name) if name else None
    people = (room.people if room else {}) if name else chat.backplane.people
    after, now = request.after.casefold(), time.time()
    following = (person for person in people.values() if person.nick.casefold() > after)
    infos = (
        PersonInfo(
            nick=person.nick,
            rooms=list(person.rooms),
            idle_seconds=round(max(now - _active_at(chat, person), 0)),
            away=person.away,
            principal=person.principal,
        )
        for person in sorted(following, key=lambda person: person.nick.casefold())
    )
    page, more = fitting(infos, info_bytes)
    seat.reply(WhoIs(n=request.n, room=name, people=page, more=more))


def _active_at(chat: Chat, person: backplane.Person) -> float:
    guest = chat.guests.get(person.session)
    return person.active_at if guest is None else guest.active_at


async def _history(chat: Chat, seat: Seat, guest: Guest, request: History) -> None:
    name = _room_of(guest, request.room)
    count = min(max(request.count, 1), PAGE_MESSAGES_MAX)
    page = await chat.backplane.page(name, after=request.after, before=request.before, count=count)
    messages, more = _fit(page, newest=request.after is None)
    seat.reply(Page(room=name, n=request.n, messages=messages, more=more))


async def _search(chat: Chat, seat: Seat, guest: Guest, request: Search) -> None:
    name = _room_of(guest, request.room)
    words = request.text.split()[:_WORDS_MAX]
    if not words:
        raise Refused("empty", "search for what? give a word or several")
    count = min(max(request.count, 1), PAGE_MESSAGES_MAX)
    found = await chat.backplane.search(name, words, before=request.before, count=count)
    messages, cut = _fit(backplane.Page(found.entries), newest=True)
    before = messages[0].id if cut else found.before
    seat.reply(Page(room=name, n=request.n, messages=messages, more=before > 0, before=before))


def _fit(page: backplane.Page, *, newest: bool) -> tuple[list[Said | TopicSet], bool]:
    """As much of a page as goes into one message, from the newest back or from the oldest on."""
    entries, cut = fitting(page.entries[::-1] if newest else page.entries, entry_bytes)
    messages = [said_in_room(entry) for entry in (entries[::-1] if newest else entries)]
    return messages, page.more or cut


# --- people -----------------------------------------------------------------------------------------------------------


async def _rename(chat: Chat, seat: Seat, guest: Guest, request: Rename) -> None:
    try:
        nick = check_nick(request.nick)
        await chat.backplane.claim(guest.person(nick=nick))
    except (ValueError, Taken) as error:
        raise Refused("nick", str(error)) from None
    old, guest.nick = guest.nick, nick
    if chat.guests.get(guest.session) is not guest:  # he left while the name was being claimed
        chat.backplane.release(guest.session, "")
        return
    if guest.seat is None:  # or was lost
        chat.backplane.update(guest.person())
    seat.reply(Renamed(old=old, new=nick))
    seat.reply(Done(n=request.n))


def _quit(chat: Chat, seat: Seat, guest: Guest, request: Quit) -> None:
    seat.leaving = clean_line(request.reason)[:200]
    seat.reply(Done(n=request.n))
    seat.leave()


def _room_name(room: str) -> str:
    try:
        return check_room(room)
    except ValueError as error:
        raise Refused("room", str(error)) from None


def _room_of(guest: Guest, room: str) -> str:
    name = _room_name(room)
    if name not in guest.rooms:
        raise Refused("room", f"you are not in the room '{name}': join it first")
    return name


_PLAIN: list[tuple[type[Request], Handler]] = [
    (Say, _say),
    (Tell, _tell),
    (SetTopic, _topic),
    (Join, _join),
    (Leave, _leave),
    (ListRooms, _list_rooms),
    (Who, _who),
    (History, _history),
    (Search, _search),
    (Rename, _rename),
    (Quit, _quit),
]
HANDLERS = {kind: _refusable(handler) for kind, handler in _PLAIN}
