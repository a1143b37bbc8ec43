"""Jobs of an installation's own, and the task that lets them submit work (M01)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine

import beat_schedule
from ledger import cron
from ledger.cron import Run
from ledger.errors import BadInput
from scheduler.jobs import Job
from tasks import cron as cron_tasks
from tasks import submit
from tasks.context import Context, bind
from tests import makers
from tests.conftest import Servers
from workers import jobfile, stack
from workers.settings import Settings

SLOT = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDER = {"client": "R", "family": "f", "payload": {"n": 7}}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    jobfile._add.cache_clear()
    cron_tasks.add_jobs({})


def entry(order: object = ORDER, **values: object) -> dict[str, object]:
    given = {"task": "cron.submit", "schedule": 10.0, "lane": "default", "misfire": "skip"}
    return {**given, "args": [order], **values}


def read(path: Path, text: str) -> dict[str, Job]:
    path.write_text(text)
    return jobfile.cron_table(Settings(cron_file=path))


def test_jobs_of_a_file_stand_beside_ours(tmp_path: Path) -> None:
    table = read(tmp_path / "jobs", f"beat_schedule = {{'feed': {entry()!r}}}")
    assert set(table) == {"feed", *beat_schedule.beat_schedule}
    assert table["feed"].args == (ORDER,)
    assert cron_tasks.table() == table


def test_a_file_may_hold_its_own_task(tmp_path: Path) -> None:
    read(
        tmp_path / "jobs.py",
        "from dataclasses import dataclass\n"
        "from celery import shared_task\n"
        "beat_schedule = {}\n"
        "@dataclass\n"
        "class Page:\n"
        "    number: 'int'\n"
        "@shared_task(name='own.double')\n"
        "def double(number):\n"
        "    return Page(2 * number).number\n",
    )
    assert Celery("test", set_as_current=False).tasks["own.double"].apply([21]).result == 42


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no dict beat_schedule; write beat_schedule = {...}"),
        ("beat_schedule = []", "it has no dict beat_schedule"),
        ("beat_schedule = {", "it fails: SyntaxError"),
        ("1 / 0", "it fails: ZeroDivisionError: division by zero; correct it"),
        ("beat_schedule = {'a': 1}", "beat_schedule.a: 1 is no job; use a dict"),
        ("beat_schedule = {1: {}}", "beat_schedule.1: that is no name"),
        (f"beat_schedule = {{'sweep': {entry()!r}}}", "beat_schedule.sweep: a job of Clearlane"),
        (f"beat_schedule = {{'a': {entry(task=1)!r}}}", "beat_schedule.a.task: 1 is no Celery"),
        (f"beat_schedule = {{'a': {entry(args='x')!r}}}", "beat_schedule.a.args: 'x' is no list"),
        (f"beat_schedule = {{'a': {entry(misfire='no')!r}}}", "beat_schedule.a.misfire: 'no' is"),
        (f"beat_schedule = {{'a': {entry(args=[])!r}}}", "beat_schedule.a.args: cron.submit takes"),
        (f"beat_schedule = {{'a': {entry(1)!r}}}", "beat_schedule.a.args: cron.submit takes one"),
        (f"beat_schedule = {{'a': {entry({})!r}}}", "beat_schedule.a.args.client: it is missing"),
        (
            f"beat_schedule = {{'a': {entry(ORDER | {'family': 1})!r}}}",
            "beat_schedule.a.args.family: 1 is no name; give its id",
        ),
        (
            f"beat_schedule = {{'a': {entry(ORDER | {'lane': 'x'})!r}}}",
            "beat_schedule.a.args.lane: there is no such key; use client, family, payload, count",
        ),
        *(
            (
                f"beat_schedule = {{'a': {entry(ORDER | {'count': count})!r}}}",
                f"beat_schedule.a.args.count: {count!r} is no count; use 1 to 1000",
            )
            for count in (0, 1001, True, "3")
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path / "jobs.py", text)
    assert str(caught.value).startswith(f"{tmp_path / 'jobs.py'}: {said}")
    assert set(cron_tasks.table()) == set(beat_schedule.beat_schedule)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no\.py: it cannot be read: .*; name a readable file"):
        jobfile.cron_table(Settings(cron_file=tmp_path / "no.py"))


def carried_out(context: Context, job: Job) -> tuple[str, str]:
    """How a run of SLOT ends, whether it is the first or not: state and reason."""
    now = context.now()
    cron.know(context.engine, job.lane, {job.name: job.schedule.text}, now)
    run = cron.ask(context.engine, job.name, job.lane, "beat", now)
    assert cron.start(context.engine, job.lane, {job.name: 60.0}, now) == run
    app = Celery("test", set_as_current=False)
    cron_tasks.carry_out(context, app, job, run)
    row = cron.run_row(context.engine, run)
    assert row is not None
    return row["state"], row["reason"]


def submitted(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT lane, idempotency_key FROM task ORDER BY id")
        return [tuple(row) for row in found]


def test_a_slot_submits_its_tasks_once_however_often_it_runs(
    context: Context, tmp_path: Path
) -> None:
    makers.install(context.engine, context.now())
    bind(context)
    order = ORDER | {"count": 2}
    job = read(tmp_path / "jobs.py", f"beat_schedule = {{'feed': {entry(order, lane='m')!r}}}")[
        "feed"
    ]
    cron.know(context.engine, "m", {"feed": job.schedule.text}, SLOT)
    keys = [("m", f"cron:feed:2026-11-21T12:00:00+00:00:{number}") for number in (1, 2)]
    for _ in range(2):
        submit._submit(context, cron_tasks.Turn(job, Run("feed", SLOT)))
        assert submitted(context.engine) == keys
    assert carried_out(context, job) == ("done", "")
    assert len(submitted(context.engine)) == 4


def test_a_run_that_cannot_submit_says_why(context: Context, tmp_path: Path) -> None:
    makers.install(context.engine, context.now())
    bind(context)
    order = ORDER | {"family": "g"}
    table = read(tmp_path / "jobs.py", f"beat_schedule = {{'feed': {entry(order)!r}}}")
    state, reason = carried_out(context, table["feed"])
    assert state == "failed"
    assert reason.startswith("family: 'g' is not known")
    assert submitted(context.engine) == []


def test_a_message_of_others_submits_nothing(context: Context) -> None:
    makers.install(context.engine, context.now())
    bind(context)
    told = {"job": "feed", "slot": SLOT.isoformat()}
    assert submit.submit.apply([ORDER], headers=told).successful()
    assert submitted(context.engine) == []


def test_a_stack_with_a_wrong_file_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("beat_schedule = 1")
    settings = Settings(cron_file=tmp_path / "jobs.py")
    with pytest.raises(BadInput, match=r"jobs\.py: it has no dict beat_schedule"):
        stack.plan(settings, tmp_path / "home", prepare=lambda _: None)
    assert not (tmp_path / "home").exists()


def test_its_processes_find_the_file_wherever_they_stand(
    tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.py").write_text("beat_schedule = {}")
    addresses = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    settings = Settings.model_validate({**addresses, "cron_file": Path("jobs.py")})
    planned = stack.plan(settings, tmp_path, prepare=lambda _: None)
    found = [process for stage in planned.stages for process in stage.processes]
    assert {process.env["CLEARLANE_CRON_FILE"] for process in found} == {f"{tmp_path / 'jobs.py'}"}
