"""A batch's progress on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ledger.money import show_b
from workers.cli import output, say

if TYPE_CHECKING:
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


class Lines:
    """A line every few seconds; the first one as late."""

    def __init__(self) -> None:
        self._told_s = time.monotonic()

    def __call__(self, seen: Progress) -> None:
        """Say it, unless that was done just now."""
        if time.monotonic() - self._told_s >= LINE_S:
            self._told_s = time.monotonic()
            say(words_of(seen))


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
