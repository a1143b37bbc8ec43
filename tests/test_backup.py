"""The documented commands bring the whole ledger, with its roles, to an empty server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import errors
from redis.exceptions import NoPermissionError
from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError

from ledger import check, db, intake, snapshots
from ledger.settle import settle
from scheduler.connection import connect
from scheduler.judgement import Judgement
from scheduler.pool import Pool
from scheduler.reservations import Reservations
from scheduler.snapshot import encode_snapshot
from scheduler.step_times import StepTimes
from tasks.context import Context
from tasks.reserve import _look
from tests import pgtools
from tests.makers import claim, client, family, install, plant, settlement, submit
from tests.oneworker import environment, one_worker
from tests.servers import embedded_servers, scratch
from tests.stack import await_true
from workers.settings import sqlalchemy_url

HOW_TO = Path(__file__).resolve().parent.parent / "docs" / "how-to"


def documented(page: str, language: str) -> list[str]:
    """The blocks of a page in one language, without what the tests of the docs run themselves."""
    text = re.sub(r"<!-- run -->\n```.*?```\n", "", (HOW_TO / page).read_text(), flags=re.DOTALL)
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """An empty database on a server that has never seen Clearlane."""
    with scratch() as directory, embedded_servers(directory) as (url, _):
        yield url


@pytest.fixture
def books(engine: Engine, now: datetime) -> list[str]:
    """Tasks that are settled, in flight, waiting and cancelled, and a judgement that was kept."""
    install(engine, now, clients=[client("R"), client("S", mint_b=5)], families=[family("f")])
    tasks = submit(engine, now, 6)
    keys = claim(engine, now, limit=4)
    settle(engine, [settlement(key) for key in keys[:3]], now=now)
    intake.cancel(engine, tasks[-1], now)
    pool, judged = Pool(y_mt=1, refilled_at_ms=1), Judgement(f=2.5, s=0.5, judged_at_ms=1)
    snapshots.save(engine, {"A": encode_snapshot(pool, judged)}, now)
    return tasks


def run(commands: list[str], place: Path, **env: str) -> str:
    script = "set -e\n" + "\n".join(commands)
    path = pgtools.environment(**env)
    path["PATH"] = f"{Path(sys.executable).parent}:{path['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def restored(database_url: str, redis_url: str, to: str, place: Path) -> None:
    """Follow the page from its first command to its last."""
    blocks = documented("back-up-and-restore.md", "console")
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    programs = [re.sub(r"^\w+=\S+ ", "", command).split()[0] for command in commands]
    assert programs == ["pg_dump", "psql", "pg_restore", "python", "clearlane", "clearlane"]
    run(commands, place, DATABASE_URL=database_url, REDIS_URL=redis_url, RESTORE_URL=to)


def test_a_dump_restores_to_a_whole_ledger_on_an_empty_server(
    books: list[str], database_url: str, redis_url: str, elsewhere: str, tmp_path: Path
) -> None:
    connect(redis_url).set("of another life", "1")
    before = db.connect(sqlalchemy_url(database_url))
    restored(database_url, redis_url, elsewhere, tmp_path)
    after = db.connect(sqlalchemy_url(elsewhere))
    assert check.violations(after) == []
    assert check.totals(after) == check.totals(before)
    assert check.totals(after)["settlements"] == 3
    assert intake.task_rows(after, books) == intake.task_rows(before, books)
    assert connect(redis_url).dbsize() == 0
    _goes_on(after, redis_url)
    _keeps_its_privileges(after)
    # The check that the page ends with does find what is wrong.
    plant(elsewhere, "UPDATE account SET balance_ub = balance_ub + 1 WHERE id = 'client:S'")
    env = {"DATABASE_URL": elsewhere, "REDIS_URL": redis_url}
    with pytest.raises(AssertionError, match="client:S"):
        run(["clearlane ledger check"], tmp_path, **env)
    for engine in (before, after):
        engine.dispose()


def _goes_on(engine: Engine, redis_url: str) -> None:
    """New work is accepted, old work is claimed, the agents are known as they were."""
    context = Context(
        engine=engine, reservations=Reservations(connect(redis_url)), lease_margin_s=1.0
    )
    submit(engine, context.now(), 1)
    assert len(claim(engine, context.now())) >= 2
    board, _ = _look(context, context.registry(), ["R"], context.now_ms())
    assert (board["A"][1].f, board["A"][1].s) == (2.5, 0.5)


def _keeps_its_privileges(engine: Engine) -> None:
    for statement in ("UPDATE posting SET amount_ub = 1", "DELETE FROM attempt", "DROP TABLE task"):
        with (
            pytest.raises(ProgrammingError, match="InsufficientPrivilege"),
            engine.begin() as connection,
        ):
            connection.exec_driver_sql(statement)


def test_a_role_that_runs_everything_owns_nothing(
    books: list[str], database_url: str, now: datetime
) -> None:
    """The documented login for all processes but `migrate`."""
    (statements,) = documented("scale-out-over-hosts.md", "sql")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statements.replace("PASSWORD '…'", "PASSWORD 'p'"))
        host = psycopg.conninfo.conninfo_to_dict(database_url)
        url = f"postgresql://clearlane_run:p@127.0.0.1:{host['port']}/{host['dbname']}"
        engine = db.connect(sqlalchemy_url(url))
        try:
            submit(engine, now, 1)
            settle(
                engine,
                [settlement(key) for key in claim(engine, now)],
                now=now,
            )
            _keeps_its_privileges(engine)
            with psycopg.connect(url) as plain:
                plain.execute("LISTEN clearlane_ended")  # as the dispatcher and the gateway do
                with pytest.raises(errors.InsufficientPrivilege):
                    plain.execute("SET ROLE clearlane")
        finally:
            engine.dispose()
            connection.execute("DROP OWNED BY clearlane_run")
            connection.execute("DROP ROLE clearlane_run")


def test_a_user_of_redis_without_administration_carries_all_work(
    engine: Engine, database_url: str, redis_url: str, now: datetime, tmp_path: Path
) -> None:
    """The documented rule, by which a worker and the dispatcher carry out a task."""
    (rule,) = documented("scale-out-over-hosts.md", "text")
    words = rule.replace(">PASSWORD", ">p").split()
    assert words[:2] == ["user", "clearlane"]
    owner = connect(redis_url)
    owner.execute_command("ACL", "SETUSER", *words[1:])
    url = re.sub(r"//:[^@]*@", "//clearlane:p@", redis_url)
    try:
        for command in ("FLUSHALL", "CONFIG GET requirepass", "ACL LIST", "SHUTDOWN"):
            with pytest.raises(NoPermissionError):
                connect(url).execute_command(*command.split())
        install(engine, now)
        with one_worker(environment(database_url, url), tmp_path / "log"):
            tasks = submit(engine, now, 3)
            await_true(
                "all are settled",
                lambda: (
                    {row["state"] for row in intake.task_rows(engine, tasks).values()}
                    == {"COMMITTED"}
                ),
                60,
            )
            beat = [sys.executable, "-m", "celery", "-A", "workers", "beat"]
            beat += ["-S", "workers.beat:Scheduler"]
            with subprocess.Popen(beat, env=environment(database_url, url)) as process:
                await_true("beat has its lock", lambda: owner.exists("redbeat::lock"), 60)
                await_true("it has sent a job", lambda: swept(owner), 60)
                process.terminate()
    finally:
        owner.execute_command("ACL", "DELUSER", "clearlane")


def swept(owner: redis.Redis) -> bool:
    """Whether a worker has carried out a job of beat's."""
    return StepTimes(owner).read().get("chunk_us:sweep:sum", 0) > 0
