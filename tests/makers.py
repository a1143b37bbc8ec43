"""Small installations and values for tests: what a test does not care about has a default."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Engine

from ledger import attempts, intake, registry
from ledger.accounts import mint
from ledger.db import transaction
from ledger.log import open_page
from ledger.model import (
    Agent,
    AttemptKey,
    Failure,
    Family,
    Outcome,
    Penalty,
    Settlement,
    Work,
)

UB = 1_000_000


def agent(name: str = "A", **values: Any) -> Agent:
    given = {"kind": "echo", "url": "echo:", "y_max": 1000, "k": 10**6, "slots": 10}
    return Agent(id=name, **{**given, **values})


def family(name: str = "f", **values: Any) -> Family:
    given = {"size": 100, "deadline_s": 5.0, "max_attempts": 3, "validator": {"type": "none"}}
    return Family(id=name, **{**given, **values})


def client(name: str = "R", mint_b: int = 2000, **values: Any) -> registry.Client:
    return registry.Client(id=name, mint_ub=mint_b * UB, **values)


def work(task: str = "t", **values: Any) -> Work:
    given = {
        "key": AttemptKey(task, 1),
        "payer": "client:R",
        "payer_owner": "",
        "family": "f",
        "size": 100,
        "avoid": None,
    }
    return Work(**{**given, **values})


def install(
    engine: Engine,
    now: datetime,
    *,
    clients: Sequence[registry.Client] = (),
    agents: Sequence[Agent] = (),
    families: Sequence[Family] = (),
    params: dict[str, Any] | None = None,
) -> None:
    """R, A and f unless the test says otherwise."""
    registry.apply(
        engine,
        registry.Wanted(
            params=params or {},
            clients=clients or [client()],
            agents=agents or [agent()],
            families=families or [family()],
        ),
        now,
    )


def submit(
    engine: Engine, now: datetime, count: int = 1, *, to: str = "f", by: str = "R", **values: Any
) -> list[str]:
    wanted = [
        intake.Submission(family=to, payload={"n": number}, **values) for number in range(count)
    ]
    return [accepted.task for accepted in intake.submit(engine, by, wanted, now)]


def claim(
    engine: Engine, now: datetime, limit: int = 1000, hold: int = 10_000, margin_s: float = 1.0
) -> list[AttemptKey]:
    found = attempts.claim(engine, limit=limit, hold={"default": hold}, margin_s=margin_s, now=now)
    return [item.key for item in found]


def settlement(key: AttemptKey, **values: Any) -> Settlement:
    given = {
        "payer": "client:R",
        "agent": "A",
        "size": 100,
        "cost_ub": 10 * UB,
        "output": {"ok": True},
        "latency_s": 0.1,
        "reason": "passed",
    }
    return Settlement(key=key, **{**given, **values})


def failure(key: AttemptKey, **values: Any) -> Failure:
    given = {"agent": "A", "cost_ub": 1, "outcome": Outcome.GARBAGE, "reason": "not JSON"}
    penalty = jump() if values.get("agent", "A") else None
    return Failure(key=key, **{**given, "penalty": penalty, **values})


def jump(f: tuple[float, float] = (0.0, 0.0), s: tuple[float, float] = (1.0, 1.0)) -> Penalty:
    return Penalty(f_before=f[0], f_after=f[1], s_before=s[0], s_after=s[1])


def as_owner(database_url: str, *statements: str) -> None:
    """Run statements as the owner of the tables, in one transaction."""
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement)


def plant(database_url: str, *statements: str) -> None:
    """Break the ledger on purpose: as the owner, past every trigger."""
    as_owner(database_url, "SET session_replication_role = replica", *statements)


def balance_ub(engine: Engine, account: str) -> int:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT balance_ub FROM account WHERE id = %s", (account,)
        ).scalar_one()
    return int(found)


def minted(engine: Engine, account: str, amount_ub: int, now: datetime) -> None:
    """Credit for an account that exists."""
    with transaction(engine) as connection:
        page = open_page(connection, now)
        mint(connection, page, account, amount_ub)
        page.write(connection)
