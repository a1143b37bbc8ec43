"""Who may do what: every endpoint of the application with every kind of token."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI

from ledger import checkpoints, db, tokens
from ledger.errors import InvariantBroken, NotFound
from ledger.proof.notes import LOG, Signer
from ledger.settle import settle
from ledger.tokens import Role
from scheduler.connection import connect as connect_redis
from scheduler.reservations import Reservations
from tasks.context import Context
from tests.conftest import Servers
from tests.gateways import Answer, Gateway, own_database, refused, serving, task, token_of
from tests.makers import claim, settlement
from workers.gateway.access import EVERYBODY, RULES, check_own, check_rules, routes_of
from workers.gateway.app import create_app
from workers.settings import Settings, sqlalchemy_url

TENANT = {Role.CLIENT: "R", Role.AGENT: "A"}
OTHER = {Role.CLIENT: "S", Role.AGENT: "B"}
FOREIGN = {
    "/v1/accounts/{account}": "account",
    "/v1/tasks/{task}": "task",
    "/v1/tasks/{task}/cancel": "task",
    "/v1/tasks/{task}/receipt": "task",
    "/v1/tasks/{task}/entry": "task",
}
OF_PAID = ("/receipt", "/entry")
CLOSED = {rule: roles for rule, roles in RULES.items() if roles is not EVERYBODY}


@dataclass(frozen=True, kw_only=True)
class House:
    """A gateway, a token of each role, and a task of R, one of S, and one of R that was paid."""

    gateway: Gateway
    database_url: str
    tokens: dict[Role, str]
    others: dict[Role, str]
    task: str
    foreign: str
    paid: str

    def ask(self, rule: tuple[str, str], token: str | None, task_id: str | None = None) -> Answer:
        method, route = rule
        names = {
            "task": task_id or (self.paid if route.endswith(OF_PAID) else self.task),
            "path": "0/000.p/1",
            "agent": "A",
            "account": "client:R",
            "lane": "default",
            "epoch": "1",
        }
        body = task() if rule == ("POST", "/v1/tasks") else None
        return self.gateway.ask(method, route.format(**names), body, token=token)


def settled(database_url: str, paid: str) -> str:
    """The task, paid, and in a signed log."""
    engine, now = db.connect(sqlalchemy_url(database_url)), datetime.now(UTC)
    signer = Signer(name="log.example/1", kind=LOG, seed=bytes(32))
    done = [settlement(key) for key in claim(engine, now) if key.task == paid]
    settle(engine, done, now=now)
    checkpoints.sign(engine, lambda: signer, now)
    engine.dispose()
    return paid


@pytest.fixture(scope="module")
def house(servers: Servers) -> Iterator[House]:
    many = {"CLEARLANE_GATEWAY_REFUSALS_PER_MIN": "100000"}
    with own_database(servers) as url, serving(url, servers.redis_url, **many) as gateway:
        yield House(
            gateway=gateway,
            database_url=url,
            tokens={role: token_of(url, role, TENANT.get(role)) for role in Role},
            others={role: token_of(url, role, tenant) for role, tenant in OTHER.items()},
            task=gateway.submit(task()).body["task"],
            foreign=gateway.submit(task(client="S")).body["task"],
            paid=settled(url, gateway.submit(task()).body["task"]),
        )


@pytest.fixture
def app(context: Context) -> FastAPI:
    return create_app(context, Settings(), frozenset())


def test_every_route_has_a_rule_and_every_rule_a_route(app: FastAPI) -> None:
    assert set(routes_of(app)) == set(RULES)
    app.get("/new")(lambda: {})
    with pytest.raises(InvariantBroken, match="/new"):
        check_rules(app)


def test_only_health_the_description_and_checkpoints_are_open() -> None:
    assert {path for (_, path), roles in RULES.items() if roles is EVERYBODY} == {
        "/livez", "/readyz", "/openapi.json", "/log/checkpoint",
    }  # fmt: skip
    assert all(Role.OPERATOR in roles for roles in CLOSED.values())
    for (method, _), roles in CLOSED.items():
        assert ({Role.VIEWER, Role.APPROVER} <= roles) == (method == "GET")
    assert [path for (_, path), roles in CLOSED.items() if Role.REPLICA in roles] == [
        "/log/tile/{path}"
    ]


def unusable(house: House) -> dict[str, str | None]:
    """Tokens that open nothing."""
    engine = db.connect(sqlalchemy_url(house.database_url))
    now = datetime.now(UTC)
    before = now - timedelta(hours=1)
    expired = tokens.create(
        engine, role=Role.OPERATOR, principal="x", expires_at=now, now=before
    ).text
    revoked = tokens.create(engine, role=Role.OPERATOR, principal="x", now=now)
    tokens.revoke(engine, revoked.token.id, now)
    engine.dispose()
    good = house.gateway.token
    return {
        "none": None,
        "garbage": "garbage",
        "cut": good[:-1],
        "unknown": f"clearlane_{'0' * 12}_{'1' * 64}",
        "wrong secret": f"{good[:-64]}{'1' * 64}",
        "expired": expired,
        "revoked": revoked.text,
    }


@pytest.mark.parametrize("rule", RULES, ids=" ".join)
def test_no_endpoint_opens_to_a_token_that_is_none(house: House, rule: tuple[str, str]) -> None:
    for kind, token in unusable(house).items():
        answer = house.ask(rule, token)
        if rule not in CLOSED:
            assert answer.status == 200, kind
            continue
        detail = refused(answer, 401, "Authorization")
        assert answer.headers["www-authenticate"].startswith('Bearer realm="clearlane"')
        assert ("invalid_token" in answer.headers["www-authenticate"]) == (kind != "none")
        assert ("was revoked" in detail, "has expired" in detail) == (
            kind == "revoked",
            kind == "expired",
        )


@pytest.mark.parametrize("rule", CLOSED, ids=" ".join)
def test_each_role_may_do_its_part_and_no_more(house: House, rule: tuple[str, str]) -> None:
    for role in Role:
        answer = house.ask(rule, house.tokens[role])
        if role not in RULES[rule]:
            refused(answer, 403, "Authorization")
            assert "insufficient_scope" in answer.headers["www-authenticate"]
        elif role is Role.AGENT and rule[1] in FOREIGN:
            refused(answer, 404, FOREIGN[rule[1]])  # it is the client's
        elif role is Role.AGENT and rule == ("POST", "/v1/tasks"):
            refused(answer, 403, "client")  # an agent pays for itself alone
        else:
            assert answer.status in {200, 201}, answer.body


def test_what_belongs_to_others_does_not_exist(house: House) -> None:
    ask, client, agent = house.gateway.ask, house.others[Role.CLIENT], house.others[Role.AGENT]
    mine, nobody = house.gateway.submit(task()).body["task"], str(uuid.uuid4())
    pairs = [
        ("GET", "/v1/tasks/{}", mine, nobody, client, "task"),
        ("GET", "/v1/tasks/{}?wait=0.1", mine, nobody, client, "task"),
        ("POST", "/v1/tasks/{}/cancel", mine, nobody, client, "task"),
        ("GET", "/v1/tasks/{}/receipt", mine, nobody, client, "task"),
        ("GET", "/v1/tasks/{}/entry", mine, nobody, client, "task"),
        ("GET", "/v1/tasks?after={}", mine, nobody, client, "after"),
        ("GET", "/v1/accounts/{}", "client:R", "client:nobody", client, "account"),
        ("GET", "/v1/accounts/{}", "agent:S", "agent:nobody", client, "account"),
        ("GET", "/v1/accounts/{}", "system:burn", "system:nobody", client, "account"),
        ("GET", "/v1/accounts/{}", "agent:A", "agent:nobody", agent, "account"),
        ("GET", "/v1/agents/{}", "A", "nobody", agent, "agent"),
    ]
    for method, path, there, nowhere, token, field in pairs:
        found = ask(method, path.format(there), token=token)
        unknown = ask(method, path.format(nowhere), token=token)
        refused(found, 404, field)
        refused(unknown, 404, field)
        assert found.body == json.loads(json.dumps(unknown.body).replace(nowhere, there))
        assert set(found.headers) == set(unknown.headers)
    assert ask("GET", f"/v1/tasks/{mine}").body["state"] == "INIT"  # not cancelled


def test_a_tenant_sees_its_own(house: House) -> None:
    ask, client, agent = house.gateway.ask, house.others[Role.CLIENT], house.others[Role.AGENT]
    listed = ask("GET", "/v1/tasks?limit=1000", token=client).body
    assert {line["client"] for line in listed} == {"S"}
    assert ask("GET", "/v1/tasks?client=S&limit=1000", token=client).body == listed
    refused(ask("GET", "/v1/tasks?client=R", token=client), 403, "client")
    assert ask("GET", f"/v1/tasks/{house.foreign}", token=client).status == 200
    assert ask("GET", "/v1/accounts/client:S", token=client).status == 200
    assert ask("GET", "/v1/accounts/agent:B", token=agent).status == 200
    assert ask("GET", "/v1/agents/B", token=agent).status == 200
    assert ask("GET", "/v1/prices", token=client).status == 200


def test_a_client_submits_for_itself_alone(house: House) -> None:
    submit, client = house.gateway.submit, house.others[Role.CLIENT]
    without = {"family": "f", "payload": 1}
    made = submit(without, token=client)
    assert made.status == 201
    shown = house.gateway.ask("GET", f"/v1/tasks/{made.body['task']}").body
    assert shown["client"] == "S"
    assert submit([without, task(client="S")], token=client).status == 201
    refused(submit(task(client="R"), token=client), 403, "client")
    refused(submit([without, task(client="R")], token=client), 403, "client")
    refused(submit(without), 422, "client")  # an operator says for whom
    refused(submit([task(), without]), 422, "[1].client")


def test_keys_are_each_clients_own(house: House) -> None:
    """The same key of two clients names two tasks, and tells neither of the other's."""
    submit = house.gateway.submit
    first = submit(
        {"family": "f", "payload": 1}, token=house.tokens[Role.CLIENT], Idempotency_Key="k"
    )
    second = submit(
        {"family": "f", "payload": 2}, token=house.others[Role.CLIENT], Idempotency_Key="k"
    )
    assert (first.status, second.status) == (201, 201)
    assert first.body["task"] != second.body["task"]


def test_unknown_paths_ask_for_a_token_too(house: House) -> None:
    for path in ("/v1/nothing", "/", "/livez/", "//livez", "/v1/../livez", "/docs"):
        refused(house.gateway.ask("GET", path, token=None), 401, "Authorization")
        assert house.gateway.ask("GET", path).status == 404


def test_only_the_header_carries_a_token(house: House) -> None:
    ask, token = house.gateway.ask, house.gateway.token
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        headers = {"Authorization": f"{scheme} {token}"}
        assert ask("GET", "/v1/prices", token=None, headers=headers).status == 200
    for value in (
        token,
        f"Basic {token}",
        f"Bearer {token} {token}",
        f"Bearer,{token}",
        "Bearer",
        "",
    ):
        headers = {"Authorization": value}
        refused(ask("GET", "/v1/prices", token=None, headers=headers), 401, "Authorization")
    for path in (f"/v1/prices?access_token={token}", f"/v1/prices?token={token}"):
        refused(ask("GET", path, token=None), 401, "Authorization")
    headers = {"Cookie": f"token={token}", "X-Api-Key": token}
    refused(ask("GET", "/v1/prices", token=None, headers=headers), 401, "Authorization")


def test_roles_are_told_apart_by_kind_and_name() -> None:
    now = datetime.now(UTC)
    token = tokens.Token(
        id="0" * 12, role=Role.CLIENT, tenant="A", principal="x", created_at=now,
        expires_at=None, revoked_at=None, secret_sha256=b"",
    )  # fmt: skip
    unknown = NotFound("a", "b", "c")
    check_own(token, "client", "A", unknown)
    with pytest.raises(NotFound):
        check_own(token, "agent", "A", unknown)


def test_the_gateway_connects_only_when_asked(app: FastAPI, redis_url: str) -> None:
    """Routes and document need no server: so does whoever reads the document."""
    nowhere = Context(
        engine=db.connect("postgresql+psycopg://nobody@127.0.0.1:1/none"),
        reservations=Reservations(connect_redis("redis://127.0.0.1:1/0")),
        lease_margin_s=1.0,
    )
    assert create_app(nowhere, Settings(), frozenset()).openapi() == app.openapi()
