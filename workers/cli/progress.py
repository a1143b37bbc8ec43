"""What takes long, told on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ledger.money import show_b
from workers.cli import output, say

if TYPE_CHECKING:
    from ledger.lanes import Lane
    from workers.batchrun import Progress

LINE_S: Final = 5.0  # between two lines
BAR: Final = 20  # characters


@contextmanager
def shown(total: int) -> Iterator[Callable[[Progress], None]]:
    """What tells progress while the block runs."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    words = Column(ratio=1, overflow="fold")  # on several lines where the terminal is narrow
    columns = (
        BarColumn(bar_width=BAR),
        TextColumn("{task.description}", markup=False, table_column=words),
    )
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
        number = bars.add_task("", total=total)

        def tell(seen: Progress) -> None:
            bars.update(number, completed=seen.ended, description=words_of(seen))

        yield tell


class Seldom:
    """Whether it is time for another line: every few seconds, the first one at once or as late."""

    def __init__(self, *, at_once: bool) -> None:
        self._next_s = time.monotonic() + (0.0 if at_once else LINE_S)

    def due(self) -> bool:
        """True at most once in so many seconds."""
        if time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + LINE_S
        return True


class Lines:
    """Says now and then how far a batch is."""

    def __init__(self) -> None:
        self._seldom = Seldom(at_once=False)

    def __call__(self, seen: Progress) -> None:
        """Say it, unless that was done just now."""
        if self._seldom.due():
            say(words_of(seen))


class Draining:
    """Says now and then how far a lane has drained; a `holding.Tell`."""

    def __init__(self) -> None:
        self._seldom = Seldom(at_once=True)

    def __call__(self, lane: Lane) -> None:
        """Say it, unless that was done just now."""
        if self._seldom.due():
            say(f"waiting for {lane.in_flight} tasks in flight in lane {lane.lane}")


def words_of(seen: Progress) -> str:
    """How far it is, in one line."""
    eta = "" if seen.eta_s is None else f", ready in {_span(seen.eta_s)}"
    return (
        f"{seen.ended} of {seen.items}: {seen.done} done, {seen.failed} failed,"
        f" {seen.in_flight} in flight, {seen.rate_per_s:.1f}/s{eta};"
        f" {show_b(seen.spent_ub)} B spent, {show_b(seen.budget_ub)} B left"
    )


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
