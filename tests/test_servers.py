"""Embedded PostgreSQL and Valkey: durable, private, and back after any end."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from ledger.errors import BadInput
from tests.servers import await_ready, embedded_servers, running, scratch
from tests.stack import await_true
from workers import home as homes
from workers import leftovers, servers
from workers.servers import Server

ROOT = os.geteuid() == 0


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@contextmanager
def up(server: Server, home: Path) -> Iterator[int]:
    """The server while the block runs: its pid."""
    with running(server.process, home) as child:
        await_ready(server.process, home)
        yield child.pid


def ask(url: str, query: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return str(row[0])


def is_active(url: str, pid: int) -> bool:
    return (
        ask(url, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'")
        == "1"
    )


def test_what_is_acknowledged_is_on_disk(tmp_path: Path) -> None:
    with embedded_servers(tmp_path / "home") as (database_url, redis_url):
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "shared_buffers": "256MB",
            "max_connections": "200",
            "listen_addresses": "127.0.0.1",
            "server_encoding": "UTF8",
        }.items():
            assert ask(database_url, f"SHOW {name}") == value, name
        assert ask(database_url, "SHOW server_version").startswith("18.")
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            assert client.config_get("append*")["appendonly"] == "yes"
            assert client.config_get("append*")["appendfsync"] == "everysec"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_data_and_addresses_survive_an_orderly_restart(tmp_path: Path) -> None:
    with embedded_servers(tmp_path / "home") as (database_url, redis_url):
        with psycopg.connect(database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        with redis.Redis.from_url(redis_url) as client:
            client.set("kept", "42")
    with embedded_servers(tmp_path / "home") as again:
        assert again == (database_url, redis_url)
        assert ask(database_url, "SELECT answer FROM kept") == "42"
        with redis.Redis.from_url(redis_url) as client:
            assert client.get("kept") == b"42"


def test_nobody_gets_in_without_the_password(tmp_path: Path) -> None:
    with embedded_servers(tmp_path / "home") as (database_url, redis_url):
        secret = homes.read_json(tmp_path / "home" / homes.KEPT)
        wrong = database_url.replace(secret["postgres_password"], "guess")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong)
        wrong = redis_url.replace(secret["valkey_password"], "guess")
        with pytest.raises(redis.AuthenticationError), redis.Redis.from_url(wrong) as client:
            client.ping()


def test_no_password_can_be_read_by_other_users(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    made = [servers.postgres(home), servers.valkey(home)]
    kept = homes.read_json(home / homes.KEPT)
    secrets = [kept["postgres_password"], kept["valkey_password"]]
    for server in made:
        told = " ".join([*server.process.argv, *server.process.env.values()])
        assert not [secret for secret in secrets if secret in told]
    for path in (home / homes.KEPT, home / "valkey" / "valkey.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (home / "postgres.password").exists()


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    first = homes.port(home, "postgres")
    assert homes.port(home, "postgres") == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        second = homes.port(home, "postgres")
        assert second != first
        with pytest.raises(BadInput, match=f"CLEARLANE_GATEWAY_PORT: port {first} is taken"):
            homes.port(home, "gateway", first)
    assert homes.port(home, "postgres") == second


def test_several_homes_run_side_by_side(tmp_path: Path) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(embedded_servers(tmp_path / name)) for name in "ab"]
        assert len({url for pair in urls for url in pair}) == 4
        for database_url, redis_url in urls:
            assert ask(database_url, "SELECT 1") == "1"
            with redis.Redis.from_url(redis_url) as client:
                assert client.ping()


def test_postgres_recovers_from_kill_9_without_its_old_children(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    server = servers.postgres(home)
    with up(server, home) as pid:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        # A backend at work does not notice that its parent died: it would hold the data.
        busy = psycopg.connect(server.url, autocommit=True)
        backend = psutil.Process(busy.info.backend_pid)
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 10000000000)")
        await_true("it is at work", lambda: is_active(server.url, backend.pid))
        os.kill(pid, signal.SIGKILL)
    assert (home / "postgres" / "postmaster.pid").exists()
    try:
        assert leftovers.is_alive(backend)
        with up(server, home):
            assert not leftovers.is_alive(backend)
            assert ask(server.url, "SELECT answer FROM kept") == "42"
    finally:
        if leftovers.is_alive(backend):
            backend.kill()
        busy.close()


def test_a_pid_file_that_names_a_stranger_does_not_keep_postgres_down(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    server = servers.postgres(home)
    data = home / "postgres"
    who = server.process.user
    stranger = subprocess.Popen(["sleep", "60"], user=pwd.getpwnam(who).pw_uid if who else None)
    (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n0\n1\n\n127.0.0.1\n0 0\nready\n")
    with up(server, home):
        assert ask(server.url, "SELECT 1") == "1"
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_servers_that_are_still_alive_are_stopped_before_a_new_start(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    for server in (servers.postgres(home), servers.valkey(home)):
        with up(server, home) as old:
            before = psutil.Process(old)
            with up(server, home) as new:
                assert new != old
                assert not leftovers.is_alive(before)
                assert before not in leftovers.of(home)
    assert leftovers.of(home) == []


def test_only_servers_count_as_servers(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    (home / "postgres").mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=home / "postgres") as visitor:
        assert leftovers.reclaim(home) == 0
        assert visitor.poll() is None
        visitor.kill()


def test_valkey_keeps_what_it_wrote_before_kill_9(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    server = servers.valkey(home)
    with up(server, home) as pid, redis.Redis.from_url(server.url) as client:
        client.set("kept", "42")
        await_true(
            "it is in the file",
            lambda: b"42" in b"".join(p.read_bytes() for p in home.glob("valkey/*/*.incr.aof")),
        )
        os.kill(pid, signal.SIGKILL)
    with up(server, home), redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"42"


def test_a_cluster_that_was_only_half_made_is_made_again(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "PG_VERSION").write_text("18\n")
    server = servers.postgres(home)
    with up(server, home):
        assert ask(server.url, "SELECT 1") == "1"


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    home = homes.prepare(tmp_path / "home")
    servers.postgres(home)
    (home / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(BadInput, match="holds data of PostgreSQL 17"):
        servers.postgres(home)
    (home / "postgres" / "PG_VERSION").write_text("18\n")
    (home / homes.KEPT).unlink()
    with pytest.raises(BadInput, match=r"with the password of .* is missing"):
        servers.postgres(home)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"data directory: .* cannot be used: .*--data"):
        homes.prepare(tmp_path / "file" / "home")


@pytest.mark.skipif(not ROOT, reason="only root lends its servers another user")
def test_root_lends_its_servers_an_unprivileged_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = homes.prepare(tmp_path / "home")
    for server in (servers.postgres(home), servers.valkey(home)):
        with up(server, home) as pid:
            process = psutil.Process(pid)
            for member in (process, *process.children()):
                with suppress(psutil.NoSuchProcess):  # a worker that PostgreSQL had for a moment
                    assert member.uids().effective != 0
            assert process.gids().effective != 0
    # The user may pass through our directory but not look around in it.
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o701


@pytest.mark.skipif(not ROOT, reason="an ordinary user runs every other test")
def test_an_ordinary_user_can_run_them(tmp_path: Path) -> None:
    # As root first: that loads every module and opens the way to the binaries, which the
    # interpreter of the other user might not be allowed to read.
    with embedded_servers(tmp_path / "root"):
        pass
    nobody = pwd.getpwnam("nobody")
    place = tmp_path / "nobody"
    place.mkdir()
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            with embedded_servers(place / "home") as (database_url, _):
                (place / "answer").write_text(ask(database_url, "SELECT 42"))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (place / "answer").read_text() == "42"
    assert (place / "home" / "postgres").stat().st_uid == nobody.pw_uid
    assert stat.S_IMODE((place / "home").stat().st_mode) == 0o700
