"""The working memory of a replay: which accounts and tasks it has touched since the last save."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from ledger.proof.books import Account, Books
from ledger.proof.replay import State, Violation
from workers.replica.store import Progress, SettledBefore, Store
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
    """State, accounts, tasks and tree after `tree.size` leaves: what a save will make durable."""

    def __init__(self, store: Store) -> None:
        head = store.head()
        self._tasks = PendingTasks()
        self._books = TouchedBooks()
        self._books.update(store.accounts())
        self.state = State(self._tasks) if head.state is None else self._loaded(head.state)
        self.state.accounts = self._books
        self.tree = Tree(head.size, store.tile)
        self._saved_size = head.size

    @property
    def unsaved(self) -> int:
        """Leaves since the last save."""
        return self.tree.size - self._saved_size

    def apply(self, leaf: int, entry: bytes) -> None:
        """Take the next leaf. Raises Violation."""
        self._tasks.leaf = leaf
        self.state.apply(leaf, entry)

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

    def _loaded(self, kept: bytes) -> State:
        return State.load(kept, self._tasks)

    def _dumped(self) -> bytes:
        """The state without its accounts, of which only some have changed."""
        self.state.accounts = Books()
        try:
            return self.state.dump()
        finally:
            self.state.accounts = self._books
