"""The whole product on real processes: it works, and no single death, duplicate or loss breaks it.

One stack serves all tests but the last; each leaves it as it found it. Invariants C1 to C5 and
C10 of the reliability rules, rows M04, M05, M06, M09, M41.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from celery import Celery
from kombu.entity import Queue

from ledger import accounts, check, intake
from ledger.intake import Submission
from tasks.messages import CHUNK_MAX
from tests.servers import scratch
from tests.stack import POOLS, Stack, await_true, clearlane, started
from tests.test_samples import command
from tests.test_samples import started as agent_process
from workers import home as homes
from workers.demo.gated import GatedAgent
from workers.demo.library import modules

pytestmark = pytest.mark.timeout(300)

CLIENT = "T"
STEPS = ("saga.reserve", "saga.execute", "saga.validate", "saga.commit", "saga.abort")
QUEUES = {**{step: step.removeprefix("saga.") for step in STEPS}, "saga.abort": "commit"}
ENCODED = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
GOOD = {"output": {"answer": 42}}

HEAD = f"""\
[[clients]]
id = "{CLIENT}"
mint = "100000000"
"""
LANE = """\
[[agents]]
id = "{name}"
kind = "{kind}"
url = "{url}"
y_max = 1000000
k = 1000
slots = {slots}
tools = ["{name}"]
[[families]]
id = "{name}"
size = 10
deadline_s = {deadline_s}
max_attempts = 5
tools = ["{name}"]
validator = {{ type = "none" }}
"""
LANES = {"slow": (4, 3), "hold": (4, 3), "gate": (100, 60)}  # slots, deadline_s


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """One agent per family of the same name: `echo`, `calm`, `slow`, `hold` and `gate`.

    echo and calm answer at once with their payload, slow after a while, hold never; gate when told
    to. An attempt at calm or gate is given up so late that none is while a test looks at it.
    """

    stack: Stack
    gate: GatedAgent
    hold_url: str

    def held(self) -> int:
        with urllib.request.urlopen(self.hold_url.replace("/run", "/held"), timeout=60) as answer:
            return int(json.load(answer)["held"])


@contextmanager
def configured(**urls: str) -> Iterator[Path]:
    """A configuration of the agents that have a URL, and of echo and calm."""
    text = HEAD
    for name, deadline_s in (("echo", 5), ("calm", 60)):
        text += LANE.format(name=name, kind="echo", url="echo:", slots=100, deadline_s=deadline_s)
    for name, url in urls.items():
        slots, deadline_s = LANES[name]
        text += LANE.format(name=name, kind="json", url=url, slots=slots, deadline_s=deadline_s)
    with scratch() as directory:
        path = directory / "fleet.toml"
        path.write_text(text)
        yield path


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with ExitStack() as opened:
        gate = opened.enter_context(GatedAgent())
        _, slow = opened.enter_context(agent_process(command("slow", "json")))
        _, hold = opened.enter_context(agent_process(command("hold", "json")))
        config = opened.enter_context(configured(slow=slow, hold=hold, gate=gate.url))
        options = ("--fleet", "sample", "--config", str(config))
        stack = opened.enter_context(started(CLIENT, *options))
        yield Fleet(stack=stack, gate=gate, hold_url=hold)


@pytest.fixture
def stack(fleet: Fleet) -> Iterator[Stack]:
    """The shared stack, whole before the test and whole after it."""
    # The supervisor looks only now and then whether a stopped process goes on.
    await_true(
        "every process runs",
        lambda: {entry["state"] for entry in fleet.stack.status().values()} == {"running"},
    )
    yield fleet.stack
    fleet.gate.hold()


@pytest.fixture
def broker(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.addresses["redis_url"], decode_responses=True) as client:
        yield client


@pytest.fixture
def celery(stack: Stack) -> Iterator[Celery]:
    """A sender beside the product's own; messages that the product never sends included."""
    with Celery(broker=stack.addresses["redis_url"], set_as_current=False) as app:
        app.conf.task_queues = [Queue(name) for name in QUEUES.values()]  # type: ignore[no-untyped-call]
        app.conf.task_routes = {step: {"queue": queue} for step, queue in QUEUES.items()}
        app.conf.task_ignore_result = True
        yield app


# It works -----------------------------------------------------------------------------------------


def test_the_sample_fleet_settles_real_tasks(stack: Stack) -> None:
    asked = [
        Submission(family="outline", payload={"name": path.stem, "source": path.read_text()})
        for path in modules(60)
    ]
    before = balance_ub(stack, "client:R")
    accepted = intake.submit(stack.context.engine, "R", asked, stack.context.now())
    rows = stack.ended([item.task for item in accepted], timeout_s=60)
    states = Counter(row["state"] for row in rows)
    assert states["COMMITTED"] >= 55, states  # the odd task meets five bad answers in a row
    assert set(states) <= {"COMMITTED", "QUARANTINED"}
    paid_ub = sum(row["cost_ub"] for row in rows if row["state"] == "COMMITTED")
    assert balance_ub(stack, "client:R") == before - paid_ub
    stack.check()


# What travels -------------------------------------------------------------------------------------


def test_messages_and_events_carry_ids_only(
    stack: Stack, fleet: Fleet, broker: redis.Redis
) -> None:
    marker = f"marker{uuid.uuid4().hex}"
    with broker.pubsub() as events:  # type: ignore[no-untyped-call]
        events.psubscribe("*")
        held = stack.submit("gate", 3, {"secret": marker})
        await_true("the calls are out", lambda: fleet.gate.waiting == 3)
        assert not [key for key, text in stored(broker) if marker in text]
        fleet.gate.release(GOOD)
        told = held
        for step in STEPS[:4]:
            # Stopped in the midst of work, a worker holds locks that the others wait for.
            stack.ended(told)
            await_true("nothing is in flight", lambda: stack.in_flight() == 0)
            told = told + stopped_at(stack, broker, step, marker)
        assert {row["state"] for row in stack.ended(told)} == {"COMMITTED"}
        stack.check()
        published = []
        while (message := events.get_message(timeout=0.5)) is not None:
            published.append(plain(str(message["data"])))
    assert any("saga.reserve" in text for text in published)
    assert not [text for text in published if marker in text]
    assert not [key for key, text in stored(broker) if marker in text], "it outlived its task"


def stopped_at(stack: Stack, broker: redis.Redis, step: str, marker: str) -> list[str]:
    """Let messages pile up before a stopped step, look at them, and let them go on."""
    queue, pid = QUEUES[step], stack.pids()[f"{QUEUES[step]}1"]
    tasks: list[str] = []
    os.kill(pid, signal.SIGSTOP)
    try:
        # The stopped worker may still be handed one or two; when two wait, no more are dispatched.
        while not broker.llen(queue):
            tasks += stack.submit("calm", 1, {"secret": marker})
            sent = len(tasks)
            await_true(
                f"task {sent} has arrived before {step}",
                lambda: reached(stack, broker, step, tasks) == sent,  # noqa: B023
            )
        waiting = await_true(f"{queue} is not empty", lambda: broker.lrange(queue, 0, -1))
        assert isinstance(waiting, list)
        for text in waiting:
            arguments, named, _ = json.loads(base64.b64decode(json.loads(text)["body"]))
            assert named == {}
            ((pairs,),) = [arguments]
            assert all(task in tasks and attempt == 1 for task, attempt in pairs), pairs
        assert {key.partition(":")[0] for key, text in stored(broker) if marker in text} <= {"saga"}
    finally:
        os.kill(pid, signal.SIGCONT)
    return tasks


def reached(stack: Stack, broker: redis.Redis, step: str, tasks: list[str]) -> int:
    """How many tasks were sent to a step that does not run."""
    if step == "saga.reserve":
        return sum(row["wait"] == "attempt" for row in stack.rows(tasks))
    kept = {"saga.execute": "sheet", "saga.validate": "reply", "saga.commit": "verdict"}[step]
    return sum(bool(broker.hexists(f"saga:{task}:1", kept)) for task in tasks)


def stored(broker: redis.Redis) -> list[tuple[str, str]]:
    """Every key of the broker with all it holds, encoded parts also in clear."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": broker.get,
        "list": lambda key: broker.lrange(key, 0, -1),
        "hash": broker.hgetall,
        "set": broker.smembers,
        "zset": lambda key: broker.zrange(key, 0, -1),
    }
    keys = [str(key) for key in broker.scan_iter()]
    found = [(key, str(broker.type(key))) for key in keys]
    return [(key, plain(str(readers[kind](key)))) for key, kind in found if kind in readers]


def plain(text: str) -> str:
    """The text, and what its encoded parts say."""
    parts = [text]
    for encoded in ENCODED.findall(text):
        padded = encoded.rstrip("=")
        decoded = base64.b64decode(
            padded + "=" * (-len(padded) % 4) if len(padded) % 4 != 1 else ""
        )
        parts.append(decoded.decode(errors="replace"))
    return "\n".join(parts)


def test_flower_shows_steps_and_workers_and_no_secret(stack: Stack) -> None:
    marker = f"marker{uuid.uuid4().hex}"
    stack.ended(stack.submit("echo", 3, {"secret": marker}))
    listed = await_true(
        "Flower has seen every step", lambda: steps_seen(fetched(stack, "api/tasks"))
    )
    workers = await_true("every worker has answered Flower", lambda: all_pools(stack))
    names = sorted(json.loads(workers))
    pages = [fetched(stack, path) for path in ("", "tasks", f"worker/{names[0]}")]
    hidden = [urlsplit(stack.addresses[name]).password for name in ("redis_url", "database_url")]
    for secret in (marker, *hidden):
        assert secret
        leaks = [text for text in (listed, workers, *pages) if secret in text]
        assert not leaks, leaks[0][max(0, leaks[0].find(secret) - 80) :][:80]


def test_flower_is_for_who_may_read_the_home(stack: Stack) -> None:
    for path in ("", "tasks", "api/tasks", "api/workers"):
        with pytest.raises(urllib.error.HTTPError) as told:
            fetched(stack, path, login="operator:guess")
        assert told.value.code == 401
    private = [stack.home / homes.FLOWER_LOGIN, stack.home / "flower"]
    assert [path.stat().st_mode & 0o077 for path in private] == [0, 0]


def steps_seen(listed: str) -> str | None:
    names = {task["name"] for task in json.loads(listed).values()}
    return listed if set(STEPS[:4]) <= names else None


def all_pools(stack: Stack) -> str | None:
    """Flower's page of workers if it names each; one that is slow to answer is left out."""
    listed = fetched(stack, "api/workers?refresh=1")
    names = sorted(name.partition("@")[0] for name in json.loads(listed))
    return listed if names == sorted(POOLS) else None


def fetched(stack: Stack, path: str, login: str | None = None) -> str:
    known = login or (stack.home / homes.FLOWER_LOGIN).read_text().strip()
    asked = urllib.request.Request(f"{stack.addresses['flower_url']}/{path}")
    asked.add_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return str(answer.read().decode())


# Twice, late, wrong -------------------------------------------------------------------------------


def test_messages_twice_late_and_malformed_change_nothing(
    stack: Stack, fleet: Fleet, broker: redis.Redis, celery: Celery
) -> None:
    before, balance = stack.pids(), balance_ub(stack, f"client:{CLIENT}")
    held = stack.submit("gate", 8)
    await_true("the calls are out", lambda: fleet.gate.waiting == 8)
    flowing = stack.submit("calm", 20)
    for _ in range(3):
        for step in STEPS:
            celery.send_task(step, args=[keys_of(stack, held)])
            celery.send_task(step, args=[keys_of(stack, flowing)])
    send_junk(celery, held[0])
    await_taken(broker)
    assert fleet.gate.waiting == 8, "an attempt was called twice, or given up"
    fleet.gate.release(GOOD)
    rows = stack.ended(held + flowing)
    assert {(row["state"], row["attempt"]) for row in rows} == {("COMMITTED", 1)}
    paid = [dict(row) for row in rows]
    for offset in (-1, 0, 1):
        for step in STEPS:
            late = [[row["id"], row["attempt"] + offset] for row in json_rows(rows)]
            celery.send_task(step, args=[late])
    send_junk(celery, held[0])
    await_taken(broker)
    assert stack.rows(held + flowing) == paid
    assert balance_ub(stack, f"client:{CLIENT}") == balance - sum(row["cost_ub"] for row in rows)
    assert stack.pids() == before, "a message ended a worker"
    stack.check()


def keys_of(stack: Stack, tasks: list[str]) -> list[list[Any]]:
    """[task, attempt] of each task that is on its way."""
    return [[row["id"], row["attempt"]] for row in json_rows(stack.rows(tasks)) if row["attempt"]]


def json_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": str(row["id"])} for row in rows]


def send_junk(celery: Celery, task: str) -> None:
    """What no version of the product ever sends, to every step."""
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    junk: list[Any] = [
        None, {}, "x", 7, True, [1], [[]], [[1, 2]], [["x", 1]], [["x" * 100_000, 1]],
        [[task]], [[task, 0]], [[task, -1]], [[task, "1"]], [[task, True]], [[task, 1.0]],
        [[task, 1, 1]], [[task, 10**9]], [[task, 2**31]], [[task, 2**70]], [{"task": task}],
        [[str(uuid.uuid4()), 1]], [[f"{task}\x00", 1]], [[task.upper(), 1]], [[]] * 64,
        [[task, 1]] * (CHUNK_MAX + 1), nested,
    ]  # fmt: skip
    for step in STEPS:
        for message in junk:
            celery.send_task(step, args=[message])
        celery.send_task(step, args=[])
        celery.send_task(step, args=[[[task, 10**9]], 1])
        celery.send_task(step, kwargs={"other": [[task, 10**9]]})
        celery.send_task(step, args=[[[task, 10**9]]], serializer="pickle")
        celery.send_task(step, args=[[[task, 10**9]]], compression="zlib")
        celery.send_task("saga.unknown", args=[[[task, 1]]], queue=QUEUES[step])


def await_taken(broker: redis.Redis) -> None:
    """Wait until every message that was sent has been dealt with."""
    queues = {*QUEUES.values(), "control"}
    await_true(
        "every message is taken",
        lambda: not any(broker.llen(queue) for queue in queues) and not broker.hlen("unacked"),
    )


def balance_ub(stack: Stack, account: str) -> int:
    return int(accounts.account(stack.context.engine, account)["balance_ub"])


# A task that takes its worker with it -------------------------------------------------------------


def test_a_task_that_kills_its_worker_is_given_up_and_its_neighbours_go_on(
    stack: Stack, fleet: Fleet
) -> None:
    (poison,) = stack.submit("hold", 1)
    neighbours: list[str] = []
    kills = 0
    while True:
        pid = stack.pids()["execute1"]  # first: the call may not last as long as it takes to ask
        await_true("it is called, or given up", lambda: fleet.held() or is_over(stack, poison))
        if is_over(stack, poison):
            break
        os.kill(pid, signal.SIGKILL)
        await_true("execute1 runs again", lambda: stack.is_back("execute1", pid))  # noqa: B023
        kills += 1
        await_true("its call is gone", lambda: fleet.held() == 0)
        neighbours += stack.submit("echo", 5)
    (row,) = stack.rows([poison])
    assert (row["state"], row["losses"]) == ("QUARANTINED", 3)
    assert "worker" in row["reason"]
    assert kills >= 3
    assert {row["state"] for row in stack.ended(neighbours)} == {"COMMITTED"}
    stack.check()


def is_over(stack: Stack, task: str) -> bool:
    return bool(stack.rows([task])[0]["state"] != "INIT")


# Deaths and losses --------------------------------------------------------------------------------


# Beat first: its successor waits for the dead one's lock while the others are killed.
@pytest.mark.timeout(400)
def test_no_process_killed_while_work_flows_loses_or_pays_anything_twice(stack: Stack) -> None:
    tasks: list[str] = []
    for victim in ("beat", *POOLS, "dispatcher"):
        tasks += stack.submit("slow", 8) + stack.submit("echo", 12)
        await_true(f"work flows before {victim} dies", stack.in_flight)
        stack.kill(victim)
    rows = stack.ended(tasks, timeout_s=60)
    assert Counter(row["state"] for row in rows) == {"COMMITTED": len(tasks)}
    stack.check()


@pytest.mark.parametrize("fault", ["postgres", "valkey", "flushall"])
def test_no_server_that_dies_while_work_flows_loses_or_pays_anything_twice(
    stack: Stack, broker: redis.Redis, fault: str
) -> None:
    tasks = stack.submit("slow", 12) + stack.submit("echo", 100)
    await_true("work flows", stack.in_flight)
    if fault == "flushall":
        broker.flushall()
    else:
        stack.kill(fault)
    # The first one after a death may meet a connection that died too: nothing was accepted then.
    tasks += await_true("tasks are accepted again", lambda: stack.submit("slow", 2))
    rows = stack.ended(tasks, timeout_s=60)
    assert Counter(row["state"] for row in rows) == {"COMMITTED": len(tasks)}
    stack.check()


# Its supervisor dies ------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_a_second_stack_outlives_its_supervisor_and_leaves_the_first_alone(stack: Stack) -> None:
    before = stack.pids()
    with ExitStack() as opened:
        _, slow = opened.enter_context(agent_process(command("slow", "json")))
        config = opened.enter_context(configured(slow=slow))
        other = opened.enter_context(started(CLIENT, "--config", str(config)))
        assert not set(other.pids().values()) & set(before.values())
        assert not {*other.addresses.values()} & {*stack.addresses.values()}
        tasks = other.submit("slow", 12) + other.submit("echo", 12)
        assert intake.task_rows(stack.context.engine, tasks) == {}
        await_true("work flows", other.in_flight)
        orphans = kill_supervisor(other)
        accepted = other.submit("echo", 5)  # the orphans still work
        other.up()
        assert not [process for process in orphans if process.is_running()]
        assert sorted(roots(other)) == sorted(other.pids().values()), "two sets of processes"
        rows = other.ended(tasks + accepted)
        assert {row["state"] for row in rows} == {"COMMITTED"}
        other.check()
        kill_supervisor(other)
        stopped = clearlane("down", "--data", str(other.home))
        assert stopped.returncode == 0, stopped.stderr
        assert other.processes() == []
    assert stack.pids() == before
    assert check.violations(stack.context.engine) == []


def kill_supervisor(stack: Stack) -> list[psutil.Process]:
    """kill -9; what is left behind without it."""
    supervisor = stack.supervisor()
    supervisor.kill()
    await_true("it is gone", lambda: supervisor not in stack.processes())
    left = stack.processes()
    assert len(left) >= len(POOLS)
    return left


def roots(stack: Stack) -> list[int]:
    """The processes that no other process of the stack but its supervisor has started."""
    supervisor = stack.supervisor()
    found = {process.pid: process for process in stack.processes() if process != supervisor}
    return [pid for pid, process in found.items() if process.ppid() not in found]
