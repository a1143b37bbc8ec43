"""Keeps a replica up with its log: reads what the log has signed, has it replayed, names what is
wrong.

One task does all of it, so that a checkpoint is followed to its end before the next one counts.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn, TypeVar

import structlog

from ledger.errors import ClearlaneError, Unavailable
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import Note
from ledger.proof.tiles import WIDTH
from tasks.text import printable
from workers.replica.faults import Damaged, Lie, PageDamaged, Refused
from workers.replica.offer import Offer
from workers.replica.replica import Page, Replica
from workers.replica.served import Served
from workers.replica.source import Source

SHORT_S: Final = 60.0  # that a log stays shorter than it was, before that convicts it
POLL_S: Final = 2.0  # between two looks at the log's checkpoint
ANSWER_S: Final = 4.0  # for a checkpoint to be replayed while its sender waits
WANTED_MAX: Final = 8  # checkpoints that somebody waits for
PAGES_AHEAD: Final = 8
BATCH_PAGES: Final = 32  # replayed in one go: between two, others get their turn
BATCH_BYTES: Final = 8 << 20
TROUBLE_CHARS_MAX: Final = 500

log = structlog.get_logger()

T = TypeVar("T")


class Follower:
    """A replica and its log. `trouble` says what keeps it from following; "" when nothing does."""

    def __init__(
        self,
        replica: Replica,
        source: Source,
        poll_s: float = POLL_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._source = source
        self._poll_s = poll_s
        self._clock_s = clock_s
        self._short_since_s: float | None = None
        self._polled_s = -math.inf
        self._rotten: sqlite3.DatabaseError | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replica")
        self._wanted: dict[str, tuple[Offer, asyncio.Future[None]]] = {}
        self._wake = asyncio.Event()
        self._kept: str | None = None  # in the state; that of an earlier run does not count
        self.trouble = ""

    async def run(self) -> None:
        """Follow until cancelled. Raises sqlite3.DatabaseError when the state is damaged."""
        while True:
            try:
                await self.look()
                await self._say("")
            except ClearlaneError as error:
                await self._say(str(error))
            with suppress(TimeoutError):  # wait_for would swallow a cancellation now and then
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
            self._wake.clear()

    async def look(self) -> None:
        """One round: what somebody waits for, the smallest first; then what the log says itself.

        The latter when nobody waits, and when it is time: whoever offers checkpoints all the time
        does not keep us from seeing what is published meanwhile.
        """
        if self._rotten is not None:
            raise self._rotten
        standing = await self._call(self._replica.standing)
        waiting = sorted(self._wanted.items(), key=lambda item: item[1][0].checkpoint.size)
        for text, (offer, future) in waiting:
            try:
                if standing is not None:
                    raise Lie("standing", standing)
                await self._reach(offer.note, offer.checkpoint)
                _settle(future, None)
            except ClearlaneError as error:
                _settle(future, error)
            except sqlite3.DatabaseError as error:
                _settle(future, Refused(503, f"the state of this replica is damaged: {error}"))
                raise
            finally:
                del self._wanted[text]
        if standing is not None:
            raise Lie("standing", f"nothing is signed: {standing}")
        if not waiting or self._clock_s() - self._polled_s >= self._poll_s:
            self._polled_s = self._clock_s()
            await self._poll()

    def close(self) -> None:
        """Wait for what is being replayed."""
        self._thread.shutdown(cancel_futures=True)

    async def sign(self, offer: Offer) -> str:
        """The signature line for a checkpoint that the log has signed. Raises Refused."""
        try:
            return await self._sign(offer)
        except sqlite3.DatabaseError as error:  # our own next look ends it all
            self._rotten = error
            self._wake.set()
            raise Refused(503, f"the state of this replica is damaged: {error}") from error
        except (Unavailable, Damaged) as error:
            raise Refused(503, str(error)) from error

    async def _sign(self, offer: Offer) -> str:
        await self._call(lambda: self._replica.require(offer))
        if offer.checkpoint.size > self._replica.size:
            await self._want(offer)
        try:
            return await self._call(lambda: self._replica.sign(offer))
        except Lie as lie:
            await self._convict(lie, offer.note, offer.checkpoint)
            raise _answered(lie, offer) from lie

    async def _want(self, offer: Offer) -> None:
        """Have the replica follow up to this checkpoint, within the time its sender waits."""
        if len(self._wanted) >= WANTED_MAX:
            raise Refused(503, "too many checkpoints wait to be replayed")
        future = asyncio.get_running_loop().create_future()
        _, future = self._wanted.setdefault(offer.note.text, (offer, future))
        self._wake.set()
        try:
            async with asyncio.timeout(ANSWER_S):
                await asyncio.shield(future)
        except TimeoutError:
            size = self._replica.size
            reason = f"{size} of {offer.checkpoint.size} leaves are replayed so far"
            raise Refused(503, reason) from None
        except Lie as lie:
            raise _answered(lie, offer) from lie
        except ClearlaneError as error:
            raise Refused(503, str(error)) from error

    async def _poll(self) -> None:
        before = self._replica.signed
        note = await self._source.checkpoint()
        try:
            checkpoint = await self._call(lambda: self._replica.read(note))
        except (ProofRefused, Refused) as error:
            raise Damaged(f"the checkpoint served: {error}") from error
        await self._reach(note, checkpoint)
        if before is not None and checkpoint.size < before.size:
            await self._shorter(note, checkpoint.size, before.size)
        await self._call(lambda: self._replica.saw(note))

    async def _shorter(self, note: Note, size: int, before: int) -> NoReturn:
        """What we have signed was published before: a log that now says less has lost it.

        Unless somebody on the way has kept an old checkpoint: a log alone is short for long.
        """
        lost = f"leaf {size} is gone: the log has {size} leaves, after it had {before}"
        now_s = self._clock_s()
        if self._short_since_s is None:
            self._short_since_s = now_s
        if now_s - self._short_since_s < SHORT_S:
            raise Damaged(f"{lost}; that convicts it when it stays so for {SHORT_S:g} s")
        lie = Lie("shortened", lost, leaf=size)
        await self._convict(lie, note, None)
        raise lie

    async def _reach(self, note: Note, checkpoint: Checkpoint) -> None:
        """Replay up to a checkpoint, unless that was done; find out when it cannot be."""
        try:
            if checkpoint.size > self._replica.size:
                await self._advance(checkpoint)
            else:
                await self._call(lambda: self._replica.require_same(checkpoint))
        except Lie as lie:
            await self._convict(lie, note, checkpoint)
            raise
        signed = self._replica.signed
        if signed is None or checkpoint.size >= signed.size:
            self._short_since_s = None  # it is all there, whoever showed it

    async def _advance(self, checkpoint: Checkpoint) -> None:
        replica = self._replica
        served = Served(self._source, checkpoint)
        await served.open()
        leaf = await served.first_difference(replica.size, replica.hashes)
        if leaf is not None:
            what = f"leaf {leaf} was rewritten: it is not the one that was replayed here"
            raise Lie("rewritten", what, leaf=leaf)
        numbers = range(replica.size // WIDTH, -(-checkpoint.size // WIDTH))
        pages = _Ahead(served, iter(numbers))
        try:
            while batch := await pages.batch():
                await self._call(lambda taken=batch: replica.take(taken))  # type: ignore[misc]
        except PageDamaged as damaged:
            raise await served.named(damaged) from damaged
        finally:
            pages.close()
        await self._call(replica.save)
        log.info("replayed", size=replica.size, epoch=replica.epoch)

    async def _convict(self, lie: Lie, note: Note, checkpoint: Checkpoint | None) -> None:
        """Gather what can be had of the proof, and keep it: the notes alone convict a fork."""
        receipt = None
        with suppress(Unavailable, Damaged, ProofRefused):
            if checkpoint is not None:
                served = Served(self._source, checkpoint)
                await served.open()
                if lie.kind == "forked":
                    await self._locate(lie, served, checkpoint)
                if lie.leaf is not None:
                    lie.entry = lie.entry or await served.entry(lie.leaf)
                    receipt = await served.receipt(lie.leaf, note)
        await self._call(lambda: self._replica.convict(lie, note, receipt))

    async def _locate(self, lie: Lie, served: Served, checkpoint: Checkpoint) -> None:
        """Which leaf of a fork is the first that is not ours."""
        size = min(checkpoint.size, self._replica.size)
        lie.leaf = await served.first_difference(size, self._replica.hashes)
        if lie.leaf is not None:
            lie.reason = f"leaf {lie.leaf} is not the one that was replayed here: {lie.reason}"

    async def _call(self, work: Callable[[], T]) -> T:
        """All of the replica happens in one thread, one thing after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("not following", reason=printable(trouble, TROUBLE_CHARS_MAX))
        self.trouble = trouble
        if trouble != self._kept:
            with suppress(Unavailable):  # no room: it is tried again
                kept = printable(trouble, TROUBLE_CHARS_MAX)
                await self._call(lambda: self._replica.troubled(kept))
                self._kept = trouble


class _Ahead:
    """Pages in order, some of them on their way while others are replayed."""

    def __init__(self, served: Served, numbers: Iterator[int]) -> None:
        self._served = served
        self._numbers = numbers
        self._coming: list[asyncio.Task[Page]] = []

    async def batch(self) -> list[Page]:
        """The next pages; none at the end."""
        found: list[Page] = []
        while len(found) < BATCH_PAGES and sum(len(p.data) for p in found) < BATCH_BYTES:
            while len(self._coming) < PAGES_AHEAD:
                number = next(self._numbers, None)
                if number is None:
                    break
                self._coming.append(asyncio.create_task(self._served.page(number)))
            if not self._coming:
                break
            found.append(await self._coming[0])
            del self._coming[0]
        return found

    def close(self) -> None:
        """Nobody waits for the others any more."""
        for task in self._coming:
            task.cancel()


def _answered(lie: Lie, offer: Offer) -> Refused:
    same = lie.kind == "forked" and offer.old == offer.checkpoint.size
    return Refused(409 if same else 422, lie.reason, signed_size=offer.old if same else None)


def _settle(future: asyncio.Future[None], error: ClearlaneError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # its sender may have gone
