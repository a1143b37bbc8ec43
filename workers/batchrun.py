"""Running a batch: its items submitted under the lane's token, followed until all have ended.

Rows M02, M03. Whatever ends it on the way, the ledger knows which items have ended; the others
wait under the batch's id until it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ledger import attempts, batches, intake, lanes
from ledger.batches import Counts
from ledger.errors import LaneLost, Unavailable
from ledger.intake import Accepted, Submission, Tenure
from ledger.lanes import Lane
from ledger.postings import client_account
from tasks.context import Context
from workers.chunks import COUNT_MAX, chunks
from workers.holding import LOOK_S, Holding, Tell
from workers.interrupts import Interrupts

FOLLOW_S: Final = 0.25  # between two looks at the counts; more if a look takes long
BUSY_MAX: Final = 0.1  # of the time spent with looking
PAUSE_S: Final = 1.0  # while a server is away
BURST_S: Final = 0.1  # of a paced batch, submitted together


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a batch has come. Items that ended before, under no batch or another, are in `done`
    and `failed`, and in `before`; `spent_ub` is what this batch has paid."""

    items: int
    before: int
    done: int
    failed: int
    in_flight: int
    spent_ub: int
    budget_ub: int  # what the client can still spend
    elapsed_s: float

    @property
    def ended(self) -> int:
        """Items that will not change any more."""
        return self.done + self.failed

    @property
    def rate_per_s(self) -> float:
        """Items that ended in this run, per second."""
        return max(0, self.ended - self.before) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until all have ended at this rate; None: nobody knows."""
        return (self.items - self.ended) / self.rate_per_s if self.rate_per_s > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """How whoever runs a batch hears of it: `tell` how far it is, `draining` how far its lane is,
    `say` the rest in words."""

    tell: Callable[[Progress], None]
    draining: Tell
    say: Callable[[str], None]


class Stopped(Exception):
    """Whoever runs the batch wants it to stop."""


class Run:
    """One run of a batch whose lane is held and drained.

    before: what the ledger knew of its items by their keys when the lane had drained. `seen`: how
    it stood when it was looked at last.
    """

    def __init__(
        self,
        context: Context,
        *,
        hold: Holding,
        number: int,
        client: str,
        items: Sequence[Submission],
        before: Mapping[str, Accepted],
        interrupts: Interrupts,
        voice: Voice,
    ) -> None:
        self._context = context
        self._hold = hold
        self._number = number
        self._client = client
        self._total = len(items)
        # What has ended is not touched; what waits in this batch already is claimed as it is.
        self._todo = [item for item in items if _is_open(item, before, number)]
        self._interrupts = interrupts
        self._voice = voice
        self._tenure = Tenure(lane=hold.lane, token=hold.token, batch=number)
        ended = [item for item in before.values() if item.state != "INIT"]
        self._before = len(ended)
        # Those of this batch are counted with it.
        elsewhere = [item.state == "COMMITTED" for item in ended if item.batch != number]
        self._done, self._failed = sum(elsewhere), len(elsewhere) - sum(elsewhere)
        self._began_s = time.monotonic()
        self._looked_s = 0.0
        self._look_took_s = 0.0
        self.seen: Progress | None = None

    def submit(self, rate_per_s: float | None) -> None:
        """Every item that the batch does not have yet, in order, no faster than that; one that
        another batch left unfinished comes into this one.

        Raises Stopped, LaneLost, Conflict.
        """
        count = COUNT_MAX if rate_per_s is None else max(1, int(rate_per_s * BURST_S))
        submitted = 0
        for chunk in chunks(self._todo, min(count, COUNT_MAX)):
            if rate_per_s is not None:
                self._until(self._began_s + submitted / rate_per_s)
            self._accept(chunk)
            submitted += len(chunk)
            self._watch()

    def follow(self) -> None:
        """Wait until every item has ended. Raises Stopped, LaneLost."""
        while True:
            seen = self._watch()
            if seen is not None and seen.ended >= seen.items:
                return
            self._pause(FOLLOW_S)

    def stop(self) -> None:
        """Give the lane back when what is in flight has ended; at the next interrupt at once, and
        what is in flight is refused. `seen` is then how it stands, if that can be told.

        Raises LaneLost.
        """
        heard = self._interrupts.count
        lane = self._hold.give_back()
        if not lane.drained:
            self._voice.say(
                f"stopping: {lane.in_flight} in flight are waited for;"
                " Ctrl-C again gives the lane back at once"
            )
        with suppress(LaneLost):  # somebody else waits for the same drain by now
            while not lane.drained:
                lane = self._drain(lane, force=self._interrupts.count > heard)
                self._look()
                if not lane.drained:
                    self._interrupts.wait(LOOK_S)
        self._looked_s = 0.0
        self._look()

    def _drain(self, lane: Lane, *, force: bool) -> Lane:
        engine, now = self._context.engine, self._context.now()
        try:
            return lanes.grant(engine, lane.lane, lane.token, now, force=force)
        except Unavailable:
            return lane

    def _accept(self, chunk: Sequence[Submission]) -> None:
        while True:
            self._check()
            try:
                now = self._context.now()
                intake.submit(self._context.engine, self._client, chunk, now, self._tenure)
                return
            except Unavailable:
                # Perhaps it was accepted: the keys tell.
                self._pause(PAUSE_S)

    def _until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0:
            self._pause(min(left_s, FOLLOW_S))
            self._watch()

    def _pause(self, seconds: float) -> None:
        self._interrupts.wait(seconds)
        self._check()

    def _check(self) -> None:
        self._hold.check()
        if self._interrupts.count:
            raise Stopped

    def _watch(self) -> Progress | None:
        """`_look`, and stop if there is a reason."""
        self._check()
        return self._look()

    def _look(self) -> Progress | None:
        """How it stands, unless it was looked at just now or PostgreSQL is away."""
        began_s = time.monotonic()
        if began_s - self._looked_s < max(FOLLOW_S, self._look_took_s / BUSY_MAX):
            return None
        try:
            counts = batches.counts(self._context.engine, self._number)
            account = client_account(self._client)
            budget_ub = attempts.spendable_ub(self._context.engine, [account])
        except Unavailable:
            return None
        self._looked_s = time.monotonic()
        self._look_took_s = self._looked_s - began_s
        self.seen = self._progress(counts, budget_ub[account])
        self._voice.tell(self.seen)
        return self.seen

    def _progress(self, counts: Counts, budget_ub: int) -> Progress:
        return Progress(
            items=self._total,
            before=self._before,
            done=self._done + counts.committed,
            failed=self._failed + counts.failed,
            in_flight=counts.in_flight,
            spent_ub=counts.spent_ub,
            budget_ub=budget_ub,
            elapsed_s=time.monotonic() - self._began_s,
        )


def _is_open(item: Submission, before: Mapping[str, Accepted], number: int) -> bool:
    """Whether a batch still has to submit it."""
    known = before.get(item.idempotency_key or "")
    return known is None or (known.state == "INIT" and known.batch != number)
