"""Epochs and the history of an account, as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from ledger import epochs, leaves
from ledger.tokens import Role
from tests.gateways import Gateway, refused, serving, token_of
from tests.makers import UB, install
from workers.cli import main

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


def test_an_account_is_shown_as_it_was(program: Program, engine: Engine, now: datetime) -> None:
    install(engine, now)
    before = leaves.size(engine)[0] - 1
    epochs.close(engine, 1, now + timedelta(minutes=1))
    for point, balance_ub, epoch in [
        (str(before), 2000 * UB, 1),
        (str(before + 1), 1970 * UB, 1),
        (now.isoformat(), 2000 * UB, 1),
        ((now + timedelta(minutes=2)).isoformat(), 1970 * UB, 1),
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
