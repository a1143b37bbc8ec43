"""A copy of a log in which one payment is told otherwise, signed with the log's own key."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ledger.proof import entries
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import leaf_hash
from ledger.proof.notes import Note, Signer
from ledger.proof.tiles import WIDTH, Bundle, encode_bundle, parse_path
from workers.demo.port import Handler, Port
from workers.replica.tree import Tree, fold


def doctored(leaves: Sequence[bytes]) -> tuple[list[bytes], int]:
    """The leaves, the last settlement's burn given to its agent; and which leaf that is."""
    copy = list(leaves)
    for index in reversed(range(len(copy))):
        entry = json.loads(copy[index])
        if entry["type"] == "settle" and len(entry["postings"]) == 3:  # noqa: PLR2004
            payer, (agent, share), (_, burn) = entry["postings"]
            entry["postings"] = [payer, [agent, str(int(share) + int(burn))]]
            copy[index] = entries.encode(entry)
            return copy, index
    raise ValueError("no settlement burns anything")


class LyingLog(Port):
    """Serves leaves as a log of its own, everything about it in order but what they say."""

    def __init__(self, leaves: Sequence[bytes], signer: Signer) -> None:
        self._leaves = leaves
        self._tree = Tree(0, lambda _level, _number: b"")
        for page, first in enumerate(range(0, len(leaves), WIDTH)):
            hashes = [leaf_hash(leaf) for leaf in leaves[first : first + WIDTH]]
            self._tree.put(page, hashes, fold(hashes) if len(hashes) == WIDTH else None)
        size = len(leaves)
        body = Checkpoint(origin=signer.name, size=size, root=self._tree.root(size)).body()
        self._note = Note(text=body, signatures=(signer.sign(body),)).encode().encode()
        log = self

        class Asked(Handler):
            def do_GET(self) -> None:
                data = log.answer(self.path.removeprefix("/"))
                self.write(404 if data is None else 200, data or b"", {})

        super().__init__(Asked)

    def answer(self, path: str) -> bytes | None:
        """What is at a path of the log."""
        if path == "checkpoint":
            return self._note
        try:
            wanted = parse_path(path)
        except ProofRefused:
            return None
        if isinstance(wanted, Bundle):
            first = wanted.number * WIDTH
            return encode_bundle(self._leaves[first : first + wanted.width])
        return self._tree.tile(wanted)
