"""`clearlane up`, `status`, `down`: the whole product with one command (row M09)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.conftest import Servers
from tests.servers import scratch
from workers import home as homes
from workers import leftovers
from workers.settings import Settings
from workers.stack import plan

CLEARLANE = [sys.executable, "-m", "workers.cli"]
NAMES = ["reserve1", "execute1", "validate1", "commit1", "control1"]
FRONT = ["dispatcher", "beat", "flower", "gateway"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def clearlane(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"}
    }
    return subprocess.run(
        [*CLEARLANE, *arguments],
        env={**inherited, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.timeout(400)
def test_everything_starts_survives_kill_9_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        started = clearlane("up", "--detach", "--data", str(home))
        assert started.returncode == 0, started.stdout + started.stderr
        assert "gateway      http://127.0.0.1:" in started.stdout
        told = json.loads(clearlane("status", "--json", "--data", str(home)).stdout)
        assert set(told) == {"database_url", "redis_url", "gateway_url", "flower_url", "processes"}
        assert sorted(p["name"] for p in told["processes"]) == sorted(
            ["postgres", "valkey", *NAMES, *FRONT]
        )
        assert {p["state"] for p in told["processes"]} == {"running"}
        with psycopg.connect(told["database_url"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        with redis.Redis.from_url(told["redis_url"]) as client:
            assert client.ping()

        second = clearlane("up", "--data", str(home))
        assert second.returncode == 5
        assert "a stack already runs" in second.stderr

        supervisor = homes.owner(home)
        assert supervisor is not None
        os.kill(supervisor, signal.SIGKILL)
        left = leftovers.of(home)
        again = clearlane("up", "--detach", "--data", str(home))
        assert again.returncode == 0, again.stdout + again.stderr
        assert not [process for process in left if leftovers.is_alive(process)]
        with psycopg.connect(told["database_url"]) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        stopped = clearlane("down", "--data", str(home))
    assert stopped.returncode == 0, stopped.stderr
    assert leftovers.of(home) == []
    assert clearlane("down", "--data", str(home)).returncode == 1


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, servers: Servers) -> None:
    home = str(tmp_path / "home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = clearlane("up", "--data", home, CLEARLANE_GATEWAY_PORT=port)
    assert busy.returncode == 2
    assert f"CLEARLANE_GATEWAY_PORT: port {port} is taken" in busy.stderr
    same = clearlane(
        "up", "--data", home, CLEARLANE_GATEWAY_PORT="30999", CLEARLANE_FLOWER_PORT="30999"
    )
    assert same.returncode == 2
    assert "CLEARLANE_FLOWER_PORT: port 30999 is that of the gateway" in same.stderr
    assert not Path(home).exists(), "nothing was made"
    away = clearlane("up", "--data", home, DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/d")
    assert away.returncode == 1
    assert "DATABASE_URL: the server does not answer" in away.stderr
    (tmp_path / "file").touch()
    closed = clearlane("up", "--data", str(tmp_path / "file" / "home"))
    assert closed.returncode == 2
    unknown = clearlane("up", "--fleet", "none such")
    assert unknown.returncode == 2
    for refused in (busy, same, away, closed, unknown):
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "hidden" not in refused.stderr
    assert leftovers.of(tmp_path / "home") == []


def test_a_server_that_answers_and_refuses_is_told_from_one_that_is_away(
    tmp_path: Path, servers: Servers
) -> None:
    at = urlsplit(servers.database_url)
    redis_at = urlsplit(servers.redis_url)
    wrong: list[tuple[dict[str, str], str]] = [
        (
            {
                "DATABASE_URL": f"postgresql://{at.username}:hidden@127.0.0.1:{at.port}/{at.path[1:]}"
            },
            "DATABASE_URL: the server answers and does not let us in: ",
        ),
        (
            {"DATABASE_URL": f"{servers.database_url}_none"},
            "DATABASE_URL: the server answers and has no such database: ",
        ),
        (
            {"REDIS_URL": f"redis://:hidden@127.0.0.1:{redis_at.port}/0"},
            "REDIS_URL: the server answers and does not let us in: ",
        ),
        (
            {"REDIS_URL": f"redis://127.0.0.1:{redis_at.port}/0"},
            "REDIS_URL: the server answers and does not let us in: ",
        ),
        (
            {"REDIS_URL": servers.redis_url.replace("/0", "/99")},
            "REDIS_URL: the server answers and has no such database: ",
        ),
    ]
    for env, said in wrong:
        refused = clearlane("up", "--data", str(tmp_path / "home"), **env)
        assert refused.returncode == 2, refused.stderr
        assert refused.stderr.startswith(f"clearlane: {said}"), refused.stderr
        assert refused.stderr.count("\n") == 1
        assert "hidden" not in refused.stderr


def test_down_leaves_a_strange_directory_alone(tmp_path: Path) -> None:
    assert clearlane("down", "--data", str(tmp_path)).returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_given_servers_are_used_and_none_is_started(tmp_path: Path, servers: Servers) -> None:
    home = homes.prepare(tmp_path / "home")
    settings = Settings(
        database_url=servers.database_url, redis_url=servers.redis_url, commit_workers=2
    )
    prepared: list[str] = []
    stack = plan(settings, home, prepare=prepared.append)
    first = stack.stages[0]
    assert first.processes == ()
    assert first.then is not None
    first.then()
    assert prepared == [servers.database_url]
    processes = [process for stage in stack.stages for process in stage.processes]
    assert [p.name for p in processes] == [*NAMES[:4], "commit2", NAMES[4], *FRONT]
    for process in processes:
        assert process.env["DATABASE_URL"] == servers.database_url
        assert process.env["CELERY_BROKER_URL"] == servers.redis_url
        assert process.env["CLEARLANE_DATA"] == str(home)
        assert ("FLOWER_BASIC_AUTH" in process.env) == (process.name == "flower")
        assert "FLOWER_UNAUTHENTICATED_API" not in process.env


def test_flower_asks_for_a_login_that_stays_the_same(tmp_path: Path, servers: Servers) -> None:
    home = homes.prepare(tmp_path / "home")
    settings = Settings(database_url=servers.database_url, redis_url=servers.redis_url)
    kept = home / homes.FLOWER_LOGIN
    logins: list[str] = []
    prepared: list[str] = []
    for _ in range(2):
        stack = plan(settings, home, prepare=prepared.append)
        (flower,) = (p for stage in stack.stages for p in stage.processes if p.name == "flower")
        logins.append(flower.env["FLOWER_BASIC_AUTH"])
        assert kept.read_text() == f"{logins[-1]}\n"
        assert kept.stat().st_mode & 0o777 == 0o600
        kept.chmod(0o644)
    assert logins[0] == logins[1]
    user, _, password = logins[0].partition(":")
    assert (user, len(bytes.fromhex(password)) * 8) == ("operator", 192)
    assert password not in " ".join(flower.argv)
    assert (home / "flower").stat().st_mode & 0o777 == 0o700
