"""How fast somebody may talk, and how long others wait for him."""

from __future__ import annotations

from kernel.plugins.chat.people import Allowance, Patience, session_name


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(per_second=2.0, burst=3)
    assert [allowance.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert allowance.take(100.0) == 0.5
    assert allowance.take(100.5) == 0.0
    assert allowance.take(100.5) > 0
    assert [allowance.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_patience_is_with_a_source_and_not_with_a_connection() -> None:
    patience = Patience(5.0)
    assert [patience.spend("10.0.0.1", 1.0, 100.0) for _ in range(6)] == [True] * 5 + [False]
    assert patience.spend("10.0.0.2", 5.0, 100.0)
    assert not patience.spend("10.0.0.1", 1.0, 105.0)
    assert patience.spend("10.0.0.1", 1.0, 120.0)
    assert [patience.spend("10.0.0.1", 5.0, 500.0), patience.spend("10.0.0.1", 0.25, 500.0)] == [True, False]


def test_patience_with_ever_new_sources_is_bounded() -> None:
    patience = Patience(5.0)
    for number in range(20_000):
        patience.spend(str(number), 1.0, 100.0)
    assert len(patience._left) == Patience._SOURCES_MAX


def test_a_session_is_named_without_its_secret() -> None:
    assert session_name("secret") == session_name("secret")
    assert "secret" not in session_name("secret")
    assert session_name("") != session_name("")
