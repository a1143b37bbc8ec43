"""The gateway as a process of its own, on real servers, spoken to over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine

from ledger import intake, lanes
from ledger.lanes import Ask
from ledger.model import Agent
from ledger.tokens import Role
from scheduler.judgement import Judgement
from scheduler.pool import Pool
from scheduler.reservations import Reservations
from tests.conftest import Servers
from tests.gateways import (
    SOON_S,
    WAIT_S,
    Gateway,
    environment,
    install_fleet,
    refused,
    serving,
    task,
    token_of,
    until,
)
from workers.gateway.body import BODY_MAX_BYTES
from workers.terms import EXPIRES_S_MAX

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def fleet(engine: Engine, now: datetime) -> None:
    install_fleet(engine, now)


@pytest.fixture
def gateway(fleet: None, database_url: str, redis_url: str) -> Iterator[Gateway]:
    with serving(database_url, redis_url) as found:
        assert found.host == "127.0.0.1"  # nobody else may reach it unless told so
        yield found


# Submitting -------------------------------------------------------------------------------------


def test_a_task_is_accepted_and_shown(gateway: Gateway, engine: Engine) -> None:
    answer = gateway.submit(task(size=7, type="audit", expires_s=60))
    assert answer.status == 201
    assert answer.body == {"task": answer.body["task"], "state": "INIT"}
    shown = gateway.ask("GET", f"/v1/tasks/{answer.body['task']}").body
    expected = {
        "client": "R", "family": "f", "size": 7, "type": "audit", "state": "INIT",
        "wait": "dispatch", "attempts": 0, "timeline": [], "result": None, "cost_ub": None,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    submitted, expires = (
        datetime.fromisoformat(shown[name]) for name in ("submitted_at", "expires_at")
    )
    assert (expires - submitted).total_seconds() == 60
    assert intake.task_row(engine, answer.body["task"])["state"] == "INIT"


def test_a_list_is_accepted_in_order_and_listed_newest_first(gateway: Gateway) -> None:
    answer = gateway.submit([task(size=size) for size in (1, 2, 3)])
    assert answer.status == 201
    tasks = [item["task"] for item in answer.body]
    page = gateway.ask("GET", "/v1/tasks?client=R&state=INIT&limit=2").body
    assert [(line["task"], line["size"]) for line in page] == [(tasks[2], 3), (tasks[1], 2)]
    rest = gateway.ask("GET", f"/v1/tasks?after={page[-1]['task']}").body
    assert [line["task"] for line in rest] == [tasks[0]]
    assert gateway.ask("GET", "/v1/tasks?client=S").body == []


def test_a_list_with_one_bad_task_accepts_none(gateway: Gateway, engine: Engine) -> None:
    refused(gateway.submit([task(), task(family="g")]), 404, "family")
    refused(gateway.submit([task(), task(size=0)]), 422, "[1].size")
    refused(gateway.submit([task(), task(client="S")]), 422, "[1].client")
    assert intake.task_counts(engine) == []


def test_a_list_has_bounds(gateway: Gateway) -> None:
    refused(gateway.submit([]), 422, "body")
    refused(gateway.submit([task()] * 1001), 422, "body")
    assert len(gateway.submit([task()] * 1000).body) == 1000


def test_the_same_key_names_the_same_task(gateway: Gateway, engine: Engine) -> None:
    first = gateway.submit(task(), Idempotency_Key="k1")
    assert first.status == 201
    again = gateway.submit(task(idempotency_key="k1"))
    assert (again.status, again.body) == (200, first.body)
    both = gateway.submit([task(idempotency_key="k1"), task(idempotency_key="k2")])
    assert both.status == 201
    assert both.body[0] == first.body
    refused(gateway.submit(task(size=3), Idempotency_Key="k1"), 409, "idempotency_key")
    # When it ends is no part of what was asked: it moves with the clock of whoever repeats it.
    brief = gateway.submit(task(expires_s=EXPIRES_S_MAX), Idempotency_Key="k1")
    assert (brief.status, brief.body) == (200, first.body)
    shown = gateway.ask("GET", f"/v1/tasks/{first.body['task']}").body
    assert shown["expires_at"] is None
    refused(gateway.submit(task(idempotency_key="a"), Idempotency_Key="b"), 422, "Idempotency-Key")
    refused(gateway.submit([task()], Idempotency_Key="k"), 422, "Idempotency-Key")
    assert intake.task_counts(engine) == [{"state": "INIT", "wait": "dispatch", "tasks": 2}]


BAD_VALUES: list[tuple[dict[str, object], int, str]] = [
    ({"client": "nobody"}, 404, "client"),
    ({"client": "no\nbody"}, 422, "client"),
    ({"family": "nothing"}, 404, "family"),
    ({"size": -1}, 422, "size"),
    ({"size": 1_000_001}, 422, "size"),
    ({"size": "5"}, 422, "size"),
    ({"size": True}, 422, "size"),
    ({"expires_s": 0}, 422, "expires_s"),
    ({"expires_s": EXPIRES_S_MAX + 1}, 422, "expires_s"),
    ({"expires_s": 1e300}, 422, "expires_s"),
    ({"idempotency_key": "k" * 3000}, 422, "idempotency_key"),
    ({"sise": 5}, 422, "sise"),
    ({"payload": "x" * 2_000_000}, 422, "payload"),
]


def test_a_bad_value_is_refused_by_name(gateway: Gateway, engine: Engine) -> None:
    for fields, status, field in BAD_VALUES:
        refused(gateway.submit(task(**fields)), status, field)
    assert intake.task_counts(engine) == []


NOT_JSON = [
    b"",
    b'{"client": "R",',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"client":"R","family":"f","payload":NaN}',
    b'{"client":"R","family":"f","payload":' + b"9" * 5000 + b"}",
    b'{"client":"R","family":"f","payload":1e999}',
    b'{"client":"R","family":"f","payload":"\\u0000"}',
    b'{"client":"R","family":"f","payload":"\\ud800"}',
    b'{"client":"R","family":"f","payload":' + b"[" * 100 + b"]" * 100 + b"}",
]


def test_what_is_not_plain_json_is_refused(gateway: Gateway) -> None:
    for raw in NOT_JSON:
        told = refused(gateway.ask("POST", "/v1/tasks", raw=raw), 400, "body")
        assert "int_max_str_digits" not in told


def test_a_body_must_be_an_object_declared_as_json(gateway: Gateway) -> None:
    refused(gateway.ask("POST", "/v1/tasks", raw=b"5"), 422, "body")
    refused(gateway.submit({"client": "R"}), 422, "family")
    plain = {"Content-Type": "text/plain"}
    answer = gateway.ask("POST", "/v1/tasks", task(), headers=plain)
    refused(answer, 415, "Content-Type")


def test_a_long_body_is_refused_while_it_is_read(gateway: Gateway) -> None:
    long = b" " * (3 * BODY_MAX_BYTES)
    refused(gateway.ask("POST", "/v1/tasks", raw=long), 413, "body")
    # Without a declared length, in chunks: only counting finds out.
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=60)
    chunks = (b" " * 65_536 for _ in range(BODY_MAX_BYTES // 65_536 + 2))
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {gateway.token}",
    }
    connection.request("POST", "/v1/tasks", chunks, headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["field"] == "body"
    connection.close()


def test_a_long_body_that_is_only_announced_is_refused_at_once(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=60)
    connection.putrequest("POST", "/v1/tasks")
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": "9" * 20,
        "Authorization": f"Bearer {gateway.token}",
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413, "and not 408, when nothing has come for long"
    assert json.loads(response.read())["field"] == "body"
    connection.close()


# Waiting ----------------------------------------------------------------------------------------


def test_waiting_ends_when_the_task_ends(gateway: Gateway, engine: Engine, now: datetime) -> None:
    name = gateway.submit(task()).body["task"]
    waiting = [gateway.send("GET", f"/v1/tasks/{name}?wait={WAIT_S}") for _ in range(2)]
    gateway.until_it_waits(name)
    assert not any(sent.is_answered() for sent in waiting)
    intake.cancel(engine, name, now)
    for sent in waiting:
        answer = sent.answer()
        assert answer.status == 200
        assert answer.took_s < WAIT_S
        assert (answer.body["state"], answer.body["wait"]) == ("CANCELLED", None)


def test_submitting_and_waiting_is_one_request(
    gateway: Gateway, engine: Engine, now: datetime
) -> None:
    one = gateway.send("POST", f"/v1/tasks?wait={WAIT_S}", task(type="one"))
    two = gateway.send("POST", f"/v1/tasks?wait={WAIT_S}", [task(), task()])
    until(lambda: len(intake.task_list(engine)) == 3)
    for row in intake.task_list(engine):
        intake.cancel(engine, str(row["id"]), now)
    answer = one.answer()
    assert (answer.status, answer.body["state"], answer.body["type"]) == (201, "CANCELLED", "one")
    many = two.answer()
    assert many.status == 201
    assert max(answer.took_s, many.took_s) < WAIT_S
    assert [item["state"] for item in many.body] == ["CANCELLED"] * 2


def test_waiting_is_bounded(gateway: Gateway) -> None:
    name = gateway.submit(task()).body["task"]
    answer = gateway.ask("GET", f"/v1/tasks/{name}?wait=0.2")
    assert answer.body["state"] == "INIT"
    assert 0.2 <= answer.took_s < SOON_S
    for wait in ("61", "-1", "nan", "soon"):
        refused(gateway.ask("GET", f"/v1/tasks/{name}?wait={wait}"), 422, "wait")


def test_cancelling_over_http(gateway: Gateway) -> None:
    name = gateway.submit(task()).body["task"]
    for spelling in (name.upper(), name.replace("-", ""), name):
        answer = gateway.ask("POST", f"/v1/tasks/{spelling}/cancel")
        assert (answer.status, answer.body["state"]) == (200, "CANCELLED")
    unknown = "00000000-0000-7000-8000-000000000000"
    refused(gateway.ask("POST", f"/v1/tasks/{unknown}/cancel"), 404, "task")
    refused(gateway.ask("GET", "/v1/tasks/17"), 422, "task")


# The fleet and the accounts -----------------------------------------------------------------------


def test_agents_are_shown_without_their_secrets(
    gateway: Gateway, reservations: Reservations
) -> None:
    answer = gateway.ask("GET", "/v1/agents")
    assert answer.status == 200
    first, second = answer.body
    assert (first["agent"], first["url"]) == ("A", "http://127.0.0.1:9001/run")
    assert first["headers"] == ["x-api-key"]
    assert (first["y"], first["f"]) == (None, None)
    assert second["suspended"] is False  # an agent is suspended by its own command, not by apply
    assert "secret" not in json.dumps(answer.body)
    pool = Pool(y_mt=0, refilled_at_ms=0)
    agent = Agent(id="A", kind="json", url="", y_max=1000, k=1)
    reservations.seed([agent], {"A": (pool, Judgement(f=0.0, s=0.5))}, 1)
    shown = gateway.ask("GET", "/v1/agents/A").body
    assert (shown["y"], shown["s"], shown["in_flight"]) == (1000.0, 0.5, 0)
    refused(gateway.ask("GET", "/v1/agents/Z"), 404, "agent")


def test_lanes_and_their_history_are_shown(gateway: Gateway, engine: Engine) -> None:
    now = datetime.now(UTC)
    ask = Ask(principal="alice", reason="mint", serves=7, lease_s=600)
    taken = lanes.take(engine, "default", ask, now)
    default, system = gateway.ask("GET", "/v1/lanes").body
    assert (default["lane"], default["mode"], default["principal"]) == (
        "default",
        "manual",
        "alice",
    )
    assert (default["reason"], default["batch"], default["token"]) == ("mint", 7, taken.token)
    assert (default["drained"], default["in_flight"]) == (True, 0)
    assert (system["lane"], system["mode"], system["until"]) == ("system", "cron", None)
    back = lanes.release(engine, "default", taken.token, now)
    book = gateway.ask("GET", "/v1/lanes/default?limit=2").body
    assert (book["mode"], book["batch"]) == ("cron", None)
    tokens = [row["token"] for row in book["history"]]
    assert tokens == [back.token, taken.token]
    assert [row["ended"] for row in book["history"]] == [None, "released"]
    older = gateway.ask("GET", f"/v1/lanes/default?before={taken.token}").body["history"]
    assert [row["token"] for row in older] == list(range(taken.token - 1, 0, -1))
    refused(gateway.ask("GET", "/v1/lanes/nowhere"), 404, "lane")
    refused(gateway.ask("GET", "/v1/lanes/default?before=0"), 422, "before")


def test_a_task_names_its_lane(gateway: Gateway) -> None:
    made = gateway.submit(task(lane="default"))
    assert made.status == 201
    shown = gateway.ask("GET", f"/v1/tasks/{made.body['task']}").body
    assert (shown["lane"], shown["batch"]) == ("default", None)
    assert "see /v1/lanes" in refused(gateway.submit(task(lane="nowhere")), 404, "lane")
    refused(gateway.submit(task(lane="no where")), 422, "lane")


def test_prices_are_those_of_the_router(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/v1/prices?size=100")
    assert answer.status == 200
    prices = {row["agent"]: row for row in answer.body}
    # k/(y - size) - k/y, of 1000 and of 500 tokens
    assert prices["A"]["cost_ub"] == "111111111"
    assert prices["B"]["cost_ub"] == "500000000"
    assert prices["A"]["price_ub"] == "111111111"
    refused(gateway.ask("GET", "/v1/prices?size=0"), 422, "size")
    refused(gateway.ask("GET", "/v1/prices?size=5&family=nothing"), 404, "family")


def test_accounts_with_their_movements(gateway: Gateway) -> None:
    rows = gateway.ask("GET", "/v1/accounts").body
    assert sum(int(row["balance_ub"]) for row in rows) == 0
    shown = gateway.ask("GET", "/v1/accounts/client:R").body
    assert (shown["balance_ub"], shown["quota_ub"]) == ("2000000000", "0")
    assert [(row["kind"], row["amount_ub"]) for row in shown["postings"]] == [
        ("mint", "2000000000")
    ]
    refused(gateway.ask("GET", "/v1/accounts/client:Z"), 404, "account")
    refused(gateway.ask("GET", "/v1/accounts/%00"), 422, "account")


# Health, errors, description ----------------------------------------------------------------------


def test_paths_methods_and_parameters_that_are_not_there(gateway: Gateway) -> None:
    missing = gateway.ask("GET", "/v1/nothing")
    assert (missing.status, missing.body["status"]) == (404, 404)
    assert missing.headers["content-type"] == "application/problem+json"
    wrong = gateway.ask("DELETE", "/v1/agents")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert wrong.headers["content-type"] == "application/problem+json"
    refused(gateway.ask("GET", "/v1/tasks?sate=INIT"), 422, "sate")
    refused(gateway.ask("GET", "/v1/tasks?limit=99999999999999999999"), 422, "limit")
    refused(gateway.ask("GET", "/v1/tasks?state=DONE"), 422, "state")


def test_a_target_with_its_host_is_the_path_on_that_host(gateway: Gateway) -> None:
    """As proxies write it; what stands in `Host` beside it does not count."""
    here = f"http://127.0.0.1:{gateway.port}"
    assert gateway.ask("GET", f"{here}/livez").body == {"alive": True}
    listed = gateway.ask(
        "GET", f"HTTP{here[4:]}/v1/agents?limit=1", headers={"Host": "evil.example"}
    )
    assert (listed.status, len(listed.body)) == (200, 1)
    assert gateway.ask("GET", here).status == 404
    assert gateway.ask("GET", f"{here}/v1/agents", token=None).status == 401
    refused(gateway.ask("GET", "http://evil.example/livez"), 421, "Host")


def test_what_to_do_is_something_a_program_can_do(gateway: Gateway, database_url: str) -> None:
    """No commands, which are for operators, and nothing that its role may not ask."""
    client, agent = (
        token_of(database_url, role, name) for role, name in ((Role.CLIENT, "R"), (Role.AGENT, "A"))
    )
    unknown = "00000000-0000-7000-8000-000000000000"
    for method, path, sent, token in (
        ("POST", "/v1/tasks", task(family="nothing"), client),
        ("POST", "/v1/tasks", task(client="nobody"), ""),
        ("GET", f"/v1/tasks/{unknown}", None, client),
        ("GET", "/v1/tasks/17", None, client),
        ("POST", "/v1/tasks/17/cancel", None, client),
        ("GET", "/v1/accounts/client:S", None, client),
        ("GET", "/v1/accounts/client:nobody", None, ""),
        ("GET", "/v1/agents/Z", None, agent),
    ):
        problem = gateway.ask(method, path, sent, token=token).body
        remedy = problem["remedy"]
        assert "clearlane " not in remedy, problem
        assert "configuration file" not in remedy, problem
        for place in re.findall(r"see (/\S+)", remedy):
            assert gateway.ask("GET", place, token=token).status == 200, problem


def test_a_request_for_another_host_is_refused(gateway: Gateway) -> None:
    """A page whose name was made to resolve to this machine still sends its own name."""
    for name in ("evil.example", "evil.example:80", "[::2]", "127.0.0.1.evil.example"):
        refused(gateway.ask("GET", "/v1/agents", headers={"Host": name}), 421, "Host")
    for name in ("localhost", f"127.0.0.1:{gateway.port}", "[::1]:80"):
        assert gateway.ask("GET", "/v1/agents", headers={"Host": name}).status == 200


def test_an_outage_of_postgresql_accepts_nothing_and_passes(
    gateway: Gateway,
    servers: Servers,
    database_url: str,
    engine: Engine,
    now: datetime,
) -> None:
    until(lambda: gateway.ask("GET", "/readyz").body["ready"] is True)
    before = gateway.submit(task()).body["task"]
    waiting = gateway.send("GET", f"/v1/tasks/{before}?wait={WAIT_S}")
    gateway.until_it_waits(before)
    with unreachable(servers.database_url, database_url.rpartition("/")[2]):
        answer = gateway.submit(task())
        assert (answer.status, answer.body["field"]) == (503, "postgresql")
        assert int(answer.headers["retry-after"]) >= 1
        assert gateway.ask("GET", f"/v1/tasks/{before}").status == 503
        assert gateway.ask("GET", "/livez").body == {"alive": True}
        until(lambda: gateway.ask("GET", "/readyz").status == 503)
        ready = gateway.ask("GET", "/readyz")
        assert (ready.status, ready.body["checks"]["redis"]) == (503, "ok")
        assert "postgresql" in ready.body["detail"]
        # Why not is for the log: it names addresses.
        assert database_url.rpartition("/")[2] not in json.dumps([ready.body, answer.body])
    until(lambda: gateway.ask("GET", "/readyz").status == 200)
    engine.dispose()  # ours was cut off too
    assert intake.task_counts(engine) == [{"state": "INIT", "wait": "dispatch", "tasks": 1}]
    # It listens again, or reads again once it does: who waited through the outage is told.
    intake.cancel(engine, before, now)
    assert waiting.answer().body["state"] == "CANCELLED"


def test_without_redis_it_accepts_and_says_that_it_is_not_ready(
    fleet: None, database_url: str
) -> None:
    with serving(database_url, NOWHERE) as gateway:
        assert gateway.ask("GET", "/livez").status == 200
        ready = gateway.ask("GET", "/readyz")
        assert (ready.status, ready.body["checks"]["postgresql"]) == (503, "ok")
        assert "redis" in ready.body["detail"]
        assert gateway.submit(task()).status == 201
        prices = gateway.ask("GET", "/v1/prices?size=5")
        assert (prices.status, prices.body["field"]) == (503, "redis")


def test_openapi_describes_every_route_and_its_problems(gateway: Gateway) -> None:
    document = gateway.ask("GET", "/openapi.json").body
    found = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert found == {
        ("post", "/v1/tasks"), ("get", "/v1/tasks"), ("get", "/v1/tasks/{task}"),
        ("post", "/v1/tasks/{task}/cancel"), ("get", "/v1/agents"), ("get", "/v1/agents/{agent}"),
        ("get", "/v1/prices"), ("get", "/v1/accounts"), ("get", "/v1/accounts/{account}"),
        ("get", "/v1/lanes"), ("get", "/v1/lanes/{lane}"),
        ("get", "/v1/epochs"), ("get", "/v1/epochs/{epoch}"), ("get", "/v1/tasks/{task}/receipt"),
        ("get", "/v1/tasks/{task}/entry"),
        ("get", "/log/checkpoint"), ("get", "/log/tile/{path}"),
        ("get", "/livez"), ("get", "/readyz"), ("get", "/metrics"),
    }  # fmt: skip
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            statuses = {"400", "421", "422", "500", "503"}
            if path not in {"/livez", "/readyz", "/log/checkpoint"}:
                statuses |= {"401", "403", "429"}
            for status in statuses:
                assert "application/problem+json" in operation["responses"][status]["content"]
            assert operation["security"] == ([{"bearer": []}] if "401" in statuses else [])
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), (path, parameter["name"])
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for name in references(document):
        assert name in schemas
    assert schemas["TaskIn"]["examples"]
    assert schemas["Accepted"]["examples"]
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            assert field.get("description"), name


# The process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_whoever_waits_is_answered(
    gateway: Gateway, number: signal.Signals
) -> None:
    name = gateway.submit(task()).body["task"]
    waiting = gateway.send("GET", f"/v1/tasks/{name}?wait={WAIT_S}")
    gateway.until_it_waits(name)
    gateway.process.send_signal(number)
    answer = waiting.answer()
    assert (answer.status, answer.body["state"]) == (200, "INIT")
    assert answer.took_s < WAIT_S
    assert gateway.process.wait(SOON_S) == 0


def test_a_port_in_use_is_one_line_and_exit_5(database_url: str, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "workers.gateway", "--port", str(port)],
            env=environment(database_url, redis_url),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 5
    [line] = done.stderr.splitlines()
    assert f"port {port} on 127.0.0.1: Address already in use" in json.loads(line)["reason"]


# Helpers ------------------------------------------------------------------------------------------


@contextmanager
def unreachable(admin_url: str, name: str) -> Iterator[None]:
    """PostgreSQL drops the database's connections and refuses new ones."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


def references(node: Any) -> Iterator[str]:
    """Every schema that a document refers to."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value.removeprefix("#/components/schemas/")
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)
