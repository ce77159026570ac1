"""Logs in SQLite. Everything here blocks: `StoreThreads` calls it from threads of its own.

A batch of posts is one transaction: when it is committed, its entries have ids and are there after a crash of the
process; with `durable=machine` also after a crash of the machine. WAL lets readers read meanwhile.

Invariants: an id is never given twice, also where the entry itself is not kept (a room without history): the counter
is in the same transaction. A session's last `n` is too, so that what is posted again after a crash is recognised.
What is searched is folded when it is written, where that is more than SQLite can do by itself: a search runs without
Python, and so without holding up who does need it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kernel import StartError

from .backplane import ACT, MAILBOX, SAY, TOPIC, Entry, Found, Page, Post
from .names import is_logged

MEMORY = "memory"

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE entries(id INTEGER PRIMARY KEY, log TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
                     nick TEXT NOT NULL, text TEXT NOT NULL, folded TEXT);
CREATE INDEX entries_of_log ON entries(log, id);
CREATE INDEX entries_at ON entries(at);
CREATE TABLE topics(log TEXT PRIMARY KEY, topic TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions(session TEXT PRIMARY KEY, n INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE owners(fold TEXT PRIMARY KEY, principal TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE counter(last INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
PRAGMA user_version = 2;
"""
_FROM_VERSION_1 = """
ALTER TABLE entries ADD COLUMN folded TEXT;
ALTER TABLE topics ADD COLUMN at REAL NOT NULL DEFAULT 0;
UPDATE topics SET at = CAST(strftime('%s', 'now') AS REAL);
UPDATE entries SET folded = fold(text) WHERE length(text) != length(CAST(text AS BLOB));
PRAGMA user_version = 2;
"""
_NO_ID = 1 << 62
_COLUMNS = "id, log, at, kind, nick, text"
# Direct messages are kept only until a session that was cut off has come back.
_MAILBOX_SECONDS = 24 * 3600.0
_SESSION_SECONDS = 24 * 3600.0
_BUSY_SECONDS = 5.0
# What a search looks at in one turn: some milliseconds of work.
_SEARCHED_MAX = 2000
_GROWN_LOGS_MAX = 10_000
# Of the nicknames that somebody has proved to be his, the ones that he used last stay his.
_NICKS_OWNED_MAX = 5


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of each room: so many messages, so long. `on` off: nothing."""

    messages_max: int
    seconds_max: float
    on: bool = True


class Mirrored(NamedTuple):
    """An entry from elsewhere, and by which session's how-many-th post it was made; `n` 0: nobody counts."""

    entry: Entry
    session: str
    n: int


class Store:
    """A database file, or one in memory. Used by one thread at a time; `reader()` makes another connection.

    Args:
        path: the file; `MEMORY`: none.
        synced: a commit waits for the disk.
        first: ids are larger than this.
    """

    def __init__(self, path: str, retention: Retention, *, synced: bool = False, first: int = 0) -> None:
        self.path = path
        self._retention = retention
        self._synced = synced
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._first = first
        self._last = 0
        self._since_pruned: dict[str, int] = {}

    # --- life --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file, made with its directory where it is missing.

        Raises:
            StartError: it cannot be used; one line says why.
        """
        try:
            if self.path != MEMORY:
                self._take()
            self._db = _connect(self.path)
            self._db.execute(f"PRAGMA synchronous={'FULL' if self._synced else 'NORMAL'}")
            self._migrate()
            [self._last] = self._db.execute("SELECT last FROM counter").fetchone()
            self._last = max(self._last, self._first)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StartError(f"the chat's history '{self.path}' cannot be used: {error}") from None
        except BaseException:
            self.close()
            raise

    def reader(self) -> Store:
        """Another connection to the same file, for reading beside the writer."""
        other = Store(self.path, self._retention)
        other._db = _connect(self.path)
        return other

    def close(self) -> None:
        """Give the file back; may be called twice."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> None:
        """One server at a time: two would give the same ids."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = os.open(self.path + ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"the chat's history '{self.path}' is in use by another server: "
                "give this one a file of its own, --plugin 'chat?store=FILE', or store=memory"
            ) from None

    def _migrate(self) -> None:
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version == 1:
            self._connection.create_function("fold", 1, str.casefold, deterministic=True)
            self._connection.executescript(f"BEGIN; {_FROM_VERSION_1} COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise StartError(f"the chat's history '{self.path}' was written by another version of the chat: move it")

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, posts: Sequence[Post]) -> list[Entry | None]:
        """Make entries of posts, in one transaction; None for one that had been posted before.

        Raises:
            sqlite3.Error: none of them was written.
        """
        now = time.time()
        before = self._last
        try:
            with _transaction(self._connection):
                last_n = self._last_numbers({post.session for post in posts if post.n})
                entries = [self._enter(post, now, last_n) for post in posts]
                self._keep([entry for entry in entries if entry is not None])
                self._remember_numbers(last_n, now)
                self._connection.execute("UPDATE counter SET last = ?", (self._last,))
        except BaseException:
            self._last = before
            raise
        return entries

    def _last_numbers(self, sessions: Iterable[str]) -> dict[str, int]:
        numbers = dict.fromkeys(sessions, 0)
        for session in numbers:
            row = self._connection.execute("SELECT n FROM sessions WHERE session = ?", (session,)).fetchone()
            if row is not None:
                [numbers[session]] = row
        return numbers

    def _remember_numbers(self, last_n: dict[str, int], now: float) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)",
            [(session, n, now) for session, n in last_n.items() if n],
        )

    def _enter(self, post: Post, now: float, last_n: dict[str, int]) -> Entry | None:
        if post.n:
            if post.n <= last_n[post.session]:
                return None
            last_n[post.session] = post.n
        self._last += 1
        return Entry(self._last, post.log, now, post.kind, post.nick, post.text)

    def mirror(self, arrived: Sequence[Mirrored], position: int) -> list[Entry]:
        """Keep entries that have got their ids elsewhere; returns those that had not been posted before.

        Args:
            position: where to go on from after a restart.
        """
        now = time.time()
        last = max(self._last, position)
        with _transaction(self._connection):
            last_n = self._last_numbers({each.session for each in arrived if each.n})
            fresh = []
            for entry, session, n in arrived:
                if n and n <= last_n[session]:
                    continue
                if n:
                    last_n[session] = n
                fresh.append(entry)
            self._keep(fresh)
            self._remember_numbers(last_n, now)
            self._connection.execute("UPDATE counter SET last = ?", (last,))
        self._last = last
        return fresh

    @property
    def last_id(self) -> int:
        """The last id that was given, or the position up to which a log is mirrored."""
        return self._last

    def forget(self) -> None:
        """Start again from nothing."""
        with _transaction(self._connection):
            for table in ("entries", "topics", "sessions"):
                self._connection.execute(f"DELETE FROM {table}")
            self._connection.execute("UPDATE counter SET last = 0")
        self._last = 0

    def _keep(self, entries: Sequence[Entry]) -> None:
        kept = [entry for entry in entries if is_logged(entry.log) and (self._retention.on or entry.log[0] == MAILBOX)]
        self._connection.executemany(
            f"INSERT OR IGNORE INTO entries({_COLUMNS}, folded) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(entry.id, entry.log, entry.at, entry.kind, entry.nick, entry.text, _folded(entry)) for entry in kept],
        )
        for entry in entries:
            if entry.kind == TOPIC:
                topic = (entry.log, entry.text, entry.at)
                self._connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", topic)
        self._prune_logs(entry.log for entry in kept)

    def _prune_logs(self, logs: Iterable[str]) -> None:
        """Now and then cut a log that has grown to the number of messages that is kept."""
        keep = self._retention.messages_max
        for log in logs:
            grown = self._since_pruned[log] = self._since_pruned.get(log, 0) + 1
            if grown > max(keep // 10, 10):
                self._since_pruned[log] = 0
                self._connection.execute(
                    "DELETE FROM entries WHERE log = ? AND id <= "
                    "(SELECT id FROM entries WHERE log = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                    (log, log, keep),
                )

    def prune(self) -> None:
        """Drop what is older than what is kept."""
        now = time.time()
        if len(self._since_pruned) > _GROWN_LOGS_MAX:
            self._since_pruned.clear()
        with _transaction(self._connection):
            self._connection.execute("DELETE FROM entries WHERE at < ?", (now - self._retention.seconds_max,))
            self._connection.execute(
                "DELETE FROM entries WHERE at < ? AND log >= '@' AND log < 'A'", (now - _MAILBOX_SECONDS,)
            )
            self._connection.execute("DELETE FROM sessions WHERE at < ?", (now - _SESSION_SECONDS,))

    def forget_topics(self, rooms: Sequence[str]) -> None:
        """See `Backplane.forget_topics`."""
        with _transaction(self._connection):
            self._connection.executemany("DELETE FROM topics WHERE log = ?", [(room,) for room in rooms])

    def own(self, fold: str, principal: str) -> str:
        """Whose a nickname is: it becomes `principal`'s if it was nobody's. An empty principal owns nothing."""
        with _transaction(self._connection):
            if principal:
                self._connection.execute(
                    "INSERT INTO owners VALUES (?, ?, ?) ON CONFLICT(fold) DO UPDATE SET at = excluded.at "
                    "WHERE principal = excluded.principal",
                    (fold, principal, time.time()),
                )
                self._connection.execute(
                    "DELETE FROM owners WHERE principal = ? AND fold NOT IN "
                    "(SELECT fold FROM owners WHERE principal = ? ORDER BY at DESC LIMIT ?)",
                    (principal, principal, _NICKS_OWNED_MAX),
                )
            row = self._connection.execute("SELECT principal FROM owners WHERE fold = ?", (fold,)).fetchone()
        return row[0] if row else ""

    # --- reading -----------------------------------------------------------------------------------------------------

    def page(self, log: str, *, after: int | None, before: int | None, count: int) -> Page:
        """See `Backplane.page`."""
        if after is not None:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM entries WHERE log = ? AND id > ? ORDER BY id LIMIT ?", (log, after, count + 1)
            ).fetchall()
            return Page(_entries(rows[:count]), len(rows) > count)
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE log = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (log, _NO_ID if before is None else before, count + 1),
        ).fetchall()
        return Page(_entries(reversed(rows[:count])), len(rows) > count)

    def search(self, log: str, words: Sequence[str], *, before: int | None, count: int) -> Found:
        """A step of `Backplane.search`: so many messages, and no more."""
        before = _NO_ID if before is None else before
        window = "SELECT * FROM entries WHERE log = ? AND id < ? ORDER BY id DESC LIMIT ?"
        arguments = (log, before, _SEARCHED_MAX)
        first, size = self._connection.execute(f"SELECT min(id), count(*) FROM ({window})", arguments).fetchone()
        holds = " AND instr(coalesce(folded, lower(text)), ?)" * len(words)
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM ({window}) WHERE kind IN ('{SAY}', '{ACT}'){holds} ORDER BY id DESC LIMIT ?",
            (*arguments, *(word.casefold() for word in words), count),
        ).fetchall()
        if len(rows) == count:
            first = rows[-1][0]
        elif size < _SEARCHED_MAX:
            first = 0
        return Found(_entries(reversed(rows)), first)

    def topics(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT log, topic FROM topics WHERE topic != ''"))

    def silent_topics(self) -> list[str]:
        """See `Backplane.silent_topics`."""
        oldest = time.time() - self._retention.seconds_max
        rows = self._connection.execute(
            "SELECT log FROM topics WHERE at < ? AND NOT EXISTS "
            "(SELECT 1 FROM entries WHERE entries.log = topics.log AND entries.at >= ?)",
            (oldest, oldest),
        )
        return [log for (log,) in rows]


def _connect(path: str) -> sqlite3.Connection:
    where = ":memory:" if path == MEMORY else path
    db = sqlite3.connect(where, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    return db


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _folded(entry: Entry) -> str | None:
    """The text for searches, where SQLite's own `lower` is not enough."""
    return None if entry.text.isascii() else entry.text.casefold()


def _entries(rows: Iterable[tuple[int, str, float, str, str, str]]) -> list[Entry]:
    return [Entry(*row) for row in rows]
