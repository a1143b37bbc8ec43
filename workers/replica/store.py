"""What a replica must not forget: one SQLite file in a directory that one process owns.

Everything that belongs together is written in one transaction, on the disk before `save` returns:
what was replayed (the state, the accounts, the settled tasks, the hashes) and what was signed.
Row M22.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.errors import BadInput, ClearlaneError, Conflict, Unavailable
from ledger.proof.books import Account
from ledger.proof.notes import VerifierKey

FILE: Final = "replica.sqlite"
LOCK: Final = "lock"
CACHE_KIB: Final = 65_536
LOST: Final = (
    "give this replica up: make a new key and an empty directory, and give its operator the key; "
    "a copy of the directory does not know what was signed since"
)
FORM: Final = 1  # of the tables: a file of another one is not read
SCHEMA: Final = f"""
PRAGMA user_version = {FORM};
CREATE TABLE head (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    origin   TEXT NOT NULL,
    size     INTEGER NOT NULL,           -- leaves replayed
    state    BLOB,                       -- the rest of the state machine after them, as JSON
    seen     TEXT,                       -- the log's own checkpoint as it was served last
    vkey     TEXT,                       -- who signs with this state, and nobody else
    trouble  TEXT NOT NULL DEFAULT '',   -- what kept it from following when it looked last
    signed_size INTEGER, signed_root BLOB, signed_note TEXT, signed_line TEXT, signed_at INTEGER
);
CREATE TABLE account (
    name TEXT PRIMARY KEY, balance TEXT NOT NULL, quota TEXT,
    opened_ms INTEGER NOT NULL, settled INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE task (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE tile (
    level INTEGER NOT NULL, number INTEGER NOT NULL, hashes BLOB NOT NULL,
    PRIMARY KEY (level, number)
);
"""


class SettledBefore(ClearlaneError):
    """Some of the tasks are there already; nothing was saved."""

    def __init__(self, tasks: Sequence[bytes]) -> None:
        super().__init__(f"{len(tasks)} tasks are settled already")
        self.tasks = tasks


class Rotten(sqlite3.DatabaseError):
    """What was saved contradicts itself. Nothing that follows from it may be held against a log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """The last checkpoint this replica has signed; `time_s` unix seconds, `line` its signature."""

    size: int
    root: bytes
    note: str
    line: str
    time_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Where a replica stands. `state` None: nothing was replayed yet. `vkey`: its key; None
    before its first use. `trouble`: what kept it from following; "" when nothing did."""

    vkey: str | None
    trouble: str
    origin: str
    size: int
    state: bytes | None
    seen: str | None
    signed: Signed | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What was replayed since the last save: the whole of `size`, only changes of the others."""

    size: int
    state: bytes
    accounts: Iterable[tuple[str, Account]]
    tasks: Iterable[bytes]
    tiles: Iterable[tuple[int, int, bytes]]


class Store:
    """The file, open for writing. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def head(self) -> Head:
        """Where we stand."""
        return _head(self._sql)

    def accounts(self) -> Iterator[tuple[str, Account]]:
        """Every account after the leaves replayed."""
        rows = self._sql.execute("SELECT name, balance, quota, opened_ms, settled FROM account")
        for name, balance, quota, opened_ms, settled in rows:
            quota_ub = None if quota is None else int(quota)
            yield name, Account(int(balance), quota_ub, opened_ms, settled)

    def tasks(self) -> int:
        """How many tasks were settled; every one is looked at."""
        return int(self._sql.execute("SELECT count(*) FROM task").fetchone()[0])

    def tile(self, level: int, number: int) -> bytes:
        """The hashes of a tile; none when it was never saved."""
        query = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
        row = self._sql.execute(query, (level, number)).fetchone()
        return b"" if row is None else bytes(row[0])

    def save(self, progress: Progress | None, signed: Signed | None) -> None:
        """Both or none, on the disk. Raises SettledBefore; then nothing was saved."""
        with self._transaction():
            if progress is not None:
                self._progress(progress)
            if signed is not None:
                self._sql.execute(
                    "UPDATE head SET signed_size = ?, signed_root = ?, signed_note = ?, "
                    "signed_line = ?, signed_at = ?",
                    (signed.size, signed.root, signed.note, signed.line, signed.time_s),
                )

    def own(self, key: VerifierKey) -> None:
        """Only this key signs with this state, from its first use on. Raises Conflict.

        Two keys with one state would look like two witnesses, and be one.
        """
        owner = self.head().vkey
        if owner not in {None, key.encode()}:
            reason = f"it is the state of the replica {owner}, not of {key}"
            raise Conflict("--state", reason, "name a directory of its own, or that replica's key")
        with self._transaction():
            self._sql.execute("UPDATE head SET vkey = ?", (key.encode(),))

    def troubled(self, trouble: str) -> None:
        """Keep what keeps us from following; "" when nothing does."""
        with self._transaction():
            self._sql.execute("UPDATE head SET trouble = ?", (trouble,))

    def saw(self, note: str) -> None:
        """Keep the checkpoint that the log serves, with whoever has signed it by now."""
        with self._transaction():
            self._sql.execute("UPDATE head SET seen = ?", (note,))

    def close(self) -> None:
        """Let go of the file."""
        self._sql.close()

    def _progress(self, new: Progress) -> None:
        # In the order of the index: neighbours go to the same page, and a page is read once.
        tasks = sorted(new.tasks)
        try:
            self._sql.executemany("INSERT INTO task VALUES (?)", zip(tasks, strict=True))
        except sqlite3.IntegrityError:
            self._sql.rollback()
            raise SettledBefore([task for task in tasks if self._has(task)]) from None
        self._sql.executemany(
            "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?)", map(_row, new.accounts)
        )
        self._sql.executemany("INSERT OR REPLACE INTO tile VALUES (?, ?, ?)", new.tiles)
        self._sql.execute("UPDATE head SET size = ?, state = ?", (new.size, new.state))

    def _has(self, task: bytes) -> bool:
        query = "SELECT 1 FROM task WHERE id = ?"
        return self._sql.execute(query, (task,)).fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            yield
            self._sql.commit()
        except sqlite3.OperationalError as error:  # a full disk, most likely
            raise Unavailable(
                "state", f"{FILE}: {error}", "make room; it is tried again"
            ) from error
        finally:
            if self._sql.in_transaction:
                self._sql.rollback()


@contextmanager
def opened(directory: Path, origin: str) -> Iterator[Store]:
    """The state of the replica of this log, made when there is none yet.

    Raises Conflict when another process has it or it is another log's; BadInput, also while it is
    in use, when the file is damaged.
    """
    before = os.umask(0o077)
    try:
        with _opened(directory, origin) as store:
            yield store
    finally:
        os.umask(before)


@contextmanager
def _opened(directory: Path, origin: str) -> Iterator[Store]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = f"{directory} cannot be used: {error.strerror}"
        raise BadInput("--state", reason, "name another directory") from error
    try:
        _own(lock, directory)
        _make(directory, origin)
        store = Store(_connect(directory))
        try:
            _require_sound(store._sql)
            _require_origin(store, origin)
            yield store
        except sqlite3.DatabaseError as error:
            raise _damaged(directory, error) from error
        finally:
            store.close()
    finally:
        os.close(lock)


def look(directory: Path) -> Head:
    """Where the replica of a directory stands, running or not. Raises BadInput."""
    file = directory / FILE
    if not file.exists():
        raise BadInput("--state", f"{directory} has no state of a replica", "name the one of `run`")
    try:
        _require_something(file)
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            _require_form(connection, directory)
            return _head(connection)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise _damaged(directory, error) from error


def _own(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reason = f"another replica works on {directory}"
        raise Conflict("--state", reason, "stop it, or name a directory of its own") from None


def _make(directory: Path, origin: str) -> None:
    """The file, whole or not at all: others look at it, and this process may be killed here."""
    file, aside = directory / FILE, directory / f"{FILE}.new"
    if file.exists():
        return
    aside.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(aside)) as connection, connection:
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO head (id, origin, size) VALUES (1, ?, 0)", (origin,))
    except sqlite3.DatabaseError as error:
        raise _damaged(directory, error) from error
    aside.rename(file)


def _connect(directory: Path) -> sqlite3.Connection:
    try:
        _require_something(directory / FILE)
        connection = sqlite3.connect(
            directory / FILE, isolation_level=None, check_same_thread=False
        )
        _require_form(connection, directory)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except sqlite3.DatabaseError as error:
        raise _damaged(directory, error) from error
    return connection


def _require_form(connection: sqlite3.Connection, directory: Path) -> None:
    (form,) = connection.execute("PRAGMA user_version").fetchone()
    if form != FORM:
        reason = f"{directory / FILE} has form {form}, and this version reads form {FORM} alone"
        remedy = "use the version that made it, or make a new key and an empty directory"
        raise BadInput("--state", reason, remedy)


def _require_something(file: Path) -> None:
    """SQLite would take an empty file for a new one, and what was signed would be forgotten."""
    if file.exists() and not file.stat().st_size:
        raise Rotten("the file is empty")


def _require_sound(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise Rotten(found.rpartition("\n")[2])


def _require_origin(store: Store, origin: str) -> None:
    kept = store.head().origin
    if kept != origin:
        reason = f"it is the state of a replica of {kept}, not of {origin}"
        raise Conflict("--state", reason, "name another directory, or another --log-key")


def _damaged(directory: Path, error: sqlite3.DatabaseError) -> BadInput:
    """What cannot be reached may be whole: a person's access, a lock, a disk."""
    reachable = not isinstance(error, sqlite3.OperationalError)
    remedy = LOST if reachable else "give its owner access, or see to the disk"
    reason = f"{directory / FILE}{' is damaged' if reachable else ''}: {error}"
    return BadInput("--state", reason, remedy)


def _head(connection: sqlite3.Connection) -> Head:
    row = connection.execute(
        "SELECT vkey, trouble, origin, size, state, seen, "
        "signed_size, signed_root, signed_note, signed_line, signed_at FROM head"
    ).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it has no head")
    vkey, trouble, origin, size, state, seen, *signed = row
    found = None
    if signed[0] is not None:
        signed_size, root, note, line, time_s = signed
        found = Signed(size=signed_size, root=bytes(root), note=note, line=line, time_s=time_s)
    return Head(
        vkey=vkey,
        trouble=trouble,
        origin=origin,
        size=size,
        state=state,
        seen=seen,
        signed=found,
    )


def _row(item: tuple[str, Account]) -> tuple[str, str, str | None, int, int]:
    name, account = item
    quota = None if account.quota_ub is None else str(account.quota_ub)
    return name, str(account.balance_ub), quota, account.opened_ms, account.settled
