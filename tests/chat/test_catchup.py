"""What was missed comes in order and once, whatever is said meanwhile."""

from __future__ import annotations

from kernel.plugins.chat.catchup import CatchUp, Seen
from kernel.plugins.chat.protocol import Said


def said(*ids: int) -> list[Seen]:
    return [Said(room="lobby", id=id_, at=0.0, nick="ada", text=str(id_)) for id_ in ids]


def ids(events: list[Seen]) -> list[int]:
    return [event.id for event in events]


def test_what_is_said_is_handed_on_once() -> None:
    room = CatchUp(5)
    assert [ids(room.said(*said(number))) for number in (4, 5, 6, 6, 9, 7)] == [[], [], [6], [], [9], []]


def test_what_is_said_meanwhile_waits_behind_the_pages() -> None:
    room = CatchUp(5)
    room.begin(1)
    assert [ids(room.said(*said(number))) for number in (20, 30)] == [[], []]
    assert (ids(room.page(said(5, 6, 7), more=True)), room.missing) == ([6, 7], True)
    assert (ids(room.page(said(8, 20), more=False)), room.missing) == ([8, 20, 30], False)
    assert ids(room.said(*said(31))) == [31]


def test_an_empty_page_is_the_last_one() -> None:
    room = CatchUp(5, missing=True)
    room.said(*said(6))
    assert (ids(room.page([], more=True)), room.missing) == ([6], False)


def test_a_connection_that_is_lost_again_begins_again() -> None:
    room = CatchUp(5)
    room.begin(1)
    room.said(*said(20))
    room.page(said(6), more=True)
    room.begin(1)
    assert ids(room.page(said(6, 7, 20), more=False)) == [7, 20]
