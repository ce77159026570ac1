"""How fast somebody may talk, how long others wait for him, and who he is."""

from __future__ import annotations

from kernel.plugins.chat import sources
from kernel.plugins.chat.options import ChatOptions
from kernel.plugins.chat.people import session_name
from kernel.plugins.chat.sources import Allowance, Source, Sources

OPTIONS = ChatOptions(messages_per_second=2.0, burst=4, people_max=5, people_per_source_max=3)


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(per_second=2.0, burst=3)
    assert [allowance.reserve(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert [allowance.reserve(100.0), allowance.reserve(100.0)] == [0.5, 1.0]
    assert allowance.reserve(100.5) == 1.0
    allowance.give_back(1.0)
    assert allowance.reserve(100.5) == 1.0
    assert [allowance.reserve(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_what_is_too_much_is_not_spent() -> None:
    allowance = Allowance(per_second=2.0, burst=3)
    assert [allowance.spend(100.0, 2.0), allowance.spend(100.0, 2.0), allowance.spend(100.5, 2.0)] == [
        True,
        False,
        True,
    ]


def test_patience_is_with_a_source_and_comes_back_within_a_minute() -> None:
    patience = Source("10.0.0.1", ChatOptions(slow_reader_seconds_max=5.0)).patience
    assert [patience.spend(100.0, 1.0) for _ in range(6)] == [True] * 5 + [False]
    assert not patience.spend(105.0, 1.0)
    assert patience.spend(120.0, 1.0)
    assert [patience.spend(500.0, 5.0), patience.spend(500.0, 0.25)] == [True, False]


def test_all_who_come_from_one_source_share_what_one_person_may_say() -> None:
    table = Sources(OPTIONS)
    assert [table.get("10.0.0.1").talk.reserve(100.0) for _ in range(6)] == [0.0] * 4 + [0.5, 1.0]
    assert table.get("10.0.0.2").talk.reserve(100.0) == 0.0
    proxy = ChatOptions(messages_per_second=2.0, burst=4, messages_per_second_per_source=20.0)
    assert [Source("proxy", proxy).talk.reserve(100.0) for _ in range(40)] == [0.0] * 40


def test_one_source_takes_not_all_places() -> None:
    table = Sources(OPTIONS)
    for _ in range(3):
        assert table.why_full(table.get("10.0.0.1")) == ""
        table.come(table.get("10.0.0.1"))
    assert "3 people are here as '10.0.0.1', which is all that may be" in table.why_full(table.get("10.0.0.1"))
    for name in ("10.0.0.2", "10.0.0.3"):
        assert table.why_full(table.get(name)) == ""
        table.come(table.get(name))
    assert table.why_full(table.get("10.0.0.4")) == "the chat is full: try again later"
    table.go(table.get("10.0.0.1"))
    assert table.why_full(table.get("10.0.0.1")) == ""


def test_ever_new_sources_are_forgotten_but_for_those_who_are_here() -> None:
    table = Sources(OPTIONS)
    here = table.get("here")
    table.come(here)
    for number in range(30_000):
        table.get(str(number))
    assert table.get("here") is here
    assert len(table._sources) == OPTIONS.people_max + sources._REMEMBERED_MAX


def test_a_session_is_named_without_its_secret() -> None:
    assert session_name("secret") == session_name("secret")
    assert "secret" not in session_name("secret")
    assert session_name("") != session_name("")
