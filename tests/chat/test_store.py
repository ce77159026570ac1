"""Logs in SQLite: ids, retention, what is posted twice, and what a full disk does."""

from __future__ import annotations

import sqlite3
import stat
import time
from pathlib import Path

import pytest

from kernel import StartError
from kernel.plugins.chat.backplane import Entry, Post
from kernel.plugins.chat.store import MEMORY, Mirrored, Retention, Store

KEEP = Retention(10_000, 3600.0)


def post(text: str, *, log: str = "lobby", n: int = 0, session: str = "s", kind: str = "say") -> Post:
    return Post(log, kind, "ada", text, session, n)


def opened(path: Path | str, retention: Retention = KEEP) -> Store:
    store = Store(str(path), retention)
    store.open()
    return store


def texts(store: Store, log: str = "lobby") -> list[str]:
    return [entry.text for entry in store.page(log, after=0, before=None, count=100_000).entries]


def test_what_was_appended_is_there_after_a_restart_and_ids_go_on(tmp_path: Path) -> None:
    store = opened(tmp_path / "a" / "chat.sqlite")
    first = store.append([post("one"), post("two", log="tea")])
    store.close()
    store = opened(tmp_path / "a" / "chat.sqlite")
    [third] = store.append([post("three")])
    assert [entry.id for entry in [*first, third] if entry] == [1, 2, 3]
    assert texts(store) == ["one", "three"]
    assert stat.S_IMODE((tmp_path / "a" / "chat.sqlite").stat().st_mode) == 0o600
    store.close()


def test_a_post_is_taken_once_also_in_one_batch_and_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path / "chat.sqlite")
    assert [bool(entry) for entry in store.append([post("a", n=1), post("b", n=2), post("a", n=1)])] == [
        True,
        True,
        False,
    ]
    assert store.append([post("b", n=2)]) == [None]
    assert [bool(entry) for entry in store.append([post("other", n=1, session="t")])] == [True]
    store.close()
    store = opened(tmp_path / "chat.sqlite")
    assert [bool(entry) for entry in store.append([post("b", n=2), post("c", n=3)])] == [False, True]
    assert texts(store) == ["a", "b", "other", "c"]
    store.close()


def test_rooms_without_history_use_ids_and_leave_no_text(tmp_path: Path) -> None:
    store = opened(tmp_path / "chat.sqlite")
    [secret] = store.append([post("secret words", log="~room", n=1)])
    assert secret is not None
    assert store.append([post("secret words", log="~room", n=1)]) == [None]
    assert texts(store, "~room") == []
    store.close()
    assert b"secret words" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store = opened(tmp_path / "chat.sqlite")
    [later] = store.append([post("x")])
    assert later is not None
    assert later.id > secret.id
    store.close()


def test_only_so_many_messages_of_a_room_are_kept() -> None:
    store = opened(MEMORY, Retention(100, 3600.0))
    for number in range(1000):
        store.append([post(str(number)), post(str(number), log="other")])
    kept = texts(store)
    assert 100 <= len(kept) <= 111
    assert kept[-1] == "999"
    assert texts(store, "other")[-1] == "999"


def test_only_so_long_are_they_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(MEMORY)
    store.append([post("old"), post("old mail", log="@x")])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    store.append([post("new")])
    store.prune()
    assert texts(store) == ["new"]


def test_without_history_only_mailboxes_are_kept() -> None:
    store = opened(MEMORY, Retention(100, 3600.0, on=False))
    store.append([post("said"), post("told", log="@box"), post("tea", kind="topic")])
    assert (texts(store), texts(store, "@box"), store.topics()) == ([], ["told"], {"lobby": "tea"})


def test_a_write_that_fails_writes_nothing_and_gives_no_id(tmp_path: Path) -> None:
    store = opened(tmp_path / "chat.sqlite")
    store.append([post("one")])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.append([post("x" * 4000, n=number) for number in range(1, 10)])
    store._connection.execute("PRAGMA max_page_count=1000000")
    [entry] = store.append([post("two", n=1)])
    assert entry is not None
    assert entry.id == 2
    assert texts(store) == ["one", "two"]
    store.close()


def test_a_search_looks_at_so_many_messages_at_a_time() -> None:
    store = opened(MEMORY, Retention(100_000, 3600.0))
    store.append([post("a word" if number % 1000 == 0 else "x") for number in range(5001)])
    steps = [store.search("lobby", ["word"], before=None, count=50)]
    while steps[-1].before:
        steps.append(store.search("lobby", ["word"], before=steps[-1].before, count=50))
    assert [step.before for step in steps] == [3002, 1002, 0]
    assert [[entry.id for entry in step.entries] for step in steps] == [[4001, 5001], [2001, 3001], [1, 1001]]


def test_a_search_stops_at_what_was_asked_for_and_goes_on_there() -> None:
    store = opened(MEMORY)
    store.append([post(f"word {number}") for number in range(10)])
    found = store.search("lobby", ["WORD"], before=None, count=4)
    assert ([entry.id for entry in found.entries], found.before) == ([7, 8, 9, 10], 7)
    found = store.search("lobby", ["word"], before=found.before, count=100)
    assert ([entry.id for entry in found.entries], found.before) == ([1, 2, 3, 4, 5, 6], 0)
    assert store.search("nowhere", ["word"], before=None, count=4).entries == []


@pytest.mark.parametrize(("text", "word"), [("Straße", "STRASSE"), ("ÉTÉ", "été"), ("ADA", "ada"), ("100%_'\"", "%_'")])
def test_case_does_not_matter_and_signs_are_signs(text: str, word: str) -> None:
    store = opened(MEMORY)
    store.append([post("another"), post(text)])
    assert [entry.text for entry in store.search("lobby", [word], before=None, count=9).entries] == [text]


def test_rooms_in_which_nothing_happens_lose_their_topics_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(MEMORY, Retention(100, 3600.0))
    for room in ("quiet", "lively", "~unlogged"):
        store.append([post("topic", kind="topic", log=room)])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1800)
    store.append([post("still here", log="lively")])
    assert store.silent_topics() == []
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    store.prune()
    assert sorted(store.silent_topics()) == ["quiet", "~unlogged"]
    store.forget_topics(["quiet", "~unlogged"])
    assert store.topics() == {"lively": "topic"}


def test_a_history_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "chat.sqlite")
    old.executescript("""
        CREATE TABLE entries(id INTEGER PRIMARY KEY, log TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
                             nick TEXT NOT NULL, text TEXT NOT NULL);
        CREATE INDEX entries_of_log ON entries(log, id);
        CREATE INDEX entries_at ON entries(at);
        CREATE TABLE topics(log TEXT PRIMARY KEY, topic TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE sessions(session TEXT PRIMARY KEY, n INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
        CREATE TABLE owners(fold TEXT PRIMARY KEY, principal TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
        CREATE TABLE counter(last INTEGER NOT NULL);
        INSERT INTO counter VALUES (2);
        INSERT INTO entries VALUES (1, 'lobby', 1e10, 'say', 'ada', 'Größe');
        INSERT INTO entries VALUES (2, 'lobby', 1e10, 'say', 'ada', 'Plain');
        INSERT INTO topics VALUES ('lobby', 'tea');
        PRAGMA user_version = 1;
    """)
    old.close()
    store = opened(tmp_path / "chat.sqlite")
    assert [store.search("lobby", [word], before=None, count=9).entries[0].id for word in ("GRÖSSE", "plain")] == [1, 2]
    assert (store.topics(), store.silent_topics(), store.last_id) == ({"lobby": "tea"}, [], 2)
    store.close()


def test_two_servers_do_not_share_a_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "chat.sqlite")
    with pytest.raises(StartError, match="is in use by another server: give this one a file of its own"):
        opened(tmp_path / "chat.sqlite")
    store.close()
    opened(tmp_path / "chat.sqlite").close()


def test_what_is_no_history_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    (tmp_path / "file").write_text("")
    for path, why in [("text", "file is not a database"), ("file/chat.sqlite", "xists"), ("", "irectory")]:
        with pytest.raises(StartError, match=why) as caught:
            opened(tmp_path / path)
        assert "\n" not in str(caught.value)
    other = sqlite3.connect(tmp_path / "later")
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(StartError, match="written by another version of the chat"):
        opened(tmp_path / "later")


def test_proved_names_are_owned_the_last_five_of_each() -> None:
    store = opened(MEMORY)
    assert store.own("ada", "") == ""
    assert store.own("ada", "hmac:ada") == "hmac:ada"
    assert store.own("ada", "hmac:eve") == "hmac:ada"
    assert store.own("ada", "") == "hmac:ada"
    for number in range(6):
        store.own(f"name{number}", "hmac:ada")
    assert store.own("ada", "") == ""


def test_a_mirror_takes_each_post_once_and_knows_where_to_go_on(tmp_path: Path) -> None:
    def mirrored(id_: int, session: str, n: int) -> Mirrored:
        return Mirrored(Entry(id_, "lobby", time.time(), "say", "ada", f"{session}{n}"), session, n)

    store = opened(tmp_path / "mirror")
    store.mirror([mirrored(256, "a", 1), mirrored(258, "a", 2)], 1)
    again = store.mirror(
        [mirrored(512, "a", 2), mirrored(514, "b", 1), mirrored(516, "c", 0), mirrored(518, "c", 0)], 2
    )
    assert [entry.id for entry in again] == [514, 516, 518]
    store.close()
    store = opened(tmp_path / "mirror")
    assert store.last_id == 2
    assert [entry.id for entry in store.mirror([mirrored(768, "a", 1), mirrored(770, "a", 3)], 3)] == [770]
    assert texts(store) == ["a1", "a2", "b1", "c0", "c0", "a3"]
    store.forget()
    assert (store.last_id, texts(store)) == (0, [])
    store.close()
