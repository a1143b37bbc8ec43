"""What a monitor reads: over real HTTP handlers, of real servers, after real steps."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from sqlalchemy import Engine

import tasks.messages
from ledger import checkpoints, epochs, gauges, intake
from ledger.db import sql
from ledger.errors import Unavailable
from ledger.model import TaskState, Wait
from ledger.proof.notes import LOG, Signer
from ledger.proof.policy import Policy
from ledger.settle import settle
from scheduler.connection import connect
from scheduler.queues import depths
from scheduler.reservations import Reservations
from scheduler.step_times import StepTimes
from tasks import reserve, sweep
from tasks.context import Context, bind
from tasks.notary import Notary
from tests.makers import UB, agent, claim, client, install, settlement, submit
from tests.oneworker import environment, one_worker
from tests.stack import await_true
from workers import tallies
from workers.celery import QUEUES
from workers.gateway import metrics
from workers.gateway.metrics import COST_SHARE, Source
from workers.tallies import SIZES, Tallies, histogram
from workers.watch import watch_over

NOWHERE = "redis://127.0.0.1:1/0"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"

Monkey = pytest.MonkeyPatch
Values = dict[tuple[str, tuple[str, ...]], float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    kind: str
    text: str


Browser = Callable[..., Answer]


@contextmanager
def served(context: Context, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    """The router as the gateway carries it, without who may read it."""
    url = context.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url.replace("+psycopg", ""))
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.setattr(metrics, "ANSWER_S", 60.0)  # a loaded machine is no stalled source
    app = FastAPI()
    app.state.service = SimpleNamespace(context=context)
    app.include_router(metrics.router)
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()

    def browse(path: str = "/metrics", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", bound.getsockname()[1], timeout=30)
        with closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            kind = response.headers["Content-Type"]
            return Answer(status=response.status, kind=kind, text=response.read().decode())

    try:
        yield browse
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def scraped(browse: Browser) -> Values:
    answer = browse()
    assert answer.status == 200
    assert answer.kind.startswith("text/plain; version=0.0.4")
    return {
        (
            sample.name.removeprefix("clearlane_"),
            tuple(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in plain(answer.text)
        for sample in family.samples
    }


def test_what_was_done_is_counted(
    context: Context, database_url: str, redis_url: str, tmp_path: Path, monkeypatch: Monkey
) -> None:
    engine, now = context.engine, context.now()
    install(engine, now, clients=[client("R"), client("poor", mint_b=0)], agents=[agent("A")])
    with one_worker(environment(database_url, redis_url), tmp_path / "log"):
        paid, broke = submit(engine, now, 3), submit(engine, now, 2, by="poor")
        (unwanted,) = submit(engine, now, 1, by="poor")
        intake.cancel(engine, unwanted, now)

        def ended() -> bool:
            rows = intake.task_rows(engine, [*paid, *broke])
            return all(rows[task]["state"] == "COMMITTED" for task in paid) and all(
                rows[task]["wait"] == Wait.CREDIT for task in broke
            )

        await_true("all have ended or wait", ended, 60)
    # Stopped in order: what the worker measured is at Redis.
    with served(context, redis_url, monkeypatch) as browser:
        found = scraped(browser)
    cost_ub = sum(row["cost_ub"] for row in intake.task_rows(engine, paid).values())
    assert found["settlements_total", ()] == 3
    assert found["ledger_transactions_total", ()] == 4
    assert found["minted_microcredits_total", ()] == 2000 * UB
    holders = ("clients", "agents", "commons")
    held_ub = {name: found["held_microcredits", (name,)] for name in holders}
    assert held_ub["clients"] == 2000 * UB - cost_ub
    assert sum(held_ub.values()) + found["burned_microcredits_total", ()] == 2000 * UB
    assert 0 < found["burned_microcredits_total", ()] < cost_ub
    assert found["tasks_unsettled_total", ("cancelled",)] == 1
    assert found["tasks_waiting", ("credit",)] == 2
    assert found["tasks_waiting", ("capacity",)] == 0
    assert 0 < found["oldest_waiting_age_seconds", ("credit",)] < 600
    assert found["tasks_in_flight", ()] == found["attempts_in_flight", ()] == 0
    assert found["agent_quality_ratio", ("A",)] == 1
    assert found["agent_capacity_free_tokens", ("A",)] == 1000
    assert found["agent_price_microcredits", ("A",)] > 0
    assert found["agent_state", ("A", "open")] == 1
    assert found["agent_state", ("A", "full")] == 0
    for step in ("execute", "validate", "commit"):
        assert found["step_chunk_seconds_count", (step,)] >= 1
        assert found["step_chunk_attempts_sum", (step,)] == 3
        assert found["step_attempt_seconds_count", (step,)] == 3
        assert found["step_attempt_seconds_bucket", ("+Inf", step)] == 3
    assert found["step_chunk_attempts_sum", ("reserve",)] >= 5
    assert found["step_failures_total", ("reserve",)] == 0
    assert found["task_seconds_count", ()] == 3
    assert 0 < found["task_seconds_sum", ()] < 600
    assert {labels[0] for name, labels in found if name == "queue_messages"} == set(QUEUES)
    assert all(found["source_up", (name,)] for name in SOURCES)


SOURCES = ("ledger", "log", "tasks", "fleet", "queues", "steps")


def test_what_is_under_way_is_counted(
    context: Context, redis_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(context.engine, now)
    submit(context.engine, now, 5)
    claim(context.engine, now, limit=2)
    queues = connect(redis_url)
    queues.lpush("reserve", "a message", "another")
    queues.hset("unacked", "tag", "a message that a worker holds")
    with served(context, redis_url, monkeypatch) as browser:
        found = scraped(browser)
    assert found["tasks_in_flight", ()] == 2
    assert found["tasks_waiting", ("dispatch",)] == 3
    assert 0 < found["dispatch_lag_seconds", ()] < 600
    assert found["queue_messages", ("reserve",)] == 2
    assert found["queue_messages", ("commit",)] == 0
    assert found["queue_held_messages", ()] == 1
    assert depths(queues, ["reserve"]).waiting == {"reserve": 2}


def test_a_server_that_is_away_is_told_and_hides_nothing_else(
    engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(engine, now)
    away = Context(
        engine=engine, reservations=Reservations(connect(NOWHERE)), lease_margin_s=1.0
    )  # fmt: skip
    with served(away, NOWHERE, monkeypatch) as browser:
        found = scraped(browser)
    up = {name: found["source_up", (name,)] for name in SOURCES}
    assert up == {"ledger": 1, "log": 1, "tasks": 1, "fleet": 0, "queues": 0, "steps": 0}
    assert found["minted_microcredits_total", ()] == 2000 * UB
    assert not any(name.startswith(("agent_", "queue_", "step_")) for name, _ in found)


def test_a_reader_of_openmetrics_gets_it(
    context: Context, redis_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(context.engine, now)
    with served(context, redis_url, monkeypatch) as browser:
        answer = browser(Accept="application/openmetrics-text; version=1.0.0")
        assert answer.kind.startswith("application/openmetrics-text")
        names = {family.name for family in openmetrics(answer.text)}
    assert {"clearlane_settlements", "clearlane_task_seconds"} <= names


def test_every_metric_is_described_and_named_as_the_monitor_expects(
    context: Context, redis_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(context.engine, now)
    signer = Signer(name="log.test/1", kind=LOG, seed=bytes([1] * 32))
    policy = Policy.parse("quorum none\n")
    context.notary = Notary(signer=lambda: signer, policy=lambda: policy)
    epochs.close(context.engine, 1, now)
    checkpoints.sign(context.engine, lambda: signer, now)
    checkpoints.settle_quorum(context.engine, checkpoints.newest(context.engine), policy, now)
    with served(context, redis_url, monkeypatch) as browser:
        families = list(plain(browser().text))
    names = set()
    for family in families:
        names.add(family.name + ("_total" if family.type == "counter" else ""))
        assert family.name.startswith("clearlane_"), family.name
        assert family.documentation, family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_attempts"))
    described = set(re.findall(r"^\| `(clearlane_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert described == names


class Counted:
    """A source that says how often it was asked."""

    def __init__(self, answer: Sequence[Metric] | Exception) -> None:
        self.asked = 0
        self.answer = answer

    def __call__(self) -> Sequence[Metric]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_scrapes_at_once_cost_one_reading() -> None:
    read = Counted([GaugeMetricFamily("g", "about", value=1)])
    source = Source(name="s", read=read)

    async def many() -> None:
        await asyncio.gather(*(source.refresh() for _ in range(5)))

    asyncio.run(many())
    assert read.asked == 1
    assert source.up


def test_a_dear_reading_is_kept_longer() -> None:
    read = Counted([])
    source = Source(name="s", read=read)
    asyncio.run(source.refresh())
    source.took_s = 1000 * COST_SHARE  # worth a thousand seconds
    source.read_at -= 900
    asyncio.run(source.refresh())
    assert read.asked == 1
    source.read_at -= 200
    asyncio.run(source.refresh())
    assert read.asked == 2


def test_a_source_that_comes_back_is_asked_again_soon() -> None:
    read = Counted(Unavailable("postgresql", "away", "wait"))
    source = Source(name="s", read=read, took_s=1000.0)
    asyncio.run(source.refresh())
    assert (source.up, source.took_s) == (False, 0.0)
    read.answer, source.read_at = [], source.read_at - 2
    asyncio.run(source.refresh())
    assert source.up


def test_a_source_that_hangs_ends_a_scrape_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ANSWER_S", 0.05)
    release = threading.Event()

    def hang() -> Sequence[Metric]:
        release.wait(60)
        return []

    async def scrape() -> Source:
        source = Source(name="s", read=hang)
        for _ in range(metrics.THREADS_MAX + 1):  # the last one finds no thread
            source.read_at = float("-inf")
            await source.refresh()
        release.set()
        return source

    assert asyncio.run(scrape()).up is False


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        ("gauge_waiting", ["task_ready"]),
        ("gauge_line", ["task_ready", "task_in_flight|task_ready"]),
        ("gauge_log", ["log_append_pkey", "log_checkpoint_pkey", "log_checkpoint_quorum"]),
        ("gauge_books", ["ledger_transaction_pkey", "ledger_transaction_other"]),
    ],
)
def test_what_has_ended_is_not_read_again(
    database_url: str, engine: Engine, now: datetime, statement: str, indexes: list[str]
) -> None:
    install(engine, now)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO task (id, client, family, type, size, state, wait, ready_at,"
            " submitted_at, ended_at, content_sha256)"
            " SELECT gen_random_uuid(), 'R', 'f', 'work', 1,"
            " CASE WHEN i % 100 = 0 THEN 'INIT' ELSE 'COMMITTED' END,"
            " CASE WHEN i % 100 = 0 THEN 'credit' END, now(), now(),"
            " CASE WHEN i % 100 > 0 THEN now() END, '' FROM generate_series(1, 20000) i"
        )
        connection.execute(
            "INSERT INTO ledger_transaction (id, kind, task, at)"
            " SELECT i, 'settle', gen_random_uuid(), now() FROM generate_series(1, 20000) i"
        )
        connection.execute(
            "INSERT INTO posting SELECT i, unnest('{client:R,agent:A}'::text[]), 1"
            " FROM generate_series(1, 20000) i"
        )
        connection.execute(
            "INSERT INTO log_append (size, first, epoch, at, entries, hashes, edge, root)"
            " SELECT i, i - 1, 1, now(), '', decode(repeat('00', 32), 'hex'), '', sha256('')"
            " FROM generate_series(100000, 120000) i"
        )
        connection.execute(
            "INSERT INTO log_checkpoint SELECT i, '', now(), CASE WHEN i % 2 = 0 THEN now() END"
            " FROM generate_series(100000, 120000) i"
        )
        connection.execute("ANALYZE")
        text = sql(statement)
        values = {"now": now} if "%(now)s" in text else None
        rows = connection.execute(f"EXPLAIN {text}", values).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert not re.search(
        r"Seq Scan on (task|ledger_transaction|posting|log_append|log_checkpoint)\b", plan
    ), plan
    for index in indexes:
        assert re.search(rf"using ({index})\b|on ({index})\b", plan), plan


def test_only_settlements_count_as_settlements(engine: Engine, now: datetime) -> None:
    install(engine, now)
    submit(engine, now, 2)
    settle(engine, [settlement(key) for key in claim(engine, now)], now=now)
    closed = epochs.close(engine, 1, now)
    assert closed is not None
    assert closed.totals is not None
    assert closed.totals.demurrage_ub > 0, "a transaction that is no settlement"
    books = gauges.books(engine)
    assert books.settlements == 2
    held_ub = books.clients_ub + books.agents_ub + books.commons_ub
    assert (held_ub + books.burned_ub, books.commons_ub) == (
        books.minted_ub,
        closed.totals.demurrage_ub,
    )


def test_the_gauges_agree_with_the_full_count(
    context: Context, engine: Engine, now: datetime
) -> None:
    install(engine, now)
    submit(engine, now, 4)
    cancelled = submit(engine, now, 1)[0]
    intake.cancel(engine, cancelled, now)
    claim(engine, now, limit=1)
    counted = {(row["state"], row["wait"]): row["tasks"] for row in intake.task_counts(engine)}
    waiting = {("INIT", str(reason)): item.tasks for reason, item in gauges.waiting(engine).items()}
    ended = {(str(state), None): tasks for state, tasks in gauges.unsettled(engine).items()}
    assert waiting | ended == counted
    assert gauges.unsettled(engine) == {TaskState.CANCELLED: 1}
    line = gauges.line(engine, now)
    assert (line.since, line.in_flight) == (now, 1)
    assert gauges.line(engine, now - timedelta(days=1)).since is None


def test_a_statement_that_only_looks_has_an_end(
    database_url: str, engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database_url) as holder, monkeypatch.context() as hurried:
        hurried.setattr(gauges, "LIMIT_MS", 50)
        holder.execute("LOCK TABLE task")
        with pytest.raises(Unavailable, match="statement timeout"):
            gauges.waiting(engine)
    assert gauges.waiting(engine) == {}


def test_processes_add_up(redis_url: str) -> None:
    shared = StepTimes(connect(redis_url))
    for sizes in ([1, 2], [3, 128, 500]):
        mine = Tallies(shared)
        for size in sizes:
            mine.observe("chunk_size:commit", size, SIZES)
        mine.observe("chunk_size:commit", 8, SIZES, times=2)
        mine.count("lost")
        mine.start()
        mine.close()
    counts = shared.read()
    assert counts["lost"] == 2
    found = histogram(counts, "chunk_size:commit", SIZES)
    assert found.total == 1 + 2 + 3 + 128 + 500 + 4 * 8
    assert dict(found.buckets) == {
        "1": 1, "2": 2, "4": 3, "8": 7, "16": 7, "32": 7, "64": 7, "128": 8, "256": 8, "inf": 9,
    }  # fmt: skip


class Flaky:
    """Step times of which the first is refused."""

    def __init__(self, shared: StepTimes) -> None:
        self.shared = shared
        self.refused = False

    def add(self, counts: dict[str, int]) -> None:
        if not self.refused:
            self.refused = True
            raise Unavailable("redis", "away", "wait")
        self.shared.add(counts)

    def read(self) -> dict[str, int]:
        return self.shared.read()


def test_what_redis_did_not_take_is_kept(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "FLUSH_S", 0.01)
    shared = Flaky(StepTimes(connect(redis_url)))
    mine = Tallies(shared)  # type: ignore[arg-type]
    mine.count("lost", 5)
    mine.start()
    await_true("it was taken", lambda: shared.read().get("lost") == 5)
    mine.close()
    assert shared.refused


class Outbox:
    """Celery's part: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[Any]]] = []

    def send_task(self, name: str, args: list[Any], **_shown: str) -> None:
        self.sent.append((name, args[0]))


def test_an_attempt_that_was_given_up_is_counted(
    engine: Engine, redis_url: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [now.timestamp()]
    reservations = Reservations(connect(redis_url))
    context = Context(
        engine=engine, reservations=reservations, lease_margin_s=1.0, clock=lambda: clock[0]
    )
    outbox = Outbox()
    monkeypatch.setattr(tasks.messages, "current_app", outbox)
    install(engine, now)
    submit(engine, now, 2)
    watch = watch_over(context, redis_url, {})
    bind(context)
    keys = claim(engine, now)
    message = [[key.task, key.attempt] for key in keys]
    watch.begin("saga.reserve", [message])
    reserve.reserve(message)
    watch.end(failed=False)
    reservations.begin(keys, "a worker that died", context.now_ms())
    clock[0] += 60  # its lease is over
    watch.begin("cron.sweep", [])
    sweep.sweep()
    watch.end(failed=True)
    watch.close()
    assert [step for step, _ in outbox.sent] == ["saga.execute", "saga.abort"]
    counts = StepTimes(connect(redis_url)).read()
    assert counts["lost"] == 2
    assert counts["failed:sweep"] == 1
    assert "failed:reserve" not in counts
    assert counts["chunk_size:reserve:le:2"] == 1
    assert counts["attempt_us:reserve:sum"] == 2 * counts["chunk_us:reserve:sum"]
