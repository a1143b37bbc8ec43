"""The part of a replica that decides: it takes leaves, replays them, signs what it has replayed.

Synchronous, for one thread; the network is elsewhere. Rows M21, M22.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_ROOT, leaf_hash, verify_consistency
from ledger.proof.notes import Note, Signer, VerifierKey
from ledger.proof.replay import Newer, Violation
from ledger.proof.tiles import WIDTH, decode_bundle
from workers.replica.evidence import Evidence
from workers.replica.faults import Behind, Damaged, Lie, PageDamaged, Refused
from workers.replica.memory import Memory
from workers.replica.offer import Offer, require_signed
from workers.replica.store import SettledBefore, Signed, Store
from workers.replica.tree import fold

SAVE_LEAVES: Final = 131_072  # replayed before they are saved, also on the way to a checkpoint

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Up to 256 entries as the log serves them, and the leaf hashes that its checkpoint has.

    Of a full page `root`, of the last one `hashes`.
    """

    number: int
    data: bytes
    width: int
    root: bytes | None
    hashes: Sequence[bytes] | None


class Replica:
    """One log's replica: what it has replayed (`size`) and what it has signed (`signed`).

    Raises Conflict when the state is another key's.
    """

    def __init__(
        self,
        store: Store,
        evidence: Evidence,
        *,
        log_key: VerifierKey,
        signer: Signer,
        clock_s: Callable[[], float],
    ) -> None:
        store.own(signer.key)
        self._store = store
        self._evidence = evidence
        self._log_key = log_key
        self._signer = signer
        self._clock_s = clock_s
        self._memory = Memory(store)
        self.signed = store.head().signed
        evidence.tidy()

    @property
    def size(self) -> int:
        """Leaves replayed."""
        return self._memory.tree.size

    @property
    def epoch(self) -> int:
        """That of the next leaf."""
        return self._memory.state.epoch

    @property
    def signed_size(self) -> int:
        """Of the last checkpoint that was signed; 0 before the first."""
        return self.signed.size if self.signed else 0

    def standing(self) -> str | None:
        """Why nothing is signed any more; None when nothing stands against the log."""
        return self._evidence.standing()

    def keys(self) -> list[VerifierKey]:
        """Whose signature is the log's: the key that was given, until the log has changed it."""
        return self._memory.believed(self._log_key, self.signed_size)

    def read(self, note: Note) -> Checkpoint:
        """The checkpoint of a note that the log has signed. Raises ProofRefused, Refused."""
        checkpoint = Checkpoint.parse(note.text)
        require_signed(note, checkpoint, self.keys())
        return checkpoint

    def hashes(self, level: int, number: int) -> list[bytes]:
        """Of a tile, as we have computed them."""
        return self._memory.tree.hashes(level, number)

    def require_same(self, checkpoint: Checkpoint) -> None:
        """Raises Lie unless a checkpoint of no more leaves than we have replayed is of the log
        we have replayed."""
        if self._memory.tree.root(checkpoint.size) != checkpoint.root:
            what = f"two roots for {checkpoint.size} leaves: the log was forked or rewritten"
            raise Lie("forked", what)

    def take(self, pages: Sequence[Page]) -> None:
        """Check and replay the next pages. Raises Behind, Damaged, Lie; then nothing since the last
        save counts any more."""
        try:
            for page in pages:
                self._take(page)
        except (Behind, Damaged, Lie):
            self._forget()
            raise
        if self._memory.unsaved >= SAVE_LEAVES:
            self.save(within=True)

    def save(self, *, within: bool = False) -> None:
        """Make durable what was replayed. Raises Lie where a task was settled before.

        `within`: on the way to a checkpoint, where an epoch may be half closed; that waits.
        """
        self._save(None, within=within)

    def sign(self, offer: Offer) -> str:
        """The signature line for a checkpoint that was replayed; durable before it is returned.

        Raises Refused; Lie when it is of another log than the one we have replayed.
        """
        checkpoint = offer.checkpoint
        self.require(offer)
        if checkpoint.size > self.size:
            raise Refused(503, f"{self.size} of {checkpoint.size} leaves are replayed so far")
        self.require_same(checkpoint)
        self._require_start(offer)
        root = self.signed.root if self.signed else EMPTY_ROOT
        try:
            verify_consistency(
                self.signed_size, root, checkpoint.size, checkpoint.root, offer.proof
            )
        except ProofRefused as error:
            raise Refused(422, f"the proof: {error}") from error
        return self._sign(offer)

    def require(self, offer: Offer) -> None:
        """Raises Refused unless it is worth replaying what is offered: this log has signed it, and
        nothing stands against that. Raises Unavailable when nobody can tell."""
        require_signed(offer.note, offer.checkpoint, self.keys())
        self._evidence.cases()
        standing = self.standing()
        if standing is not None:
            raise Refused(422, f"nothing is signed: {standing}")

    def convict(self, lie: Lie, offered: Note, receipt: str | None) -> None:
        """Keep what proves that the log lies, and sign nothing from here on.

        Raises Rotten when what it contradicts is damaged, Unavailable.
        """
        if self._evidence.has(lie.kind):  # by a request and by our own look at the same time
            return
        Memory(self._store).require_whole()  # or it may be we who are wrong
        files = {"offered.note": offered.encode().encode()}
        if self.signed is not None:
            files["signed.note"] = (self.signed.note + self.signed.line).encode()
        if lie.entry is not None:
            files[f"leaf-{lie.leaf}.json"] = lie.entry
        if receipt is not None:
            files[f"leaf-{lie.leaf}.receipt"] = receipt.encode()
        case = self._evidence.keep(lie.kind, lie.reason, files)
        log.error("the log lies", kind=lie.kind, reason=lie.reason, evidence=str(case))

    def troubled(self, trouble: str) -> None:
        """Keep what keeps us from following, for who looks at the directory."""
        self._store.troubled(trouble)

    def saw(self, note: Note) -> None:
        """The log serves this checkpoint, and it is of the log we have replayed."""
        self._store.saw(note.encode())

    def _require_start(self, offer: Offer) -> None:
        if offer.old != self.signed_size:
            reason = f"the last checkpoint signed has {self.signed_size} leaves, not {offer.old}"
            raise Refused(409, reason, signed_size=self.signed_size)

    def _sign(self, offer: Offer) -> str:
        # Never before the last one: who compares two of ours must not see time run backwards.
        time_s = max(int(self._clock_s()), self.signed.time_s if self.signed else 1)
        checkpoint = offer.checkpoint
        line = self._signer.sign(offer.note.text, time_s=time_s).encode()
        signed = Signed(
            size=checkpoint.size,
            root=checkpoint.root,
            note=offer.note.encode(),
            line=line,
            time_s=time_s,
        )
        self._save(signed, within=self.size > checkpoint.size)
        self.signed = signed
        log.info("signed", size=signed.size, epoch=self.epoch)
        return line

    def _save(self, signed: Signed | None, *, within: bool) -> None:
        memory = self._memory
        try:
            progress = memory.progress() if memory.unsaved else None
        except Violation as error:
            if not within:
                self._forget()
                last = error.index - 1  # a checkpoint may not end here: the leaf after it is none
                reason = f"leaf {last}: it is the last, and {error.reason}"
                raise Lie("broken", reason, leaf=last) from error
            if signed is not None:
                raise Refused(503, "a later epoch is being replayed, and half closed") from error
            return
        try:
            self._store.save(progress, signed)
        except SettledBefore as error:
            if signed is not None and within:  # who replays it will find it too, and has it signed
                raise Refused(503, "a later epoch is being replayed") from error
            found = memory.twice(error)
            self._forget()
            raise Lie("broken", str(found), leaf=found.index) from error
        if progress is not None:
            memory.saved()

    def _take(self, page: Page) -> None:
        try:
            entries = decode_bundle(page.data)
        except ProofRefused as error:
            raise Damaged(str(error)) from error
        hashes = [leaf_hash(entry) for entry in entries]
        if len(entries) != page.width:
            raise Damaged(f"page {page.number} has {len(entries)} entries, not {page.width}")
        if not (fold(hashes) == page.root if page.root is not None else hashes == page.hashes):
            raise PageDamaged(page.number, hashes)
        first = self.size - page.number * WIDTH
        for leaf, entry in enumerate(entries[first:], self.size):
            try:
                self._memory.apply(leaf, entry)
            except Newer as error:
                raise Behind(str(error)) from error
            except Violation as error:
                raise Lie("broken", str(error), leaf=leaf, entry=entry) from error
        self._memory.tree.put(page.number, hashes, page.root)

    def _forget(self) -> None:
        """Go back to what was saved."""
        self._memory = Memory(self._store)
