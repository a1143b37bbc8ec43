"""A log that is served from a list of entries, honest or not, and replicas beside it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ledger.errors import ClearlaneError, Unavailable
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_EDGE, consistency_proof, leaf_hash, parents
from ledger.proof.notes import COSIGNER, LOG, Note, Signer, VerifierKey
from ledger.proof.text import show_base64
from ledger.proof.tiles import HEIGHT, WIDTH, Bundle, Tile, encode_bundle, parse_path
from workers.replica import store
from workers.replica.evidence import Evidence
from workers.replica.follow import Follower
from workers.replica.offer import Offer
from workers.replica.replica import Replica
from workers.replica.source import Source

LOG_SIGNER = Signer(name="log.test/1", kind=LOG, seed=bytes([1] * 32))
SIGNER = Signer(name="replica1.test", kind=COSIGNER, seed=bytes([2] * 32))
NOW_S = 1_800_000_000.0


class FakeLog:
    """Serves `leaves` at `url`, with tiles and a checkpoint of all of them.

    `shown`: entries that are served in place of the leaves of their index. `size`: a checkpoint of
    fewer leaves. Everything may be changed while it is served.
    """

    def __init__(self, leaves: Sequence[bytes], signer: Signer = LOG_SIGNER) -> None:
        self.leaves = list(leaves)
        self.shown: dict[int, bytes] = {}
        self.size: int | None = None
        self.signer = signer
        self.signatures: list[str] = []
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.busy = Counter[str]()  # paths that are answered with 429 so many times first
        self._levels: list[list[bytes]] = []
        self._hashed: list[bytes] = []

    def levels(self) -> list[list[bytes]]:
        if self._hashed != self.leaves:
            self._hashed = list(self.leaves)
            self._levels = [[leaf_hash(leaf) for leaf in self._hashed]]
            while len(self._levels[-1]) > 1:
                self._levels.append(parents(self._levels[-1]))
        return self._levels

    def node(self, level: int, index: int) -> bytes:
        return self.levels()[level][index]

    def root(self, size: int) -> bytes:
        return EMPTY_EDGE.grown([leaf_hash(leaf) for leaf in self.leaves[:size]]).root()

    def note(self, size: int | None = None) -> Note:
        size = len(self.leaves) if size is None else size
        body = Checkpoint(origin=self.signer.name, size=size, root=self.root(size)).body()
        return Note(text=body, signatures=(self.signer.sign(body),))

    def body(self, old: int, size: int | None = None) -> bytes:
        """What is posted to add-checkpoint."""
        size = len(self.leaves) if size is None else size
        proof = consistency_proof(old, size, self.node)
        lines = "".join(f"{show_base64(item)}\n" for item in proof)
        return f"old {old}\n{lines}\n{self.note(size).encode()}".encode()

    def offer(self, old: int, size: int | None = None) -> Offer:
        return Offer.parse(self.body(old, size))

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path in self.broken:
            return None
        if path == "checkpoint":
            return (self.note(self.size).encode() + "".join(self.signatures)).encode()
        try:
            wanted = parse_path(path)
        except ProofRefused:
            return None
        return self._bundle(wanted) if isinstance(wanted, Bundle) else self._tile(wanted)

    def _bundle(self, wanted: Bundle) -> bytes | None:
        first, end = wanted.number * WIDTH, wanted.number * WIDTH + wanted.width
        found = [self.shown.get(n, leaf) for n, leaf in enumerate(self.leaves[first:end], first)]
        return encode_bundle(found) if len(found) == wanted.width else None

    def _tile(self, wanted: Tile) -> bytes | None:
        levels = self.levels()
        if wanted.level * HEIGHT >= len(levels):
            return None
        first = wanted.number * WIDTH
        found = levels[wanted.level * HEIGHT][first : first + wanted.width]
        return b"".join(found) if len(found) == wanted.width else None

    @contextmanager
    def served(self) -> Iterator[str]:
        """The URL of the log."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.removeprefix("/log/")
                body = fake.answer(path)
                if fake.busy[path]:
                    fake.busy[path] -= 1
                    body = None
                    self.send_response(429)
                else:
                    self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client was killed."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/log"
        finally:
            server.shutdown()
            server.server_close()


class Asked(Source):
    """A log that shows no checkpoint of its own: only what is posted is looked at."""

    async def checkpoint(self) -> Note:
        raise Unavailable("log", "it shows no checkpoint here", "post one")


class Beside:
    """A replica in this process, on a directory, following a log over HTTP."""

    def __init__(self, directory: Path, url: str, clock_s: Callable[[], float]) -> None:
        self.directory, self.url, self.clock_s = directory, url, clock_s
        self.evidence = Evidence(directory)

    def sign(self, offer: Offer) -> str:
        """Raises what a request would be refused with."""
        return self._run(lambda follower: _signed(follower, offer), Asked)

    def poll(self) -> str:
        """One look at the log; what troubles the replica then."""
        return self._run(_polled, Source)

    def head(self) -> store.Head:
        return store.look(self.directory)

    def case(self) -> dict[str, bytes]:
        """The files of the one case of evidence."""
        (case,) = self.evidence.cases()
        return {"kind": case.name.encode()} | {
            item.name: item.read_bytes() for item in case.iterdir()
        }

    @contextmanager
    def opened(self) -> Iterator[Replica]:
        """The replica, started."""
        with store.opened(self.directory, LOG_SIGNER.name) as opened:
            yield Replica(
                opened, self.evidence, log_key=LOG_SIGNER.key, signer=SIGNER, clock_s=self.clock_s
            )

    def _run(self, work: Callable[[Follower], Any], source: type[Source]) -> str:
        with self.opened() as replica:
            found: str = asyncio.run(self._with(replica, work, source))
            return found

    async def _with(
        self, replica: Replica, work: Callable[[Follower], Any], kind: type[Source]
    ) -> Any:
        async with kind(self.url, None) as source:
            follower = Follower(replica, source)
            try:
                return await work(follower)
            finally:
                follower.close()


async def _signed(follower: Follower, offer: Offer) -> str:
    following = asyncio.create_task(follower.run())
    try:
        return await follower.sign(offer)
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _polled(follower: Follower) -> str:
    try:
        await follower.look()
    except ClearlaneError as error:
        return str(error)
    return ""


class Process:
    """`clearlane replica run` as a process of its own."""

    def __init__(self, place: Path, name: str, log_url: str, log_key: VerifierKey) -> None:
        self.state = place / name
        self._place = place
        self._key = place / f"{name}.key"
        self._name = name
        self._argv = ["--log", log_url, "--log-key", log_key.encode()]
        self.vkey = VerifierKey.parse(
            command("key", "--key", str(self._key), "--name", f"{name}.test").stdout.strip()
        )
        self.child: subprocess.Popen[bytes]
        self.url = ""

    @property
    def argv(self) -> list[str]:
        return [
            *(sys.executable, "-m", "workers.cli", "replica", "run", "--listen", "127.0.0.1:0"),
            *("--key", str(self._key), "--state", str(self.state), *self._argv),
        ]

    def start(self) -> None:
        log = self._place / f"{self._name}.log"
        with log.open("wb") as out:
            self.child = subprocess.Popen(self.argv, stdout=out, stderr=out)
        while self.child.poll() is None:
            for line in log.read_text().splitlines():
                if '"replica listening"' in line:
                    self.url = json.loads(line)["url"]
                    return
            threading.Event().wait(0.02)
        raise AssertionError(log.read_text())

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    @contextmanager
    def running(self) -> Iterator[Process]:
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def post(self, body: bytes, path: str = "/add-checkpoint") -> tuple[int, str, str]:
        """Status, content type and text."""
        return asked(self.url, "POST", path, body)

    def get(self, path: str) -> tuple[int, str, str]:
        return asked(self.url, "GET", path, None)


def asked(url: str, method: str, path: str, body: bytes | None) -> tuple[int, str, str]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`clearlane replica …`, with nothing of the tests' own environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CLEARLANE_", "DATABASE_"))}
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", "replica", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
