"""Tokens: made once, kept as a hash, revoked for good; and the commands for them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger import tokens
from ledger.db import APP_ROLE
from ledger.errors import BadInput, NotFound
from ledger.tokens import Created, Role
from tests.makers import as_owner, install
from workers.gateway.local import FILE, keep_token


@pytest.fixture
def made(engine: Engine, now: datetime) -> Created:
    install(engine, now)
    return tokens.create(engine, role=Role.CLIENT, principal="app", tenant="R", now=now)


def test_a_token_is_found_by_its_id_and_opened_by_its_secret(
    made: Created, engine: Engine, now: datetime
) -> None:
    parts = tokens.split(made.text)
    assert parts is not None
    token = tokens.find(engine, parts[0])
    assert token == made.token
    assert (token.role, token.tenant, token.state(now)) == (Role.CLIENT, "R", "valid")
    assert token.opens_with(parts[1])
    assert not token.opens_with("0" * 64)
    assert tokens.find(engine, "0" * 12) is None
    other = tokens.create(engine, role=Role.AGENT, principal="a@b", tenant="A", now=now)
    assert other.token.id != token.id
    assert {item.id for item in tokens.all_tokens(engine)} == {token.id, other.token.id}


def test_the_secret_is_kept_nowhere(made: Created, database_url: str) -> None:
    secret = made.text.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) * 8 == 256
    assert secret not in repr(made)
    with psycopg.connect(database_url) as connection:
        (row,) = connection.execute("SELECT * FROM token").fetchall()
    assert secret not in repr(row)
    assert hashlib.sha256(secret.encode()).digest() in [bytes(x) for x in row if type(x) is bytes]


def test_a_token_ends(made: Created, engine: Engine, now: datetime) -> None:
    later = now + timedelta(seconds=5)
    brief = tokens.create(
        engine, role=Role.VIEWER, principal="guest", expires_at=later, now=now
    ).token
    assert [brief.state(at) for at in (now, later)] == ["valid", "expired"]
    revoked = tokens.revoke(engine, made.token.id, now)
    assert revoked.state(now) == "revoked"
    assert tokens.revoke(engine, made.token.id, later).revoked_at == revoked.revoked_at
    with pytest.raises(NotFound, match="not known"):
        tokens.revoke(engine, "0" * 12, now)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"role": Role.CLIENT, "tenant": "nobody"}, "client"),
        ({"role": Role.AGENT, "tenant": "R"}, "agent"),
        ({"role": Role.CLIENT}, "client"),
        ({"role": Role.VIEWER, "tenant": "R"}, "role"),
        ({"role": Role.VIEWER, "principal": "no\nbody"}, "principal"),
        ({"role": Role.VIEWER, "principal": ""}, "principal"),
        ({"role": Role.VIEWER, "expires_at": "now"}, "expires_at"),
    ],
)
def test_what_no_token_can_be_is_refused(
    made: Created, engine: Engine, now: datetime, given: dict[str, Any], field: str
) -> None:
    values = {"principal": "x", **given}
    if "expires_at" in values:
        values["expires_at"] = now
    with pytest.raises(BadInput) as refused:
        tokens.create(engine, now=now, **values)
    assert refused.value.field == field
    assert len(tokens.all_tokens(engine)) == 1


def test_the_database_keeps_tokens_as_they_were_made(
    made: Created, engine: Engine, database_url: str, now: datetime
) -> None:
    for statement in (
        "UPDATE token SET role = 'operator', client = NULL",
        "UPDATE token SET secret_sha256 = sha256('x')",
        "UPDATE token SET expires_at = NULL",
        "DELETE FROM token",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            as_owner(database_url, f"SET ROLE {APP_ROLE}", statement)
    with pytest.raises(errors.CheckViolation):
        as_owner(database_url, "UPDATE token SET role = 'operator'")
    tokens.revoke(engine, made.token.id, now)
    with pytest.raises(errors.InsufficientPrivilege, match="refused"):
        as_owner(database_url, "UPDATE token SET revoked_at = NULL")


def test_text_that_is_no_token_has_no_parts() -> None:
    good = f"clearlane_{'a' * 12}_{'b' * 64}"
    assert tokens.split(good) == ("a" * 12, "b" * 64)
    for bad in ("", good[:-1], f"{good}0", good.upper(), f"{good}\n", f" {good}", good[10:]):
        assert tokens.split(bad) is None


# The file of a stack ------------------------------------------------------------------------------


def test_a_stack_keeps_one_operator_token(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    path = keep_token(database_url, tmp_path, now)
    assert path == tmp_path / FILE
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (token,) = tokens.all_tokens(engine)
    assert (token.role, token.expires_at) == (Role.OPERATOR, None)
    assert tokens.split(text.strip()) is not None
    assert text.rpartition("_")[2].strip() not in repr(token)
    path.chmod(0o644)
    assert keep_token(database_url, tmp_path, now).read_text() == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(tokens.all_tokens(engine)) == 1


@pytest.mark.parametrize("damage", ["revoked", "garbled", "foreign", "wrong secret"])
def test_a_token_that_no_longer_opens_is_replaced(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path, damage: str
) -> None:
    path = keep_token(database_url, tmp_path, now)
    before = path.read_text()
    (token,) = tokens.all_tokens(engine)
    if damage == "revoked":
        tokens.revoke(engine, token.id, now)
    elif damage == "garbled":
        path.write_bytes(b"\xff\xfe")
    elif damage == "foreign":
        path.write_text(f"clearlane_{'0' * 12}_{'1' * 64}\n")
    else:
        path.write_text(f"clearlane_{token.id}_{'1' * 64}\n")
    after = keep_token(database_url, tmp_path, now).read_text()
    assert after != before
    parts = tokens.split(after.strip())
    assert parts is not None
    found = tokens.find(engine, parts[0])
    assert found is not None
    assert found.opens_with(parts[1])


def test_a_lost_file_ends_the_token_that_was_in_it(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    homes = [tmp_path / name for name in ("one", "other")]
    for home in homes:
        home.mkdir()
    one, other = (keep_token(database_url, home, now) for home in homes)
    before, neighbour = (path.read_text().split("_")[1] for path in (one, other))
    one.unlink()
    after = keep_token(database_url, homes[0], now).read_text().split("_")[1]
    states = {token.id: token.state(now) for token in tokens.all_tokens(engine)}
    assert states == {before: "revoked", neighbour: "valid", after: "valid"}


# Commands -----------------------------------------------------------------------------------------


def clearlane(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", "tokens", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_tokens_by_command(
    engine: Engine, now: datetime, database_url: str, redis_url: str
) -> None:
    install(engine, now)
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    told = clearlane("create", "--role", "viewer", "--principal", "v", **env)
    assert told.returncode == 0, told.stderr
    assert tokens.split(told.stdout.strip()) is not None
    told = clearlane(
        *("create", "--role", "client", "--client", "R", "--principal", "app"),
        *("--expires-s", "60", "--json"),
        **env,
    )
    made = json.loads(told.stdout)
    assert tokens.split(made["token"]) is not None
    assert (made["role"], made["tenant"], made["state"]) == ("client", "R", "valid")
    ends, starts = (datetime.fromisoformat(made[name]) for name in ("expires_at", "created_at"))
    assert (ends - starts).total_seconds() == 60
    listed = clearlane("list", "--json", **env)
    rows = json.loads(listed.stdout)
    assert [row["principal"] for row in rows] == ["app", "v"]
    assert made["token"].rpartition("_")[2] not in listed.stdout
    told = clearlane("revoke", made["id"], "--json", **env)
    assert json.loads(told.stdout)["state"] == "revoked"
    assert "revoked" in clearlane("list", **env).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--role", "client", "--principal", "x"),
        ("create", "--role", "client", "--client", "nobody", "--principal", "x"),
        ("create", "--role", "viewer", "--client", "R", "--principal", "x"),
        ("create", "--role", "king", "--principal", "x"),
        ("create", "--role", "viewer", "--principal", "x", "--expires-s", "0"),
        ("revoke", "nothing"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(
    database_url: str, redis_url: str, arguments: tuple[str, ...]
) -> None:
    told = clearlane(*arguments, DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert told.returncode == 2
    assert told.stdout == ""
    assert "Traceback" not in told.stderr
