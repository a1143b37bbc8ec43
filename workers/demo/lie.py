"""A copy of a log in which one payment is told otherwise, signed with the log's own key."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from ledger.proof import entries
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import leaf_hash
from ledger.proof.notes import Note, Signer
from ledger.proof.tiles import WIDTH, Bundle, encode_bundle, parse_path
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


class LyingLog:
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

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = log.answer(self.path.removeprefix("/"))
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing on the demo's terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self._server.server_port}"

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

    def __enter__(self) -> LyingLog:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
