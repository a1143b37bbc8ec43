"""Epochs and the history of an account, as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from ledger import epochs, leaves
from ledger.tokens import Role
from tests.gateways import Gateway, refused, serving, token_of
from tests.makers import UB, as_owner, install
from workers.cli import main

WIDTH = 120  # characters: a terminal's

Program = Callable[..., Result]


@pytest.fixture
def program(database_url: str, redis_url: str) -> Program:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    return lambda *words: CliRunner(env=env).invoke(main, words)


@pytest.fixture
def gateway(engine: Engine, now: datetime, database_url: str, redis_url: str) -> Iterator[Gateway]:
    install(engine, now)
    with serving(database_url, redis_url) as found:
        yield found


def test_an_epoch_is_closed_by_hand_and_shown(
    program: Program, engine: Engine, now: datetime
) -> None:
    install(engine, now)
    closed = json.loads(program("epochs", "close", "--json").stdout)
    assert (closed["epoch"], closed["demurrage_ub"]) == (1, "30000000")
    assert closed == json.loads(program("epochs", "show", "1", "--json").stdout)
    second, first = json.loads(program("epochs", "list", "--json").stdout)
    assert first == closed
    assert (second["epoch"], second["size"], second["accounts"]) == (2, None, None)
    assert second["first"] == first["size"] == leaves.size(engine)[0]
    shown = program("epochs", "show", "1").stdout
    assert "demurrage (B)" in shown
    assert closed["balances_sha256"] in shown
    assert "30.000000" in program("epochs", "list").stdout
    missing = program("epochs", "show", "9")
    assert missing.exit_code != 0
    assert "there is no epoch 9" in missing.stderr


def test_a_dry_run_shows_what_would_move_and_moves_nothing(
    program: Program, engine: Engine, now: datetime
) -> None:
    install(engine, now)
    found = json.loads(program("epochs", "close", "--dry-run", "--json").stdout)
    assert (found["epoch"], found["totals"]["demurrage_ub"]) == (1, "30000000")
    assert found["moves"] == [
        {
            "account": "client:R",
            "kind": "clear",
            "amount_ub": "-30000000",
            "balance_ub": str(1970 * UB),
        }
    ]
    said = program("epochs", "close", "--dry-run")
    assert "-30.000000" in said.stdout
    assert said.stderr == "clearlane: nothing was done: epoch 1 is open\n"
    assert epochs.opened(engine) == 1
    shown = json.loads(program("ledger", "account", "client:R", "--json").stdout)
    assert shown["balance_ub"] == str(2000 * UB)


def test_finality_is_told(
    program: Program, engine: Engine, database_url: str, now: datetime
) -> None:
    before = program("epochs", "show", "1")
    assert "open, the log has not begun" in before.stdout
    assert "1970" not in before.stdout
    assert json.loads(program("epochs", "show", "1", "--json").stdout)["opened_at"] is None
    install(engine, now)
    epochs.close(engine, 1, now + timedelta(minutes=1))
    epochs.close(engine, 2, now + timedelta(minutes=2))
    as_owner(database_url, "UPDATE epoch SET final_at = '2031-02-03T04:05:06Z' WHERE id = 1")
    states = [line.split() for line in program("epochs", "list").stdout.splitlines()[1:]]
    assert [line[0] for line in states] == ["3", "2", "1"]
    assert "open" in states[0]
    assert " ".join(states[1][3:5]) == "not final"
    assert " ".join(states[2][3:5]) == "2031-02-03 04:05:06.000Z"
    shown = {number: program("epochs", "show", number).stdout for number in "123"}
    for number, words in (("1", "2031-02-03 04:05:06"), ("2", "not final"), ("3", "open")):
        (line,) = [line for line in shown[number].splitlines() if line.startswith("final ")]
        assert words in line


def test_the_list_is_narrow(program: Program, engine: Engine, now: datetime) -> None:
    install(engine, now)
    epochs.close(engine, 1, now + timedelta(minutes=1))
    lines = program("epochs", "list").stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= WIDTH


def test_an_account_is_shown_as_it_was(program: Program, engine: Engine, now: datetime) -> None:
    began = now - timedelta(minutes=2)
    install(engine, began)
    before = leaves.size(engine)[0] - 1
    epochs.close(engine, 1, began + timedelta(minutes=1))
    for point, balance_ub, epoch in [
        (str(before), 2000 * UB, 1),
        (str(before + 1), 1970 * UB, 1),
        (began.isoformat(), 2000 * UB, 1),
        (now.isoformat(), 1970 * UB, 1),
    ]:
        said = program("ledger", "account", "client:R", "--at", point, "--json")
        found = json.loads(said.stdout)
        assert (found["balance_ub"], found["epoch"]) == (str(balance_ub), epoch), point
    assert "1970.000000" in program("ledger", "account", "client:R", "--at", f"{before + 1}").stdout


@pytest.mark.parametrize("point", ["", "-1", "soon", "2026-11-21T14:00", "9" * 19, "１"])
def test_what_is_no_point_is_refused(
    program: Program, engine: Engine, now: datetime, point: str
) -> None:
    install(engine, now)
    said = program("ledger", "account", "client:R", "--at", point)
    assert said.exit_code == 2
    assert "neither; use a leaf's index, or an instant with its zone" in said.stderr


def test_what_the_log_does_not_reach_is_refused(
    program: Program, engine: Engine, now: datetime
) -> None:
    install(engine, now)
    size = leaves.size(engine)[0]
    ahead = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for point, words in {
        ahead: f"--at: {ahead} lies ahead: it is ",
        "2001-01-01T00:00Z": "--at: the log begins later than that; name a later time",
        str(size): f"--at: the log has no leaf {size}; use 0 to {size - 1}",
    }.items():
        said = program("ledger", "account", "client:R", "--at", point)
        assert (said.exit_code, said.stdout) == (2, "")
        assert words in said.stderr
    said = program("ledger", "account", "client:nobody", "--at", "0")
    assert "account: 'client:nobody' is not known" in said.stderr


def test_the_gateway_shows_epochs(gateway: Gateway, engine: Engine, now: datetime) -> None:
    for number in (1, 2, 3):
        epochs.close(engine, number, now + timedelta(minutes=number))
    assert [row["epoch"] for row in gateway.ask("GET", "/v1/epochs").body] == [4, 3, 2, 1]
    first = gateway.ask("GET", "/v1/epochs?limit=2")
    assert [row["epoch"] for row in first.body] == [4, 3]
    following = first.headers["link"].split(">")[0].lstrip("<")
    assert [row["epoch"] for row in gateway.ask("GET", following).body] == [2, 1]
    assert "link" not in gateway.ask("GET", "/v1/epochs?limit=5").headers
    one = gateway.ask("GET", "/v1/epochs/1").body
    shown = epochs.epoch(engine, 1)
    assert one["totals"]["demurrage_ub"] == "30000000"
    assert (one["size"], one["balances_sha256"]) == (shown.size, shown.balances_sha256)
    assert gateway.ask("GET", "/v1/epochs/4").body["totals"] is None
    refused(gateway.ask("GET", "/v1/epochs/5"), 404, "epoch")
    refused(gateway.ask("GET", "/v1/epochs/0"), 422, "epoch")
    refused(gateway.ask("GET", "/v1/epochs?after=0"), 422, "after")


def test_everybody_with_a_token_may_see_epochs(gateway: Gateway, database_url: str) -> None:
    for role, tenant in ((Role.CLIENT, "R"), (Role.AGENT, "A"), (Role.VIEWER, None)):
        token = token_of(database_url, role, tenant)
        assert gateway.ask("GET", "/v1/epochs", token=token).status == 200
    assert gateway.ask("GET", "/v1/epochs", token=None).status == 401
