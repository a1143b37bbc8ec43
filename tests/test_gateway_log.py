"""The log over HTTP: checkpoints for everybody, tiles for readers, receipts for owners."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger import checkpoints, db, leaves
from ledger.db import transaction
from ledger.log import open_page
from ledger.proof import entries, receipts
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.entries import ENTRY_MAX
from ledger.proof.merkle import inclusion_proof, leaf_hash, verify_inclusion
from ledger.proof.notes import LOG, Note, Signer
from ledger.proof.tiles import (
    WIDTH,
    Bundle,
    Hashes,
    bundle_path,
    decode_bundle,
    tile_path,
    tiles_of,
)
from ledger.settle import settle
from ledger.tokens import Role
from tests.conftest import Servers
from tests.gateways import Gateway, own_database, refused, serving, task, token_of, until
from tests.makers import claim, settlement
from workers.gateway.bulk import TOKEN_MAX_BYTES
from workers.settings import sqlalchemy_url

SIGNER = Signer(name="log.example/1", kind=LOG, seed=bytes([1] * 32))


@dataclass(frozen=True, kw_only=True)
class House:
    gateway: Gateway
    engine: Engine
    database_url: str

    def settled(self) -> str:
        """A task of R that was paid."""
        answer = self.gateway.submit(task())
        assert answer.status == 201, answer
        made: str = answer.body["task"]
        now = datetime.now(UTC)
        done = [settlement(key) for key in claim(self.engine, now) if key.task == made]
        settle(self.engine, done, now=now)
        return made

    def sign(self) -> None:
        checkpoints.sign(self.engine, lambda: SIGNER, datetime.now(UTC))

    def grow(self, count: int) -> None:
        """Leaves that nothing reads."""
        with transaction(self.engine) as connection:
            page = open_page(connection, datetime.now(UTC))
            page.add(*(entries.encode({"n": number}) for number in range(count)))
            page.write(connection)

    def bytes_of(self, path: str) -> bytes:
        answer = self.gateway.ask("GET", f"/log/{path}")
        assert answer.status == 200, path
        assert isinstance(answer.body, bytes)
        return answer.body


@contextmanager
def served(servers: Servers) -> Iterator[House]:
    with own_database(servers) as url, serving(url, servers.redis_url) as gateway:
        engine = db.connect(sqlalchemy_url(url))
        yield House(gateway=gateway, engine=engine, database_url=url)
        engine.dispose()


@pytest.fixture
def house(servers: Servers) -> Iterator[House]:
    with served(servers) as found:
        yield found


@pytest.fixture(scope="module")
def shared(servers: Servers) -> Iterator[House]:
    """One for the tests that do not mind what others have written."""
    with served(servers) as found:
        yield found


def test_a_reader_rebuilds_the_log_from_what_is_served(house: House) -> None:
    refused(house.gateway.ask("GET", "/log/checkpoint", token=None), 404, "checkpoint")
    house.grow(66_000)
    house.sign()
    answer = house.gateway.ask("GET", "/log/checkpoint", token=None)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    note = Note.parse(answer.body)
    note.verified_by([SIGNER.key])
    checkpoint = Checkpoint.parse(note.text)
    tiles = list(tiles_of(checkpoint.size))
    assert {tile.level for tile in tiles} == {0, 1, 2}
    found = {tile: house.bytes_of(tile_path(tile)) for tile in tiles}
    node = Hashes(found.__getitem__, checkpoint.size)
    index = 65_999
    (bundle,) = (
        Bundle(number=tile.number, width=tile.width)
        for tile in tiles
        if tile.level == 0 and tile.number == index // WIDTH
    )
    entry = decode_bundle(house.bytes_of(bundle_path(bundle)))[index % WIDTH]
    assert entry == leaves.entry(house.engine, index)
    proof = inclusion_proof(index, checkpoint.size, node)
    verify_inclusion(leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root)


def test_a_complete_tile_is_for_ever_and_a_partial_one_is_asked_for_again(house: House) -> None:
    house.grow(300)
    size, _ = leaves.size(house.engine)
    for path in ("0/000", "entries/000"):
        whole = house.gateway.ask("GET", f"/log/tile/{path}")
        part = house.gateway.ask("GET", f"/log/tile/{path}.p/3")
        assert "immutable" in whole.headers["cache-control"]
        assert "private" in whole.headers["cache-control"]
        assert part.headers["cache-control"] == "private, no-cache"
        assert whole.body.startswith(part.body)
        for answer in (whole, part):
            assert answer.headers["etag"] == f'"{sha256(answer.body).hexdigest()}"'
            assert answer.headers["content-type"] == "application/octet-stream"
    for given in (whole.headers["etag"], f'"x", {whole.headers["etag"]}', "*"):
        again = house.gateway.ask("GET", "/log/tile/entries/000", headers={"If-None-Match": given})
        assert (again.status, again.body) == (304, None)
    other = house.gateway.ask("GET", "/log/tile/entries/000", headers={"If-None-Match": '"x"'})
    assert other.status == 200
    head = house.gateway.ask("HEAD", "/log/tile/0/000")
    assert head.headers["content-length"] == str(WIDTH * 32)
    refused(house.gateway.ask("GET", f"/log/tile/0/001.p/{size - WIDTH + 1}"), 404, "path")


@pytest.mark.parametrize(
    "path",
    [
        "0/0", "0/0000", "0/000.p/0", "0/000.p/256", "0/000.p/", "0/000.p/01", "00/000", "64/000",
        "0/x000/000", "0/001/000", "entries/0", "0/000/", "0//000", "0/../0/000", "0/%30%30%30",
        "%30/000", "0/000%2ep/1", "-1/000", "0/-01", "", "0/xx01/000", "x/000", "0/000.p/1/1",
        "0/999/999/999", "63/000", "1/000", "0/x999/x999/x999/x999/x999/x999/999",
    ],
)  # fmt: skip
def test_a_tile_has_one_path(shared: House, path: str) -> None:
    assert shared.gateway.ask("GET", "/log/tile/0/000.p/1").status == 200
    answer = shared.gateway.ask("GET", f"/log/tile/{path}")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_receipt_proves_the_settlement(shared: House) -> None:
    paid = shared.settled()
    shared.sign()
    answer = shared.gateway.ask("GET", f"/v1/tasks/{paid}/receipt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    entry = leaves.entry(shared.engine, leaves.leaf_of(shared.engine, paid))
    assert entries.decode(entry)["task"] == paid
    receipts.verify(answer.body, entry, SIGNER.key, None)
    upper = shared.gateway.ask("GET", f"/v1/tasks/{paid.upper()}/receipt")
    assert upper.status in {200, 422}


def entry_of(house: House, task_id: str, token: str) -> tuple[int, str | None, bytes]:
    """The answer of the gateway to a program that reads its bytes; Answer has read the JSON."""
    connection = HTTPConnection(house.gateway.host, house.gateway.port, timeout=60)
    with closing(connection):
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("GET", f"/v1/tasks/{task_id}/entry", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read()


def test_an_entry_comes_as_its_receipt_wants_it(shared: House) -> None:
    paid = shared.settled()
    client = token_of(shared.database_url, Role.CLIENT, "R")
    index = leaves.leaf_of(shared.engine, paid)
    expected = (200, "application/json", leaves.entry(shared.engine, index))
    assert entry_of(shared, paid, client) == expected  # before any checkpoint holds it
    shared.sign()
    text = shared.gateway.ask("GET", f"/v1/tasks/{paid}/receipt", token=client).body
    found = receipts.verify(text, entry_of(shared, paid, client)[2], SIGNER.key, None)
    assert found.index == index
    assert shared.gateway.ask("GET", f"/v1/tasks/{paid}", token=client).body["leaf"] == index
    (line,) = (
        row for row in shared.gateway.ask("GET", "/v1/accounts/client:R").body["postings"]
        if row["task"] == paid
    )  # fmt: skip
    assert line["leaf"] == index


@pytest.mark.parametrize("what", ["receipt", "entry"])
def test_what_was_not_settled_is_not_in_the_log(shared: House, what: str) -> None:
    ask = shared.gateway.ask
    made = shared.gateway.submit(task()).body["task"]
    assert ask("GET", f"/v1/tasks/{made}").body["leaf"] is None
    assert "it is INIT" in refused(ask("GET", f"/v1/tasks/{made}/{what}"), 409, "task")
    shared.gateway.ask("POST", f"/v1/tasks/{made}/cancel")
    assert "never" in refused(ask("GET", f"/v1/tasks/{made}/{what}"), 409, "task")
    refused(ask("GET", f"/v1/tasks/{uuid.uuid4()}/{what}"), 404, "task")
    refused(ask("GET", f"/v1/tasks/x/{what}"), 422, "task")


def test_a_receipt_says_when_there_will_be_one(shared: House) -> None:
    ask = shared.gateway.ask
    paid = shared.settled()
    early = ask("GET", f"/v1/tasks/{paid}/receipt")
    assert "ask again in 2 s" in refused(early, 409, "task")
    assert early.headers["retry-after"] == "2"
    shared.sign()
    assert ask("GET", f"/v1/tasks/{paid}/receipt").status == 200


@pytest.mark.parametrize("what", ["receipt", "entry"])
def test_what_proves_a_payment_is_its_clients_business(shared: House, what: str) -> None:
    paid = shared.settled()
    shared.sign()
    url, path = shared.database_url, f"/v1/tasks/{paid}/{what}"
    statuses = {
        role: shared.gateway.ask("GET", path, token=token_of(url, role, tenant)).status
        for role, tenant in {
            Role.CLIENT: "R", Role.AGENT: "A", Role.VIEWER: None, Role.OPERATOR: None,
            Role.APPROVER: None,
        }.items()
    }  # fmt: skip
    assert statuses == {
        Role.CLIENT: 200, Role.AGENT: 404, Role.VIEWER: 200, Role.OPERATOR: 200,
        Role.APPROVER: 200,
    }  # fmt: skip
    foreign = token_of(url, Role.CLIENT, "S")
    refused(shared.gateway.ask("GET", path, token=foreign), 404, "task")


def test_a_receipt_from_the_gateway_verifies_anywhere(shared: House, tmp_path: Path) -> None:
    """With a command that has neither servers nor settings, in an empty directory."""
    paid = shared.settled()
    shared.sign()
    (tmp_path / "r").write_text(shared.gateway.ask("GET", f"/v1/tasks/{paid}/receipt").body)
    index = leaves.leaf_of(shared.engine, paid)
    (tmp_path / "e").write_bytes(entry_of(shared, paid, shared.gateway.token)[2])
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "verify", "r", "--entry", "e", "--key",
         SIGNER.key.encode()],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"leaf {index}" in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["e", "r"]


def test_who_asks_for_bundles_and_does_not_read_them_fills_no_memory(house: House) -> None:
    with transaction(house.engine) as connection:
        page = open_page(connection, datetime.now(UTC))
        first = page.add(*[b"x" * ENTRY_MAX] * 2 * WIDTH)
        page.write(connection)
    number = -(-first // WIDTH)
    path = f"/log/tile/entries/{number:03d}"
    fit = TOKEN_MAX_BYTES // (WIDTH * (2 + ENTRY_MAX))
    token = f"Authorization: Bearer {house.gateway.token}"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n"
    with ExitStack() as stack:
        lines = [stack.enter_context(_narrow(house.gateway)) for _ in range(fit + 3)]
        for line in lines:
            line.sendall(request.encode())
        said = Counter(line.recv(12).decode() for line in lines)
        assert said == {"HTTP/1.1 200": fit, "HTTP/1.1 429": 3}
        answer = house.gateway.ask("GET", path)
        refused(answer, 429, "path")
        assert answer.headers["retry-after"] == "1"
        other = token_of(house.database_url, Role.REPLICA, None)
        assert house.gateway.ask("GET", path, token=other).status == 200
    until(lambda: house.gateway.ask("GET", path).status == 200)


def _narrow(gateway: Gateway) -> socket.socket:
    """A connection that takes little before it is read."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(60)
    line.connect((gateway.host, gateway.port))
    return line
