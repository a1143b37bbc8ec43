"""The cron table on the whole stack while beats, the broker and workers fail (row M01).

Three jobs of one second each, one a policy. Whatever happens, each of their slots has one row, ran
once or not at all as that row says, and what was missed is handled by its policy.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

import beat_schedule
from ledger import cron, epochs, lanes, leaves
from ledger.proof import entries
from scheduler.connection import connect
from tasks.context import Context
from tests.conftest import Servers
from tests.oneworker import environment
from tests.program import COMMAND
from tests.servers import await_ready, running, scratch
from tests.stack import SETTINGS, Stack, await_true
from workers import home as homes
from workers import servers as embedded
from workers.bootstrap import build_context
from workers.servers import Server
from workers.settings import Settings

JOBS: dict[str, dict[str, int]] = {"skip": {}, "coalesce": {}, "catch_up": {"bound": 3}}
SECOND = timedelta(seconds=1)
# An installation's own jobs: some that write down their slots, and those that a test runs by hand.
TABLE = """
import time
from pathlib import Path
from celery import shared_task

beat_schedule = {{
    policy: {{"task": "probe.tick", "schedule": 1.0, "lane": "probe", "misfire": policy,
             "limit_s": 5.0, **more}}
    for policy, more in {jobs!r}.items()
}}
beat_schedule["seldom"] = {{
    "task": "probe.tick", "schedule": "0 0 29 2 *", "lane": "probe", "misfire": "skip",
}}
beat_schedule["broken"] = beat_schedule["seldom"] | {{"task": "probe.broken"}}
beat_schedule["long"] = beat_schedule["seldom"] | {{"task": "probe.wait"}}
beat_schedule["slow"] = beat_schedule["long"] | {{"lane": "slow"}}
order = {{"client": "press", "family": "page", "payload": {{"number": 7}}}}
beat_schedule["feed"] = beat_schedule["seldom"] | {{
    "task": "cron.submit", "lane": "feed", "args": [order | {{"count": 3}}],
}}
beat_schedule["stranger"] = beat_schedule["feed"] | {{"args": [order | {{"client": "nobody"}}]}}

@shared_task(name="probe.wait", bind=True)
def wait(self):
    while not Path({log!r} + "." + self.request.headers["job"]).exists():
        time.sleep(0.02)

@shared_task(name="probe.broken")
def broken():
    raise RuntimeError("the mint is closed")

@shared_task(name="probe.tick", bind=True)
def tick(self):
    with open({log!r}, "a") as file:
        file.write("{{job}} {{slot}}\\n".format(**self.request.headers))
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A stack whose broker is a server of its own, which the test may stop."""

    stack: Stack
    broker: Server
    place: Path
    log: Path
    env: dict[str, str]
    context: Context

    def now(self) -> datetime:
        return self.context.now()

    def rows(self, job: str) -> list[dict[str, Any]]:
        return cron.history(self.context.engine, job, limit=10_000)[::-1]

    def ran(self) -> Counter[tuple[str, datetime]]:
        """(job, slot) of every time a body ran."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter((line.split()[0], datetime.fromisoformat(line.split()[1])) for line in lines)

    def await_running(self, job: str) -> None:
        """Until a run of a job has begun that somebody asked for."""
        await_true(
            f"{job} runs", lambda: any(row["state"] == "running" for row in self.rows(job))
        )  # fmt: skip

    def end(self, job: str) -> None:
        """Let a job that waits for it come to its end."""
        Path(f"{self.log}.{job}").touch()

    def looks(self) -> int:
        """How often the lanes were looked at."""
        return sum(row["state"] == "done" for row in self.rows("lanes"))

    def all_over(self, until: datetime) -> bool:
        """Whether every slot up to then is recorded and has ended."""
        known = cron.known(self.context.engine)
        return all(
            job in known
            and known[job]["seen"] >= until
            and all(row["ended_at"] for row in self.rows(job) if row["slot"] <= until)
            for job in JOBS
        )

    def await_done(self, after: datetime, count: int = 2) -> None:
        """Until so many later slots of each job have run."""
        await_true(
            f"{count} slots of each job have run since {after:%H:%M:%S}",
            lambda: all(
                sum(row["state"] == "done" and row["slot"] > after for row in self.rows(job))
                >= count
                for job in JOBS
            ),
            90,
        )

    def check(self) -> dict[str, Counter[str]]:
        """Each slot until now: one row, one end, and what the row says is what happened."""
        until = self.now()
        await_true("every slot has ended", lambda: self.all_over(until), 90)
        ran = self.ran()
        states: dict[str, Counter[str]] = {}
        for job in JOBS:
            rows = [row for row in self.rows(job) if row["slot"] <= until]
            began = rows[0]["slot"] - (rows[0]["slots"] - 1) * SECOND
            assert sum(row["slots"] for row in rows) == (rows[-1]["slot"] - began) // SECOND + 1
            assert len({row["slot"] for row in rows}) == len(rows)
            assert until - rows[-1]["slot"] < SECOND
            for row in rows:
                times = ran[job, row["slot"]]
                assert times == (row["state"] == "done") or (row["state"] == "failed"), row
                assert times <= 1, row
            _check_policy(job, rows)
            states[job] = Counter(row["state"] for row in rows)
        return states

    @contextmanager
    def beside(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another Celery process with the stack's servers."""
        with (self.place / "beside.log").open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "workers", *words],
                env=self.env, cwd=self.place, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def _check_policy(job: str, rows: Sequence[dict[str, Any]]) -> None:
    by_slot = {row["slot"]: row for row in rows}
    for row in rows:
        if row["state"] not in ("missed", "skipped"):
            continue
        named = re.search(r"made up by the run of (.{19})", row["reason"])
        assert (named is None) == (job == "skip"), row
        while named is not None:
            # It may itself have been made up for by a later one; in the end one ran.
            slot = datetime.fromisoformat(f"{named[1]}+00:00")
            assert slot > row["slot"]
            if slot > rows[-1]["slot"]:
                break  # later than what was looked at: it may still be running
            maker = by_slot[slot]
            named = re.search(r"made up by the run of (.{19})", maker["reason"])
            assert named or maker["state"] in ("done", "failed"), maker


@pytest.fixture(scope="module")
def bench(servers: Servers) -> Iterator[Bench]:
    with scratch() as place, ExitStack() as opened:
        place.chmod(0o755)
        url = f"{servers.database_url.rsplit('/', 1)[0]}/cron_stack"
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE cron_stack TEMPLATE template0")
        log, table = place / "ran", place / "jobs.py"
        table.write_text(TABLE.format(jobs=JOBS, log=str(log)))
        broker = embedded.valkey(homes.prepare(place / "broker"))
        given = {"CELERY_BROKER_URL": broker.url, "CLEARLANE_CRON_FILE": str(table)}
        env = environment(url, servers.redis_url, **given)
        addresses = {"DATABASE_URL": url, "REDIS_URL": servers.redis_url}
        context = build_context(Settings.model_validate({**addresses, "lease_margin_s": 1.0}))
        stack = Stack(
            home=place / "home", options=(), client="", addresses=addresses, context=context
        )
        found = Bench(
            stack=stack, broker=broker, place=place, log=log, env=env, context=context
        )  # fmt: skip
        opened.enter_context(broker_runs(found))
        words = ("--data", str(stack.home))
        try:
            _clearlane(env, "up", "--detach", "--fleet", "none", *words)
            found.await_done(found.now())
            yield found
        finally:
            _clearlane(env, "down", *words)
            context.engine.dispose()
            with psycopg.connect(servers.database_url, autocommit=True) as connection:
                connection.execute("DROP DATABASE cron_stack WITH (FORCE)")


_running: list[ExitStack] = []


@contextmanager
def broker_runs(bench: Bench) -> Iterator[None]:
    """The broker from now on; whoever stops it starts it again."""
    start_broker(bench)
    try:
        yield
    finally:
        stop_broker()


def start_broker(bench: Bench) -> None:
    opened = ExitStack()
    opened.enter_context(running(bench.broker.process, bench.place / "broker"))
    _running.append(opened)
    await_ready(bench.broker.process, bench.place / "broker")


def stop_broker() -> None:
    while _running:
        _running.pop().close()


def _clearlane(env: dict[str, str], *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """One command."""
    done = subprocess.run(
        [*COMMAND, *words], env={**env, **SETTINGS}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def locks(bench: Bench) -> redis.Redis:
    """The broker's own client, for RedBeat's lock."""
    return connect(bench.broker.url)


def said(bench: Bench, *words: str, code: int = 0) -> Any:
    """What `clearlane cron` prints for programs."""
    return json.loads(_clearlane(bench.env, "cron", *words, "--json", code=code).stdout)


def swept(bench: Bench) -> dict[str, dict[str, Any]] | None:
    """The table as it is shown, once the first run is over that comes after the start."""
    rows = {row["job"]: row for row in said(bench, "list")}
    return rows if rows["sweep"]["last_slot"] is not None else None


@pytest.mark.timeout(300)
def test_the_table_and_its_history_are_shown(bench: Bench) -> None:
    rows = await_true("the sweep has run", lambda: swept(bench))
    own = {*JOBS, "seldom", "broken", "long", "slow", "feed", "stranger"}
    assert set(rows) == {*own, *beat_schedule.beat_schedule}
    told = rows["catch_up"]
    assert (told["lane"], told["schedule"], told["misfire"]) == ("probe", "every 1 s", "catch_up 3")
    assert told["last_state"] in ("running", "done", "failed")
    assert rows["seldom"]["next_slot"] == "2028-02-29T00:00:00Z"
    coming = said(bench, "next", "skip", "--limit", "3")
    slots = [datetime.fromisoformat(row["slot"]) for row in coming]
    assert [slot - slots[0] for slot in slots] == [0 * SECOND, SECOND, 2 * SECOND]
    both = said(bench, "next", "--limit", "50")
    assert both == sorted(both, key=lambda row: (row["slot"], row["job"]))
    newest = said(bench, "history", "skip", "--limit", "2")
    assert newest[0]["slot"] > newest[1]["slot"]
    assert {row["principal"] for row in newest} == {"beat"}
    for words in ("list",), ("next",), ("history", "skip"):
        assert "probe" in _clearlane(bench.env, "cron", *words).stdout or words[0] == "history"
    refused = _clearlane(bench.env, "cron", "history", "nobody", code=2)
    assert refused.stderr == ("clearlane: job: 'nobody' is not known; see `clearlane cron list`\n")


@pytest.mark.timeout(300)
def test_a_job_runs_now_by_hand(bench: Bench) -> None:
    """Besides its slots: in its turn, or with the lane held, and then nothing else runs there."""
    row = said(bench, "run", "seldom", "--as", "bob")
    assert (row["state"], row["principal"]) == ("done", "bob")
    assert bench.ran()["seldom", datetime.fromisoformat(row["slot"])] == 1
    row = said(bench, "run", "broken", code=1)
    assert (row["state"], row["reason"]) == ("failed", "RuntimeError: the mint is closed")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(said, bench, "run", "long", "--lane-lock", "--as", "bob")
        bench.await_running("long")
        ran = bench.ran()
        await_true(
            "cron is held back",
            lambda: bench.rows("skip")[-1]["reason"] == "the lane was held by bob",
        )
        assert bench.ran() == ran, "something ran while bob held the lane"
        bench.end("long")
        assert run.result()["state"] == "done"
    bench.await_done(bench.now())
    tenures = lanes.history(bench.context.engine, "probe")
    mine = next(told for told in tenures if told["principal"] == "bob")
    assert (mine["reason"], mine["ended"]) == ("cron run long", "released")
    bench.check()


@pytest.mark.timeout(300)
def test_a_held_lane_is_refused_by_its_holders_name(bench: Bench) -> None:
    ask = lanes.Ask(principal="alice", reason="mint", lease_s=300)
    taken = lanes.take(bench.context.engine, "probe", ask, bench.now())
    try:
        for words in ("run", "seldom"), ("run", "seldom", "--lane-lock"):
            refused = _clearlane(bench.env, "cron", *words, code=5)
            assert "probe is held by alice since" in refused.stderr
        await_true(
            "cron is held back",
            lambda: bench.rows("skip")[-1]["reason"] == "the lane was held by alice",
        )
    finally:
        lanes.release(bench.context.engine, "probe", taken.token, bench.now())
    bench.await_done(bench.now())
    bench.check()


@pytest.mark.timeout(300)
def test_who_takes_a_lane_waits_for_the_job_that_runs_there(bench: Bench) -> None:
    engine = bench.context.engine
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(said, bench, "run", "slow")
        bench.await_running("slow")
        ask = lanes.Ask(principal="alice", reason="mint", lease_s=300)
        taken = lanes.take(engine, "slow", ask, bench.now())
        assert (taken.drained, taken.in_flight) == (False, 1)
        looks = bench.looks()
        await_true("lanes were looked at twice", lambda: bench.looks() >= looks + 2)
        assert not lanes.lane(engine, "slow", bench.now()).drained
        bench.end("slow")
        assert run.result()["state"] == "done", "what had begun ended in order"
    await_true(
        "the lane is granted", lambda: lanes.lane(engine, "slow", bench.now()).drained
    )  # fmt: skip
    lanes.release(engine, "slow", taken.token, bench.now())


@pytest.mark.timeout(300)
def test_a_job_submits_work_into_its_lane(bench: Bench) -> None:
    config = bench.place / "press.toml"
    config.write_text(
        '[[clients]]\nid = "press"\nmint = "10"\n'
        '[[families]]\nid = "page"\nsize = 10\n'
        'deadline_s = 5\nmax_attempts = 3\nvalidator = { type = "none" }\n'
    )
    _clearlane(bench.env, "apply", str(config))
    row = said(bench, "run", "feed")
    assert (row["state"], row["reason"]) == ("done", "")
    slot = datetime.fromisoformat(row["slot"])
    with psycopg.connect(bench.stack.addresses["DATABASE_URL"]) as connection:
        found = connection.execute(
            "SELECT lane, idempotency_key FROM task WHERE client = 'press' ORDER BY id"
        ).fetchall()
    assert found == [("feed", f"cron:feed:{slot.isoformat()}:{number}") for number in (1, 2, 3)]
    row = said(bench, "run", "stranger", code=1)
    assert row["reason"].startswith("client: 'nobody' is not known")


@pytest.mark.timeout(300)
def test_two_beats_and_one_killed(bench: Bench, locks: redis.Redis) -> None:
    """One stands by, one knows no lock and sends every hint a second time."""
    standby = ("beat", "-S", "workers.beat:Scheduler", "-l", "INFO")
    alone = ("beat", "-s", str(bench.place / "alone"), "-l", "INFO")
    with bench.beside(*standby), bench.beside(*alone):
        bench.await_done(bench.now(), 5)
        os.kill(bench.stack.pids()["beat"], signal.SIGKILL)
        bench.await_done(bench.now(), 5)
    # Both are killed: what the stack started again takes over when their lock has ended.
    locks.delete("redbeat::lock")
    bench.await_done(bench.now())
    states = bench.check()
    assert all(told["done"] >= 10 for told in states.values())


def epochs_last(bench: Bench, seconds: int) -> None:
    file = bench.place / "epochs.toml"
    file.write_text(f"[ledger]\nepoch_s = {seconds}\n")
    _clearlane(bench.env, "apply", str(file))


def closing(bench: Bench, epoch: int) -> dict[str, Any] | None:
    """The run that closed an epoch, once it is over."""
    at = epochs.epoch(bench.context.engine, epoch).closed_at
    over = [row for row in bench.rows("close_epoch") if row["ended_at"] and row["began_at"]]
    return next((row for row in over if row["began_at"] <= at <= row["ended_at"]), None)


@pytest.mark.timeout(300)
def test_an_epoch_that_is_over_is_closed_by_beat_once(bench: Bench) -> None:
    """Nobody else asks for it, and every hint comes twice."""
    engine = bench.context.engine
    epochs_last(bench, 1)
    try:
        first = epochs.opened(engine)
        with bench.beside("beat", "-s", str(bench.place / "twice"), "-l", "INFO"):
            await_true("two epochs are closed", lambda: epochs.opened(engine) >= first + 2)
    finally:
        epochs_last(bench, 86_400)
    both = (first, first + 1)
    runs = [await_true("its run is over", partial(closing, bench, epoch)) for epoch in both]
    assert {(run["state"], run["principal"]) for run in runs} == {("done", "beat")}
    assert runs[0]["slot"] < runs[1]["slot"]
    log = map(entries.decode, leaves.entries(engine, 0, leaves.size(engine)[0]))
    closed = Counter(leaf["epoch"] for leaf in log if leaf["type"] == "epoch_close")
    assert [closed[epoch] for epoch in both] == [1, 1]


@pytest.mark.timeout(300)
def test_the_broker_is_away_for_ten_seconds(bench: Bench, locks: redis.Redis) -> None:
    """With two beats, one of which nobody starts again, and without the lock afterwards."""
    standby = ("beat", "-S", "workers.beat:Scheduler", "-l", "INFO")
    with bench.beside(*standby):
        bench.await_done(bench.now())
        before = bench.now()
        stop_broker()
        # The hints stop, and everything else goes on.
        await_true("ten slots are over", lambda: bench.now() - before > 10 * SECOND)
        start_broker(bench)
        locks.delete("redbeat::lock")
        back = bench.now()
        bench.await_done(back)
    bench.check()
    away = [
        row for row in bench.rows("skip") if before + 3 * SECOND < row["slot"] < back - 3 * SECOND
    ]
    assert away
    assert {row["state"] for row in away} == {"missed"}
    assert {row["reason"] for row in away} == {"nobody came in time"}
    late = [
        row
        for row in bench.rows("catch_up")
        if row["slot"] > before and row["fired_at"] - row["slot"] > 2 * SECOND
    ]
    assert [row["state"] for row in late].count("done") >= 3, "the latest were made up for"


@pytest.mark.timeout(300)
def test_the_lock_of_redbeat_is_deleted(bench: Bench, locks: redis.Redis) -> None:
    """The beat that lost it takes it again, in the same process."""
    before = bench.stack.pids()["beat"]
    locks.delete("redbeat::lock")
    await_true("beat has its lock again", lambda: locks.exists("redbeat::lock"))
    bench.await_done(bench.now())
    assert bench.stack.pids()["beat"] == before
    bench.check()


@pytest.mark.timeout(300)
def test_the_worker_is_killed(bench: Bench) -> None:
    bench.stack.kill("control1")
    bench.await_done(bench.now())
    bench.check()
