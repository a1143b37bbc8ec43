"""The log in PostgreSQL: every page where it belongs, every tile what the leaves make of it."""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger import leaves, log, params
from ledger.attempts import abort
from ledger.clearing import Clearing
from ledger.db import APP_ROLE, query, sql, transaction
from ledger.errors import NotFound
from ledger.log import open_page
from ledger.model import AttemptKey, Outcome
from ledger.proof import entries
from ledger.proof.merkle import EMPTY_EDGE, leaf_hash, verify_consistency, verify_inclusion
from ledger.proof.merkle import consistency_proof as consistency
from ledger.proof.merkle import inclusion_proof as inclusion
from ledger.proof.tiles import WIDTH, Bundle, Tile, decode_bundle, tiles_of
from ledger.settle import settle
from tests.makers import as_owner, claim, failure, install, jump, settlement, submit


def note(number: int) -> bytes:
    return entries.encode({"n": number})


def write(engine: Engine, now: datetime, counts: list[int], first: int = 0) -> None:
    """Pages of so many leaves each."""
    for count, end in zip(counts, accumulate(counts, initial=first), strict=False):
        with transaction(engine) as connection:
            page = open_page(connection, now)
            page.add(*(note(number) for number in range(end, end + count)))
            page.write(connection)


def written(engine: Engine) -> list[dict[str, Any]]:
    return [entries.decode(entry) for entry in leaves.entries(engine, 0, 10**9)]


def test_a_log_begins_with_the_parameters_and_the_accounts_there_are(
    engine: Engine, now: datetime
) -> None:
    write(engine, now, [1])
    first, *accounts, last = list(leaves.entries(engine, 0, 100))
    assert entries.decode(first)["params"]["tau_ppm"] == "10000"
    assert [entries.decode(item)["account"] for item in accounts] == [
        "system:burn",
        "system:commons",
        "system:issuance",
    ]
    assert last == note(0)


def test_a_log_begins_page_by_page_however_many_accounts_there_are(
    engine: Engine, database_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "OPENED_MAX", 2)
    many = "SELECT 'client:' || n, 0, now() FROM generate_series(1, 6) n"
    as_owner(database_url, f"INSERT INTO account (id, quota_ub, opened_at) {many}")
    write(engine, now, [1])
    every = [json.loads(leaf) for leaf in leaves.entries(engine, 0, 100)]
    kinds = [leaf.get("type", "note") for leaf in every]
    assert kinds == ["params", *["open"] * 9, "note"]
    with transaction(engine) as connection:
        pages = query(connection, "log_pages", {"first": 0, "end": 100, "limit": 100}).fetchall()
    assert [page.size for page in pages] == [3, 5, 7, 9, 11]


def test_another_version_s_defaults_do_not_change_what_the_log_says_is_in_force(
    engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(engine, now, params={"clearing": {"epoch_s": 60}})
    monkeypatch.setattr(params, "TAU_PPM_DEFAULT", 77)
    monkeypatch.setattr(params, "Clearing", partial(Clearing, rho_plus_ppm=77))
    said = [leaf["params"] for leaf in written(engine) if leaf["type"] == "params"]
    with transaction(engine) as connection:
        assert params.in_force(connection) == said[-1]
    assert (said[-1]["tau_ppm"], said[-1]["epoch_s"]) == ("10000", "60")


@pytest.mark.parametrize("seed", range(3))
def test_pages_of_any_size_make_the_tree_of_their_leaves(
    engine: Engine, now: datetime, seed: int
) -> None:
    random = Random(seed)
    counts = [random.choice((1, 2, 63, 64, 255, 256, 257, 700)) for _ in range(12)]
    write(engine, now, counts)
    size, root = leaves.size(engine)
    found = list(leaves.entries(engine, 0, size))
    assert [entry for entry in found if b'"n"' in entry] == [note(n) for n in range(sum(counts))]
    hashes = [leaf_hash(entry) for entry in found]
    assert root == EMPTY_EDGE.grown(hashes).root()
    node = leaves.nodes(engine, size)
    for index in random.sample(range(size), 20):
        verify_inclusion(hashes[index], index, size, inclusion(index, size, node), root)
        assert leaves.entry(engine, index) == found[index]
        before = EMPTY_EDGE.grown(hashes[:index]).root()
        verify_consistency(index, before, size, root, consistency(index, size, node))
    for tile in tiles_of(size):
        assert len(leaves.tile(engine, tile)) == tile.width * 32
    number, width = divmod(size, WIDTH)
    assert (
        decode_bundle(leaves.bundle(engine, Bundle(number=number, width=width))) == found[-width:]
    )


def test_the_tile_above_is_written_with_the_last_one_below(engine: Engine, now: datetime) -> None:
    write(engine, now, [30_000, 30_000, 5_000])
    with pytest.raises(NotFound):
        leaves.tile(engine, Tile(level=1, number=0))
    write(engine, now, [1_000])
    size, root = leaves.size(engine)
    hashes = [leaf_hash(entry) for entry in leaves.entries(engine, 0, size)]
    assert root == EMPTY_EDGE.grown(hashes).root()
    tile = leaves.tile(engine, Tile(level=1, number=0))
    roots = [EMPTY_EDGE.grown(hashes[n : n + WIDTH]).root() for n in range(0, WIDTH**2, WIDTH)]
    assert tile == b"".join(roots)
    assert leaves.tile(engine, Tile(level=2, number=0, width=1)) == EMPTY_EDGE.grown(roots).root()


def test_a_settlement_has_one_leaf_and_its_task_leads_there(engine: Engine, now: datetime) -> None:
    install(engine, now)
    submit(engine, now, 3)
    done = [settlement(key, output={"é": 1}) for key in claim(engine, now)]
    settle(engine, done, now=now)
    settle(engine, done, now=now)
    for item in done:
        leaf = entries.decode(leaves.entry(engine, leaves.leaf_of(engine, item.key.task)))
        assert (leaf["type"], leaf["task"]) == ("settle", item.key.task)
        assert leaf["postings"][0] == [item.payer, str(-item.cost_ub)]
    assert sum(leaf["type"] == "settle" for leaf in written(engine)) == len(done)


def test_a_failure_is_in_the_log_once_with_what_it_did(engine: Engine, now: datetime) -> None:
    install(engine, now)
    submit(engine, now)
    (key,) = claim(engine, now)
    blamed = failure(key, penalty=jump((0.0, 2.5), (1.0, 0.7)))
    lost = failure(AttemptKey(key.task, 2), agent=None, outcome=Outcome.LOST)
    abort(engine, [blamed, blamed], now)
    abort(engine, [blamed, lost], now)
    first, second = [leaf for leaf in written(engine) if leaf["type"] == "abort"]
    assert (first["agent"], first["f"], first["s"]) == ("agent:A", ["0.0", "2.5"], ["1.0", "0.7"])
    assert (second["attempt"], second["outcome"]) == (2, "lost")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_append SET root = root",
        "DELETE FROM log_append",
        "TRUNCATE log_append CASCADE",
        "UPDATE log_tile SET root = root",
        "DELETE FROM log_tile",
        "TRUNCATE log_tile",
    ],
)
def test_not_even_the_owner_rewrites_the_log(
    engine: Engine, database_url: str, now: datetime, statement: str
) -> None:
    write(engine, now, [300])
    with pytest.raises(errors.InsufficientPrivilege, match="the ledger is append-only"):
        as_owner(database_url, statement)


@pytest.mark.parametrize("table", ["log_append", "log_tile"])
@pytest.mark.parametrize("change", ["UPDATE {} SET root = root", "DELETE FROM {}", "TRUNCATE {}"])
def test_our_processes_have_no_right_to_change_the_log(
    database_url: str, table: str, change: str
) -> None:
    """Whatever becomes of the triggers."""
    with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", change.format(table))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO log_append (size, first, epoch, at, entries, hashes, edge, root)"
        " SELECT max(size) + 1, max(size), 1, now(), '', sha256(''), '', sha256('')"
        " FROM log_append",
        "INSERT INTO log_tile SELECT level + 1, number, hashes, root FROM log_tile",
    ],
)
def test_our_processes_may_add_to_the_log(
    engine: Engine, database_url: str, now: datetime, statement: str
) -> None:
    write(engine, now, [300])
    with psycopg.connect(database_url) as connection:
        connection.execute(f"SET ROLE {APP_ROLE}".encode())
        assert connection.execute(statement.encode()).rowcount == 1


@pytest.mark.parametrize("first", [-1, 1, 3])
def test_the_database_refuses_a_gap_or_a_fork(
    engine: Engine, database_url: str, now: datetime, first: int
) -> None:
    write(engine, now, [2])
    page = (
        "INSERT INTO log_append (size, first, epoch, at, entries, hashes, edge, root)"
        f" VALUES (100, {first}, 1, now(), '', repeat('x', 32 * (100 - {first}))::bytea,"
        " '', sha256('x'))"
    )
    with pytest.raises(errors.IntegrityError):
        as_owner(database_url, page)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM log_append").fetchone() == (2,)


@pytest.mark.parametrize("statement", ["log_pages", "log_hashes"])
def test_a_page_is_found_without_a_look_at_others(database_url: str, statement: str) -> None:
    """In the middle of a long log: nothing before or after it is read and thrown away."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO log_append (size, first, epoch, at, entries, hashes, edge, root)"
            " SELECT i, i - 1, 1, now(), '', decode(repeat('00', 32), 'hex'), '', sha256('')"
            " FROM generate_series(1, 20000) i"
        )
        connection.execute("ANALYZE log_append")
        values = {"first": 9_990, "end": 10_010, "limit": 100}
        explained = f"EXPLAIN (ANALYZE, TIMING OFF) {sql(statement)}"
        plan = "\n".join(row[0] for row in connection.execute(explained, values))
        assert len(connection.execute(sql(statement), values).fetchall()) == 20
    assert "Rows Removed" not in plan, plan
    assert "Seq Scan" not in plan, plan
