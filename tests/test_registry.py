from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import Engine

from ledger import accounts, check, registry
from ledger.errors import BadInput, Conflict, NotFound
from ledger.model import Routing
from ledger.money import AMOUNT_MAX_UB
from ledger.registry import Wanted, apply, load_registry, suspend
from tests.makers import UB, agent, balance_ub, client, family, minted

FULL = agent(
    "B-1.x",
    refill_per_s=5,
    cooldown_s=1.5,
    quota_ub=3,
    lane="slow",
    owner="team",
    region="eu",
    tools=frozenset({"python", "search"}),
    domains=frozenset({"public", "medical"}),
    headers={"x-api-version": "1"},
    kind="openai",
    model="m",
)
NEEDY = family("g", tools=frozenset({"python"}), domain="medical", region="eu")
WANTED = Wanted(
    params={"tau_ppm": 20_000, "routing": {"alpha": 0.5, "seed": 7}},
    clients=[client("R", owner="team", quota_ub=4)],
    agents=[agent("A"), FULL],
    families=[family(), NEEDY],
)


def test_what_is_applied_is_what_is_loaded(engine: Engine, now: datetime) -> None:
    apply(engine, WANTED, now)
    found = load_registry(engine)
    assert found.agents == {"A": agent("A"), "B-1.x": FULL}
    assert found.families == {"f": family(), "g": NEEDY}
    assert found.routing == Routing(alpha=0.5, seed=7)
    assert found.tau_ppm == 20_000


def test_applying_again_changes_nothing(engine: Engine, now: datetime) -> None:
    first = apply(engine, WANTED, now)
    assert "client R added" in first
    assert "agent A added" in first
    assert "family f added" in first
    assert any(line.startswith("parameter tau_ppm") for line in first)
    assert "parameter routing is now alpha 0.5, seed 7" in first
    assert apply(engine, WANTED, now) == []
    assert balance_ub(engine, "client:R") == 2000 * UB
    assert check.violations(engine) == []


def test_changes_are_named_and_credit_is_minted_once(engine: Engine, now: datetime) -> None:
    apply(engine, WANTED, now)
    changed = Wanted(
        params={"tau_ppm": 20_000},
        clients=[client("R", mint_b=9999, owner="team", quota_ub=5)],
        agents=[agent("A", slots=3)],
        families=[family(size=5)],
    )
    assert apply(engine, changed, now) == [
        "client R changed",
        "agent A changed",
        "family f changed",
    ]
    assert balance_ub(engine, "client:R") == 2000 * UB
    assert accounts.account(engine, "client:R")["quota_ub"] == 5


def test_the_registry_is_read_again_only_when_it_changed(engine: Engine, now: datetime) -> None:
    apply(engine, WANTED, now)
    known = load_registry(engine)
    assert load_registry(engine, known) is known
    suspend(engine, "A", suspended=True)
    found = load_registry(engine, known)
    assert found.agents["A"].suspended
    apply(engine, WANTED, now)
    assert load_registry(engine).agents["A"].suspended, "applying a file does not resume"
    suspend(engine, "A", suspended=False)
    assert load_registry(engine).agents == known.agents


def test_an_unknown_agent_cannot_be_suspended(engine: Engine) -> None:
    with pytest.raises(NotFound, match="agent: 'nobody' is not known"):
        suspend(engine, "nobody", suspended=True)


def test_accounts_show_their_newest_movements(engine: Engine, now: datetime) -> None:
    apply(engine, WANTED, now)
    found = accounts.account(engine, "client:R")
    assert [(item["kind"], item["amount_ub"]) for item in found["postings"]] == [
        ("mint", 2000 * UB)
    ]
    names = [row["account"] for row in accounts.balances(engine)]
    assert names == sorted(names)
    assert {"client:R", "agent:A", "system:burn"} <= set(names)
    with pytest.raises(NotFound):
        accounts.account(engine, "client:nobody")


def test_a_quota_below_what_is_owed_is_refused_in_words(
    engine: Engine, database_url: str, now: datetime
) -> None:
    apply(
        engine,
        Wanted(params={}, clients=[client("D", 0, quota_ub=10)], agents=[], families=[]),
        now,
    )
    minted(engine, "client:D", -5, now)  # owes 5
    cut = Wanted(params={}, clients=[client("D", 0, quota_ub=1)], agents=[], families=[])
    with pytest.raises(Conflict, match=r"quota: client:D owes more than 0\.000001 B"):
        apply(engine, cut, now)
    assert accounts.account(engine, "client:D")["quota_ub"] == 10


def test_more_credit_than_can_be_counted_is_refused_in_words(engine: Engine, now: datetime) -> None:
    many = 2**63 // AMOUNT_MAX_UB + 1
    clients = [registry.Client(id=f"c{n}", mint_ub=AMOUNT_MAX_UB) for n in range(many)]
    with pytest.raises(BadInput, match=r"^mint: .* than system:issuance can count"):
        apply(engine, Wanted(params={}, clients=clients, agents=[], families=[]), now)
    assert not any(row["account"].startswith("client:") for row in accounts.balances(engine))


def test_applying_again_does_not_make_everyone_read(engine: Engine, now: datetime) -> None:
    apply(engine, WANTED, now)
    known = load_registry(engine)
    apply(engine, WANTED, now)
    assert load_registry(engine, known) is known
