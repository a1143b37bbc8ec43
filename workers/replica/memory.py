"""The working memory of a replay: which accounts and tasks it has touched since the last save."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from ledger.errors import ClearlaneError
from ledger.proof.books import Account, Books
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.entries import decode
from ledger.proof.merkle import EMPTY_ROOT
from ledger.proof.notes import Note, VerifierKey
from ledger.proof.replay import State, Violation
from workers.replica.store import Head, Progress, Rotten, SettledBefore, Signed, Store
from workers.replica.tree import Tree


class TouchedBooks(Books):
    """Accounts, and the names of those that may have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[str] = set()

    def known(self, name: str) -> Account:
        """An account that is open, about to change."""
        self.touched.add(name)
        found = self.get(name)
        return super().known(name) if found is None else found

    def open(self, name: str, account: Account) -> None:
        """A new account."""
        self.touched.add(name)
        super().open(name, account)


class PendingTasks:
    """Tasks settled since the last save, with their leaves.

    Whether one was settled earlier is found when they are saved, all at once and in order: a look
    at the disk for each would cost more than all the rest of a leaf.
    """

    def __init__(self) -> None:
        self.leaf = 0  # that is applied now
        self.leaves: dict[bytes, int] = {}

    def add(self, task: str) -> bool:
        """Remember a task; False if it was there."""
        key = bytes.fromhex(task.replace("-", ""))
        if key in self.leaves:
            return False
        self.leaves[key] = self.leaf
        return True


class Memory:
    """State, accounts, tasks and tree after `tree.size` leaves: what a save will make durable.

    Raises Rotten when what was saved does not add up.
    """

    state: State
    tree: Tree
    _origin: str
    _saved_size: int

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks = PendingTasks()
        self._tasks_saved = 0
        self._books = TouchedBooks()
        self._retired: dict[str, int | None] = {}  # the log's keys: the leaf that ends each
        try:
            self._load(store.head())
        except (ClearlaneError, ValueError, LookupError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Rotten(f"what was saved cannot be read: {reason}") from error

    @property
    def unsaved(self) -> int:
        """Leaves since the last save."""
        return self.tree.size - self._saved_size

    def apply(self, leaf: int, entry: bytes) -> None:
        """Take the next leaf. Raises Violation."""
        self._tasks.leaf = leaf
        before = self.state.log_key
        self.state.apply(leaf, entry)
        if self.state.log_key is not before:
            self._change_key(leaf, decode(entry))

    def believed(self, given: VerifierKey, signed_size: int) -> list[VerifierKey]:
        """Whose signature is the log's: `given`, and those that it has changed to.

        Not those that it has changed from, after a checkpoint beyond that leaf was signed here.
        """
        ends = {given.encode(): None} | self._retired
        counting = (text for text, end in ends.items() if end is None or signed_size <= end)
        return [VerifierKey.parse(text) for text in counting]

    def require_whole(self) -> None:
        """Raises Rotten unless all that was saved adds up, every tile and task: before anything
        is held against a log. Only right after it was read."""
        if not self.tree.whole():
            raise Rotten("the tiles do not add up")
        if self._store.tasks() != self._tasks_saved:
            raise Rotten(f"not {self._tasks_saved} settled tasks")

    def progress(self) -> Progress:
        """What is to be saved. Raises Violation where no checkpoint may stand."""
        return Progress(
            size=self.tree.size,
            state=self._dumped(),
            accounts=self._touched(),
            tasks=self._tasks.leaves,
            tiles=self.tree.unsaved(),
        )

    def saved(self) -> None:
        """It is."""
        self._tasks_saved += len(self._tasks.leaves)
        self._tasks.leaves.clear()
        self._books.touched.clear()
        self.tree.saved()
        self._saved_size = self.tree.size

    def twice(self, error: SettledBefore) -> Violation:
        """The first of the leaves that settle a task again."""
        leaf, task = min((self._tasks.leaves[task], task) for task in error.tasks)
        return Violation(leaf, f"task {UUID(bytes=task)} is settled twice")

    def _touched(self) -> Iterator[tuple[str, Account]]:
        for name in sorted(self._books.touched):
            if name in self._books:
                yield name, self._books[name]

    def _change_key(self, leaf: int, entry: dict[str, Any]) -> None:
        name = VerifierKey.parse(entry["new"]).name
        if name != self._origin:
            raise Violation(leaf, f"it has a key of {name!r}; the log is {self._origin!r}")
        self._retired |= {entry["old"]: leaf, entry["new"]: None}

    def _load(self, head: Head) -> None:
        self._origin = head.origin
        self._books.update(self._store.accounts())
        self.state, self._saved_size = State(self._tasks), head.size
        kept: dict[str, Any] = {"accounts": 0, "root": EMPTY_ROOT.hex()}
        if head.state is not None:
            kept = json.loads(head.state)
            self.state = State.load(json.dumps(kept["replay"]).encode(), self._tasks)
            self._tasks_saved, self._retired = kept["tasks"], kept["retired"]
        self.state.accounts = self._books
        self._require(self.state.size == head.size, f"not {head.size} leaves were replayed")
        self._require(len(self._books) == kept["accounts"], f"not {kept['accounts']} accounts")
        balance_ub = sum(account.balance_ub for account in self._books.values())
        self._require(balance_ub == 0, f"the balances sum to {balance_ub}")
        self.tree = Tree(head.size, self._store.tile)
        self._require(self.tree.root(head.size).hex() == kept["root"], "the tree has another root")
        if head.signed is not None:
            self._require_signed(head.signed)

    def _require_signed(self, signed: Signed) -> None:
        checkpoint = Checkpoint.parse(Note.parse(signed.note).text)
        same = (signed.size, signed.root) == (checkpoint.size, checkpoint.root)
        self._require(
            same and signed.size <= self.tree.size and self.tree.root(signed.size) == signed.root,
            "what was signed is of another tree",
        )

    def _require(self, holds: bool, reason: str) -> None:
        if not holds:
            raise Rotten(reason)

    def _dumped(self) -> bytes:
        """The state without its accounts, of which only some have changed, and what they and the
        other tables must add up to."""
        self.state.accounts = Books()
        try:
            replay = json.loads(self.state.dump())
        finally:
            self.state.accounts = self._books
        kept = {
            "replay": replay,
            "accounts": len(self._books),
            "tasks": self._tasks_saved + len(self._tasks.leaves),
            "root": self.tree.root(self.tree.size).hex(),
            "retired": self._retired,
        }
        return json.dumps(kept).encode()
