"""Subtasks: an agent pays for a part of its task from its own account (row M23)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

import tasks.messages
from ledger import attempts, check, intake, leaves, registry
from ledger.errors import Conflict, NotFound
from ledger.intake import Accepted, Submission
from ledger.model import Agent, AttemptKey, Outcome, Reply, SagaState, TaskState
from ledger.postings import Settled
from ledger.proof.entries import decode
from ledger.proof.replay import State, TaskSet
from ledger.settle import settle
from ledger.subtasks import DEPTH_MAX, SUBTASKS_MAX
from ledger.tokens import Role
from scheduler.reservations import Reservations
from scheduler.saga import Saga
from tasks import execute, sweep
from tasks.context import Context, bind
from tasks.outsource import outsource
from tests.gateways import Gateway, refused, serving, token_of
from tests.makers import (
    UB,
    agent,
    as_owner,
    balance_ub,
    client,
    family,
    install,
    plant,
    settlement,
    submit,
)
from tests.oneworker import environment, one_worker
from tests.test_saga import Fleet
from workers.audit import audit
from workers.cli import main
from workers.waits import explain

BUDGET_UB = 9_900_000  # of a price of 10 B, 1 % burns
# Idle, A asks exactly 10 B for a whole, and each of the helpers exactly 4 B for a part; A would ask
# less for a part.
LEAD = agent(
    "A", y_max=1000, k=90_000, tools=frozenset({"lead", "part"}), quota_ub=300 * UB, slots=40
)
HELPERS = [
    agent(name, y_max=20, k=80, tools=frozenset({"part"}), quota_ub=300 * UB) for name in "BCD"
]
FAMILIES = [
    family("whole", size=100, deadline_s=600.0, tools=frozenset({"lead"})),
    family("part", size=10, deadline_s=600.0, tools=frozenset({"part"})),
]
PART = Submission(family="part", payload={"part": 1})
DONE = Reply(outcome=Outcome.OK, latency_s=0.1, output={"done": True})
FAILED = Reply(outcome=Outcome.ERROR, latency_s=0.1, detail="HTTP 500")


@pytest.fixture
def fleet(
    engine: Engine, reservations: Reservations, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> Fleet:
    furnish(engine, now, [LEAD, *HELPERS])
    made = Fleet(engine, reservations, now.timestamp())
    monkeypatch.setattr(tasks.messages, "current_app", made.transport)
    monkeypatch.setattr(execute, "_loop", lambda: made.agents)
    return made


def furnish(engine: Engine, now: datetime, agents: Sequence[Agent]) -> None:
    install(
        engine, now, clients=[client(), client("S")], agents=agents, families=FAMILIES,
        params={"routing": {"seed": 1}},
    )  # fmt: skip


def working(fleet: Fleet) -> AttemptKey:
    """The attempt at a whole that A is working on."""
    (task,) = submit(fleet.engine, fleet.now, to="whole")
    (saga,) = begun(fleet, [task])
    assert (saga.agent, saga.cost_ub) == ("A", 10 * UB)
    return saga.work.key


def begun(fleet: Fleet, some: Sequence[str]) -> list[Saga]:
    """The attempts at these tasks whose calls are out, unanswered."""
    fleet.agents.next[:] = [None] * len(some)
    fleet.dispatch()
    fleet.deliver_all()
    fleet.agents.next.clear()
    keys = [AttemptKey(task, fleet.row(task)["attempt"]) for task in some]
    found = [saga for saga in fleet.at.read(keys) if saga is not None]
    assert all(saga.state is SagaState.EXECUTING for saga in found)
    return found


def leave(fleet: Fleet, *names: str, of: Sequence[Agent] = HELPERS) -> None:
    """Only these of the helpers take part, as a worker that has just started sees it."""
    for item in of:
        registry.suspend(fleet.engine, item.id, suspended=item.id not in names)
    fleet.context = Context(
        engine=fleet.engine, reservations=fleet.at, lease_margin_s=1.0, clock=lambda: fleet.now_s
    )
    bind(fleet.context)


def answer(fleet: Fleet, key: AttemptKey, reply: Reply = DONE) -> None:
    execute.forward({key: reply})
    fleet.deliver_all()


def ask(fleet: Fleet, parent: AttemptKey, *items: Submission, by: str = "A") -> list[Accepted]:
    return outsource(fleet.context, by, parent, items or [PART])


def holds(fleet: Fleet) -> None:
    """C1 to C5, once nothing is in flight."""
    found = audit(fleet.context)
    assert found.in_flight == 0
    assert found.violations == []


# The story, over HTTP


class Lead(BaseHTTPRequestHandler):
    """An agent that has a part of each task done by others, before it answers."""

    gateway: Gateway
    token = ""
    said: list[Any]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        part = {
            "family": "part",
            "payload": {"of": question["payload"]},
            "parent": self.headers["X-Clearlane-Task"],
            "attempt": int(self.headers["X-Clearlane-Attempt"]),
            "idempotency_key": f"{self.headers['X-Clearlane-Task']}-1",
        }
        once, again = (
            self.gateway.submit(part, "/v1/tasks?wait=60", token=self.token) for _ in range(2)
        )
        self.said.extend((once, again))
        body = json.dumps({"output": {"helped": once.body.get("result")}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def leading(gateway: Gateway, token: str) -> Iterator[tuple[str, list[Any]]]:
    """The lead's address, and what the gateway said to it."""
    said: list[Any] = []
    handler = type("Handler", (Lead,), {"gateway": gateway, "token": token, "said": said})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/run", said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_agent_outsources_a_part_and_pays_for_it(
    fleet: Fleet, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    engine = fleet.engine
    leave(fleet, "B")
    of_a, of_b = (token_of(database_url, Role.AGENT, name) for name in "AB")
    of_r = token_of(database_url, Role.CLIENT, "R")
    env = environment(database_url, redis_url)
    with serving(database_url, redis_url) as gateway, leading(gateway, of_a) as (url, said):
        lead = agent(**{**_fields(LEAD), "kind": "json", "url": url})
        registry.apply(engine, _wanted([lead]), datetime.now(UTC))
        with one_worker(env, tmp_path / "log"):
            whole = {"client": "R", "family": "whole", "payload": "w"}
            done = gateway.submit(whole, "/v1/tasks?wait=60").body
        assert done["state"] == "COMMITTED", done
        assert done["result"] == {"helped": {"of": "w"}}
        once, replayed = said
        part = once.body
        assert (once.status, replayed.status) == (201, 200)
        assert replayed.body["task"] == part["task"]
        assert (part["payer"], part["client"], part["agent"]) == ("agent:A", None, "B")
        assert (part["parent"], part["parent_attempt"]) == (done["task"], done["attempts"])
        assert (part["cost_ub"], part["budget_ub"]) == ("4000000", str(BUDGET_UB))
        path = f"/v1/tasks/{part['task']}"
        assert gateway.ask("GET", path, token=of_a).body["task"] == part["task"]
        (line,) = gateway.ask("GET", "/v1/tasks", token=of_a).body
        assert line["task"] == part["task"]
        assert gateway.ask("GET", "/v1/tasks", token=of_b).body == []
        assert [row["task"] for row in gateway.ask("GET", "/v1/tasks", token=of_r).body] == [
            done["task"]
        ]
        for token, theirs in ((of_b, part), (of_r, part), (of_a, done), (of_b, done)):
            for method, tail in (("GET", ""), ("POST", "/cancel"), ("GET", "/receipt")):
                path = f"/v1/tasks/{theirs['task']}{tail}"
                refused(gateway.ask(method, path, token=token), 404, "task")
    after = {"client:R": 1990, "agent:A": 5.9, "agent:B": 3.96, "system:burn": 0.14}
    assert {name: balance_ub(engine, name) / UB for name in after} == after
    _check_leaves(engine, part["task"], done["task"])
    holds(fleet)


def _check_leaves(engine: Engine, part: str, whole: str) -> None:
    """Both settlements stand in the log, and all of it can be replayed."""
    entry = decode(leaves.entry(engine, leaves.leaf_of(engine, part)))
    assert (entry["client"], entry["agent"]) == ("agent:A", "agent:B")
    assert entry["postings"] == [
        ["agent:A", "-4000000"], ["agent:B", "3960000"], ["system:burn", "40000"],
    ]  # fmt: skip
    entry = decode(leaves.entry(engine, leaves.leaf_of(engine, whole)))
    assert (entry["client"], entry["agent"]) == ("client:R", "agent:A")
    state, (size, _) = State(TaskSet()), leaves.size(engine)
    for index, data in enumerate(leaves.entries(engine, 0, size)):
        state.apply(index, data)
    assert state.accounts["agent:A"].balance_ub == 5_900_000


def _fields(of: Agent) -> dict[str, Any]:
    given = {name: getattr(of, name) for name in of.__dataclass_fields__}
    return {"name": given.pop("id")} | given


def _wanted(agents: Sequence[Agent]) -> registry.Wanted:
    return registry.Wanted(params={}, clients=[], agents=agents, families=[])


REFUSALS: Sequence[tuple[Role, dict[str, object], int, str]] = [
    (Role.AGENT, {"parent": None, "attempt": None}, 422, "parent"),
    (Role.AGENT, {"attempt": None}, 422, "attempt"),
    (Role.AGENT, {"client": "R"}, 403, "client"),
    (Role.AGENT, {}, 404, "parent"),
    (Role.CLIENT, {}, 403, "parent"),
    (Role.OPERATOR, {"client": "R"}, 403, "parent"),
    (Role.AGENT, {"parent": "x"}, 422, "parent"),
    (Role.AGENT, {"attempt": 0}, 422, "attempt"),
]


def test_the_gateway_refuses_what_is_no_subtask(
    fleet: Fleet, database_url: str, redis_url: str
) -> None:
    whole = working(fleet)
    base: dict[str, object] = {
        "family": "part",
        "payload": 1,
        "parent": whole.task,
        "attempt": whole.attempt,
    }
    tenants = {Role.AGENT: "B", Role.CLIENT: "R"}
    with serving(database_url, redis_url) as gateway:
        for role, changed, status, field in REFUSALS:
            token = token_of(database_url, role, tenants.get(role))
            body = {name: value for name, value in (base | changed).items() if value is not None}
            refused(gateway.submit(body, token=token), status, field)
        token = token_of(database_url, Role.AGENT, "A")
        other = base | {"attempt": whole.attempt + 1}
        refused(gateway.submit([base, other], token=token), 422, "[1].parent")
        assert gateway.submit([base, base], token=token).status == 201


# Who may ask, and for what


def test_only_who_works_on_the_attempt_may_ask(fleet: Fleet) -> None:
    whole = working(fleet)
    (waiting,) = submit(fleet.engine, fleet.now, to="whole")
    nowhere = AttemptKey("00000000-0000-7000-8000-000000000000", 1)
    wrong = [
        ("B", whole), ("A", AttemptKey(whole.task, whole.attempt + 1)),
        ("A", AttemptKey(waiting, 1)), ("A", nowhere),
    ]  # fmt: skip
    for by, parent in wrong:
        said = f"parent: agent {by} is not working on attempt {parent.attempt} of {parent.task}"
        with pytest.raises(NotFound, match=said):
            ask(fleet, parent, by=by)
    assert [item.created for item in ask(fleet, whole)] == [True]


@pytest.mark.parametrize("reply", [DONE, FAILED])
def test_an_attempt_that_was_answered_asks_no_more(fleet: Fleet, reply: Reply) -> None:
    whole = working(fleet)
    execute.forward({whole: reply})
    with pytest.raises(NotFound, match="is not working on"):
        ask(fleet, whole)


def test_redis_alone_does_not_make_a_parent(fleet: Fleet) -> None:
    """What the ledger says counts: a claim that has ended, a task that was cancelled."""
    whole = working(fleet)
    fleet.now_s += 3600
    with pytest.raises(NotFound):
        ask(fleet, whole)
    fleet.now_s -= 3600
    intake.cancel(fleet.engine, whole.task, fleet.now)
    with pytest.raises(NotFound):
        ask(fleet, whole)


def test_the_same_key_is_the_same_subtask(fleet: Fleet) -> None:
    whole = working(fleet)
    keyed = Submission(family="part", payload=1, idempotency_key="k")
    (first,) = ask(fleet, whole, keyed)
    (again,) = ask(fleet, whole, keyed)
    assert (again.task, first.created, again.created) == (first.task, True, False)
    with pytest.raises(Conflict, match="was used for another task"):
        ask(fleet, whole, Submission(family="part", payload=2, idempotency_key="k"))
    # A client's key of the same text is another.
    (theirs,) = submit(fleet.engine, fleet.now, to="part", idempotency_key="k")
    assert theirs != first.task
    fleet.deliver_all()
    answer(fleet, whole)
    (late,) = ask(fleet, whole, keyed)
    assert late.task == first.task
    with pytest.raises(NotFound):
        ask(fleet, whole, keyed, PART)


def test_a_key_belongs_to_one_attempt(fleet: Fleet) -> None:
    whole = working(fleet)
    keyed = Submission(family="part", payload=1, idempotency_key="k")
    ask(fleet, whole, keyed)
    answer(fleet, whole, FAILED)
    (saga,) = begun(fleet, [whole.task])
    with pytest.raises(Conflict, match="was used for another task"):
        ask(fleet, saga.work.key, keyed)


def test_an_attempt_has_few_subtasks(fleet: Fleet) -> None:
    whole = working(fleet)
    assert len(ask(fleet, whole, *[PART] * SUBTASKS_MAX)) == SUBTASKS_MAX
    with pytest.raises(Conflict, match=f"{SUBTASKS_MAX + 1} subtasks"):
        ask(fleet, whole)
    assert len(_open(fleet)) == SUBTASKS_MAX


def test_two_lists_at_once_are_counted_one_after_the_other(fleet: Fleet) -> None:
    whole = working(fleet)
    some = [PART] * (SUBTASKS_MAX // 2 + 1)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, fleet, whole, *some) for _ in range(4)]
    answers = [item.exception() for item in asked]
    assert sum(item is None for item in answers) == 1
    assert all(item is None or isinstance(item, Conflict) for item in answers)
    assert len(_open(fleet)) == len(some)


def test_the_command_line_submits_for_an_agent(
    fleet: Fleet, database_url: str, redis_url: str
) -> None:
    whole = working(fleet)
    order = ["--as-agent", "A", "--parent", whole.task, "--attempt", str(whole.attempt)]
    env = environment(database_url, redis_url)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "workers.cli", "submit", "--family", "part"]
        return subprocess.run(
            [*argv, "--payload", "1", *options],
            env=env, capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    said = run(*order)
    assert said.returncode == 0, said.stderr
    (row,) = _open(fleet)
    assert json.loads(said.stdout)["task"] == str(row["id"])
    for wrong in (["--client", "R", *order], order[:2], order[2:]):
        assert run(*wrong).returncode == 2
    other = run("--as-agent", "B", *order[2:])
    assert other.returncode != 0
    assert "parent: agent B is not working on" in other.stderr


def _open(fleet: Fleet) -> list[dict[str, Any]]:
    found = intake.task_list(fleet.engine, payer="agent:A", state="INIT", limit=1000)
    assert all(row["client"] is None for row in found)
    return found


def test_a_subtask_takes_the_place_of_its_parent_in_the_line(fleet: Fleet) -> None:
    whole = working(fleet)
    fleet.now_s += 1
    submit(fleet.engine, fleet.now, 5, to="part", by="S")
    fleet.now_s += 1
    (part,) = ask(fleet, whole)
    claimed = attempts.claim(
        fleet.engine, limit=1, hold={"default": 99}, margin_s=1.0, now=fleet.now
    )
    assert [item.key.task for item in claimed] == [part.task]


# Chains


def test_nobody_works_on_a_part_of_its_own_task(fleet: Fleet) -> None:
    whole = working(fleet)
    leave(fleet)
    (part,) = ask(fleet, whole)
    assert begun(fleet, [part.task]) == []
    row = fleet.row(part.task)
    assert row["wait"] == "no_agent"
    why = explain(fleet.context, row)
    assert "A is out (waits for it: this is a part of its own task)" in why.words
    leave(fleet, "C")
    fleet.now_s += 10
    (saga,) = begun(fleet, [part.task])
    assert saga.agent == "C"


def test_whoever_failed_is_asked_again_when_the_others_wait_for_it(fleet: Fleet) -> None:
    whole = working(fleet)
    leave(fleet, "B")
    (part,) = ask(fleet, whole)
    (saga,) = begun(fleet, [part.task])
    answer(fleet, saga.work.key, FAILED)
    fleet.now_s += 1
    (saga,) = begun(fleet, [part.task])
    assert saga.agent == "B"


def test_a_chain_has_no_cycle_and_an_end(fleet: Fleet) -> None:
    """Each link has a part done that costs half of its own."""
    links = [
        agent(f"P{n}", y_max=20, k=80 // 2**n, tools=frozenset({"part"}), quota_ub=99 * UB)
        for n in range(DEPTH_MAX)
    ]
    registry.apply(fleet.engine, _wanted(links), fleet.now)
    everybody = [*HELPERS, *links]
    at, chain = working(fleet), ["A"]
    for link in links:
        (part,) = ask(fleet, at, by=chain[-1])
        assert fleet.row(part.task)["chain"] == chain
        leave(fleet, *chain, of=everybody)
        assert begun(fleet, [part.task]) == []
        assert fleet.row(part.task)["wait"] == "no_agent"
        leave(fleet, *chain, link.id, of=everybody)
        fleet.now_s += 10
        (saga,) = begun(fleet, [part.task])
        at = saga.work.key
        chain.append(saga.agent)
    assert chain == ["A", *(link.id for link in links)]
    with pytest.raises(Conflict, match=f"{DEPTH_MAX} agents wait for it already"):
        ask(fleet, at, by=chain[-1])


# The budget


def test_a_reservation_stays_within_the_budget(fleet: Fleet) -> None:
    whole = working(fleet)
    parts = [item.task for item in ask(fleet, whole, PART, PART, PART)]
    sagas = begun(fleet, parts)
    assert [saga.cost_ub for saga in sagas] == [4 * UB, 4 * UB]
    (parent,) = fleet.at.read([whole])
    assert parent is not None
    assert parent.outsourced_ub == 8 * UB
    (left,) = set(parts) - {saga.work.key.task for saga in sagas}
    row = fleet.row(left)
    assert row["wait"] == "budget"
    words = explain(fleet.context, row).words
    assert "whose budget leaves 1.900000 B of 9.900000 B" in words
    assert "too dear for its parent's budget: 4.000000 B" in words
    # What fails gives back its part; what is paid does not.
    answer(fleet, sagas[0].work.key)
    answer(fleet, sagas[1].work.key, FAILED)
    fleet.now_s += 40
    retried = begun(fleet, [left, sagas[1].work.key.task])
    assert len(retried) == 1
    answer(fleet, retried[0].work.key)
    assert balance_ub(fleet.engine, "agent:A") == -8 * UB
    answer(fleet, whole)
    fleet.drain()
    holds(fleet)


def test_a_spent_budget_takes_no_more_subtasks(fleet: Fleet, redis_url: str) -> None:
    whole = working(fleet)
    keyed = Submission(family="part", payload=1, idempotency_key="k")
    (known,) = ask(fleet, whole, keyed)
    fleet.at._redis.hset(f"saga:{whole.task}:{whole.attempt}", "outsourced_ub", BUDGET_UB)
    with pytest.raises(Conflict, match=r"its budget of 9\.900000 B is spent"):
        ask(fleet, whole)
    assert ask(fleet, whole, keyed)[0].task == known.task


def test_two_plans_at_once_do_not_spend_the_budget_twice(fleet: Fleet) -> None:
    """The script decides: a plan may be made from what was true before."""
    whole = working(fleet)
    parts = [item.task for item in ask(fleet, whole, PART, PART)]
    fleet.at._redis.hset(f"saga:{whole.task}:{whole.attempt}", "outsourced_ub", 3 * UB)
    sagas = begun(fleet, parts)
    assert len(sagas) == 1
    assert sorted(fleet.row(task)["wait"] for task in parts) == ["attempt", "budget"]


@pytest.mark.parametrize("together", [True, False])
def test_a_settlement_stays_within_the_budget(fleet: Fleet, together: bool) -> None:
    """Decided in the transaction, whatever was reserved."""
    whole = working(fleet)
    for item in ask(fleet, whole, PART, PART):
        assert item.created
    claims = attempts.claim(
        fleet.engine, limit=9, hold={"default": 99}, margin_s=1.0, now=fleet.now
    )
    asked = [
        settlement(item.key, payer="agent:A", agent="B", cost_ub=5 * UB, size=10) for item in claims
    ]
    found: dict[AttemptKey, Settled] = {}
    for chunk in [asked] if together else [[item] for item in asked]:
        found |= settle(fleet.engine, chunk, now=fleet.now)
    assert list(found.values()) == [Settled.PAID, Settled.NO_BUDGET]
    assert balance_ub(fleet.engine, "agent:A") == -5 * UB
    assert check.violations(fleet.engine) == []


def test_an_agent_without_credit_waits_for_it(fleet: Fleet) -> None:
    poor = agent(**{**_fields(LEAD), "quota_ub": 0})
    registry.apply(fleet.engine, _wanted([poor]), fleet.now)
    whole = working(fleet)
    (part,) = ask(fleet, whole)
    assert begun(fleet, [part.task]) == []
    row = fleet.row(part.task)
    assert row["wait"] == "credit"
    assert explain(fleet.context, row).words.startswith("agent A can spend 0.000000 B")


# When the parent's attempt is over


@pytest.mark.parametrize("reply", [DONE, FAILED])
def test_what_waits_is_cancelled_when_the_attempt_is_over(fleet: Fleet, reply: Reply) -> None:
    whole = working(fleet)
    waiting, other = (item.task for item in ask(fleet, whole, PART, PART))
    intake.cancel(fleet.engine, other, fleet.now)
    answer(fleet, whole, reply)
    fleet.dispatch()
    fleet.deliver_all()
    assert fleet.row(waiting)["wait"] == "budget"  # it does not begin before the sweeper comes
    assert "leaves 0.000000 B" in explain(fleet.context, fleet.row(waiting)).words
    sweep.sweep()
    row = fleet.row(waiting)
    assert (row["state"], row["reason"]) == ("CANCELLED", "the attempt that asked for it is over")
    fleet.drain()
    holds(fleet)


def test_what_is_in_flight_when_the_attempt_is_over_is_paid(fleet: Fleet) -> None:
    whole = working(fleet)
    parts = [item.task for item in ask(fleet, whole, PART, PART)]
    good, bad = begun(fleet, parts)
    answer(fleet, whole)
    sweep.sweep()
    answer(fleet, good.work.key)
    answer(fleet, bad.work.key, FAILED)
    sweep.sweep()
    states = [fleet.row(saga.work.key.task)["state"] for saga in (good, bad)]
    assert states == ["COMMITTED", "CANCELLED"]
    assert balance_ub(fleet.engine, "agent:A") == BUDGET_UB - 4 * UB
    holds(fleet)


def test_a_wiped_redis_ends_the_chain(fleet: Fleet) -> None:
    whole = working(fleet)
    (part,) = ask(fleet, whole)
    begun(fleet, [part.task])
    fleet.at._redis.flushall()
    fleet.now_s += 2000
    fleet.drain()
    states = [TaskState(fleet.row(task)["state"]) for task in (whole.task, part.task)]
    assert states == [TaskState.COMMITTED, TaskState.CANCELLED]
    holds(fleet)


# What the database itself refuses and finds

COLUMNS = "INSERT INTO task (id, family, type, size, ready_at, submitted_at, content_sha256"
VALUES = "SELECT gen_random_uuid(), 'part', 'work', 1, now(), now(), ''"


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("", ""),
        (", client, parent, parent_attempt, chain, budget_ub", ", 'R', id, 1, ARRAY['A'], 1"),
        (", parent, parent_attempt, chain", ", id, 1, ARRAY['A']"),
        (", parent, parent_attempt, chain, budget_ub", ", id, 1, CAST('{}' AS text[]), 1"),
        (
            ", parent, parent_attempt, chain, budget_ub",
            f", id, 1, array_fill(CAST('A' AS text), ARRAY[{DEPTH_MAX + 1}]), 1",
        ),
        (", parent, parent_attempt, chain, budget_ub", ", id, 1, ARRAY['A'], -1"),
    ],
)
def test_the_database_refuses_half_a_subtask(
    fleet: Fleet, database_url: str, names: str, values: str
) -> None:
    submit(fleet.engine, fleet.now, to="whole")
    statement = f"{COLUMNS}{names}) {VALUES}{values} FROM task LIMIT 1"
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        as_owner(database_url, statement)


BROKEN = [
    ("UPDATE task SET budget_ub = 1 WHERE parent IS NOT NULL", "of a budget of 1"),
    ("UPDATE task SET chain = '{B,C,D,A}' WHERE parent IS NOT NULL", "for a part of its own task"),
    ("UPDATE task SET chain = '{C}' WHERE parent IS NOT NULL", "or by another than agent:C"),
]


def test_check_finds_what_no_subtask_may_be(fleet: Fleet, database_url: str) -> None:
    whole = working(fleet)
    (part,) = ask(fleet, whole)
    (saga,) = begun(fleet, [part.task])
    answer(fleet, saga.work.key)
    answer(fleet, whole)
    assert check.violations(fleet.engine) == []
    for statement, said in BROKEN:
        before = "UPDATE task SET chain = '{A}', budget_ub = 9900000 WHERE parent IS NOT NULL"
        plant(database_url, before, statement)
        found = check.violations(fleet.engine)
        assert [item.invariant for item in found] == ["C2"], found
        assert said in found[0].violation


def shown(database_url: str, redis_url: str, task: str, *options: str) -> str:
    """What `task show` prints."""
    program = CliRunner(env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    done = program.invoke(main, ["task", "show", task, *options])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_task_is_shown_with_its_parts(fleet: Fleet, database_url: str, redis_url: str) -> None:
    whole = working(fleet)
    one, two = (item.task for item in ask(fleet, whole, PART, PART))
    before = json.loads(shown(database_url, redis_url, whole.task, "--json"))
    assert before["budgets"] == [
        {"attempt": whole.attempt, "budget_ub": str(BUDGET_UB), "left_ub": str(BUDGET_UB)}
    ]
    sagas = begun(fleet, [one, two])
    answer(fleet, sagas[0].work.key)
    found = json.loads(shown(database_url, redis_url, whole.task, "--json"))
    paid = sagas[0].work.key.task
    states = [(row["task"], row["attempt"], row["state"], row["cost_ub"]) for row in found["parts"]]
    assert states == [
        (part, whole.attempt, *(("COMMITTED", "4000000") if part == paid else ("INIT", None)))
        for part in sorted((one, two))
    ]
    (budget,) = found["budgets"]
    assert budget["left_ub"] == str(BUDGET_UB - 8 * UB)  # one is paid, one holds as much
    said = shown(database_url, redis_url, whole.task)
    assert "parts that its agents had done by others" in said
    assert one in said
    assert two in said
    assert "1.900000" in said
    answer(fleet, sagas[1].work.key)
    answer(fleet, whole)
    fleet.drain()
    over = json.loads(shown(database_url, redis_url, whole.task, "--json"))
    assert [row["state"] for row in over["parts"]] == ["COMMITTED"] * 2
    assert (over["budgets"][0]["left_ub"], over["state"]) == ("0", "COMMITTED")
    assert json.loads(shown(database_url, redis_url, one, "--json"))["parts"] == []
