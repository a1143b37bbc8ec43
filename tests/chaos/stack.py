"""One whole stack under load and faults: its servers behind proxies, its clock in the test's hand.

The servers belong to the test, which can therefore do to them what a supervisor would repair at
once; all other processes are started, kept and stopped by `clearlane up` and `clearlane down`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger import db
from scheduler.pool import MT, refill_mt
from tasks.context import Context
from tests.chaos.fleet_agents import Agent
from tests.chaos.fleet_clock import Clock
from tests.chaos.fleet_load import FAMILY, Load
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Managed
from tests.program import COMMAND
from tests.servers import scratch
from tests.stack import SETTINGS, await_true
from workers import home as homes
from workers import servers
from workers.audit import audit
from workers.bootstrap import build_context
from workers.locate import live_run
from workers.settings import Settings, sqlalchemy_url

SCALE = int(os.environ.get("CHAOS_SCALE", "0"))
"""0: a slice of a minute; 1: all there is, within some minutes; n: n times that."""
SEED = int(os.environ.get("CHAOS_SEED", "1"))
POOLS = ("reserve1", "execute1", "validate1", "commit1", "control1")
FRONT = ("dispatcher", "beat", "gateway")
DEADLINE_S, MARGIN_S, SWEEP_S = 2.0, 1.0, 2.0
# C11 allows 2 x (lease + sweep) = 10 s; the rest is for processes that still start again.
QUIET_S = 120.0
LANES = {"a": (0, 30), "b": (0, 10), "tide": (500, 10)}  # refill_per_s, slots

CONFIG = f"""\
[[clients]]
id = "T"
mint = "100000000"
[[families]]
id = "{FAMILY}"
size = 10
deadline_s = {DEADLINE_S:g}
max_attempts = 100
validator = {{ type = "json_schema", schema = {{ type = "object", required = ["n"] }} }}
"""
LANE = """\
[[agents]]
id = "{name}"
kind = "json"
url = "{url}"
y_max = 2000
k = 1000
refill_per_s = {refill_per_s}
slots = {slots}
"""


@dataclass(kw_only=True)
class Campaign:
    """A running stack, what it stands on, and what it was made to suffer."""

    home: Path
    env: Mapping[str, str]
    postgres: Managed
    valkey: Managed
    to_postgres: Proxy
    to_valkey: Proxy
    clock: Clock
    agent: Agent
    context: Context  # past the proxies, on the true clock
    kills: Counter[str] = field(default_factory=Counter)

    def run(self) -> dict[str, Any]:
        return live_run(self.home)

    def pids(self) -> dict[str, int]:
        """Processes that run, by name."""
        found = self.run().get("processes", [])
        return {item["name"]: item["pid"] for item in found if item["state"] == "running"}

    def started(self) -> dict[str, tuple[int, int]]:
        """Every process's pid and how often it was restarted; one that was paused may still be
        recorded as such."""
        found = self.run().get("processes", [])
        return {item["name"]: (item["pid"], item["restarts"]) for item in found}

    def said(self, name: str) -> str:
        """The end of a process's log."""
        return (self.home / "log" / f"{name}.log").read_text()[-3000:]

    def kill(self, name: str) -> None:
        """kill -9 a process of the stack once it runs, or a server, which is started again."""
        if name in ("postgres", "valkey"):
            server = self.postgres if name == "postgres" else self.valkey
            server.kill()
            server.start()
        else:
            await_true(f"{name} runs", lambda: name in self.pids(), QUIET_S)
            os.kill(self.pids()[name], signal.SIGKILL)
        self.kills[name] += 1

    @contextmanager
    def paused(self, *names: str) -> Iterator[None]:
        """SIGSTOP processes while the block runs."""
        pids = [pid for name, pid in self.pids().items() if name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # it was about to end when it was stopped
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def beside(
        self, *commands: tuple[str, ...], env: Mapping[str, str] | None = None
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """More processes on the same servers while the block runs; then kill -9."""
        with (self.home / "log" / "beside.log").open("ab") as log:
            started = [
                subprocess.Popen(
                    (sys.executable, "-m", *command),
                    env={**self.env, **(env or {})},
                    cwd=self.home,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for command in commands
            ]
        try:
            yield started
        finally:
            for process in started:
                process.kill()
                process.wait()

    def load(self, name: str, seed: int) -> Load:
        return Load(
            gateway_url=self.run()["gateway_url"],
            token=(self.home / "gateway.token").read_text().strip(),
            engine=db.connect(sqlalchemy_url(self.env["DATABASE_URL"])),
            name=f"{name}-{seed}",
            seed=seed,
        )

    def flow(self, load: Load, count: int) -> None:
        """Wait until `count` more tasks were accepted: faults fall into work under way."""
        wanted = len(load.told) + count
        await_true(f"{count} more tasks are accepted", lambda: len(load.told) >= wanted, QUIET_S)

    def await_text(self, path: Path, words: Sequence[str]) -> None:
        """Wait until a log says all of these."""
        await_true(
            f"{path} says {words}", lambda: all(word in path.read_text() for word in words), QUIET_S
        )

    def settle(self, load: Load) -> None:
        """Faults are off: everything ends, and all that was told is true (C1 to C5, C10, C11)."""
        load.finish(QUIET_S)
        assert load.wrong == [], f"clients met {load.wrong}"
        self._await_ended()
        await_true("nothing is in flight", lambda: self._in_flight() == 0, QUIET_S)
        await_true("every process runs", self._all_run, QUIET_S)
        await_true("every pool is full again", self._refilled, QUIET_S)
        self.context.engine.dispose()  # its connections may have died with a server
        found = audit(self.context)
        assert found.violations == []
        assert found.totals["settlements"] > 0, "an audit of nothing proves nothing"
        assert untrue(self.postgres, load) == []

    def _in_flight(self) -> int:
        return self.context.reservations.count_in_flight()

    def _refilled(self) -> bool:
        """C5, also of pools that fill by time alone."""
        agents = self.context.registry().agents
        pools, _ = self.context.reservations.look(list(agents))
        now_ms = self.context.now_ms()
        return all(
            pool.y_mt + refill_mt(pool, agents[name], now_ms) == agents[name].y_max * MT
            for name, (pool, _) in pools.items()
        )

    def _all_run(self) -> bool:
        return {item["state"] for item in self.run()["processes"]} == {"running"}

    def _await_ended(self) -> None:
        with suppress(AssertionError):
            await_true("all tasks have ended", lambda: not self._unfinished(), QUIET_S)
        left = self._unfinished()
        assert not left, (
            f"unfinished {QUIET_S:g} s after the last fault (C11): {self.picture(left)}"
        )

    def _unfinished(self) -> list[Any]:
        return self.postgres.sql(
            "SELECT id::text, wait, attempt, losses, ready_at - now(), reason, count(*) OVER ()"
            " FROM task WHERE state = 'INIT' ORDER BY ready_at LIMIT 3"
        )

    def picture(self, left: Any) -> str:
        """What a person needs to see why nothing moves."""
        with self.valkey.valkey() as client:
            names = ("reserve", "execute", "validate", "commit", "control")
            queues = {name: client.llen(name) for name in names}
            unacked = client.hlen("unacked")
        counts = self.postgres.sql("SELECT state, wait, count(*) FROM task GROUP BY 1, 2")
        pools, _ = self.context.reservations.look(list(LANES))
        busy = {name: (pool.in_flight, pool.y_mt) for name, (pool, _) in pools.items()}
        return (
            f"first {left}\ntasks {counts}\nqueues {queues}, unacked {unacked}\npools {busy}\n"
            f"in flight {self._in_flight()}, processes {sorted(self.pids())}"
        )


def untrue(postgres: Managed, load: Load) -> list[str]:
    """What clients were told and the ledger does not say, and the other way round (C10)."""
    rows = postgres.sql(
        "SELECT t.idempotency_key, t.id::text, t.state, r.cost_ub::text, r.output, b.payload"
        " FROM task t JOIN task_body b ON b.task = t.id"
        " LEFT JOIN task_result r ON r.task = t.id"
        " WHERE t.idempotency_key LIKE %s",
        [f"{load.name}-%"],
    )
    found = {row[0]: row for row in rows}
    wrong = [f"{key}: accepted, and nobody was told" for key in found.keys() - load.told.keys()]
    for key, told in load.told.items():
        if key not in found:
            wrong.append(f"{key}: told of {told.task}, which the ledger does not know")
            continue
        _, task, state, cost_ub, output, payload = found[key]
        said = (told.task, {"n": told.number}) == (task, payload)
        if told.state != "INIT":
            said = said and told.state == state
        if told.cost_ub is not None:
            said = said and (told.cost_ub, told.result) == (cost_ub, output)
        if not said:
            wrong.append(f"{key}: told {told}, recorded {found[key]}")
    return wrong


@contextmanager
def campaign(*, seed: int, agent: Agent | None = None) -> Iterator[Campaign]:
    """A whole stack with servers of its own, stopped at the end whatever happened to it."""
    with ExitStack() as opened:
        directory = opened.enter_context(scratch())
        place = homes.prepare(directory / "servers")
        postgres = opened.enter_context(Managed(servers.postgres(place), place))
        valkey = opened.enter_context(Managed(servers.valkey(place), place))
        to_postgres = opened.enter_context(Proxy(postgres.port))
        to_valkey = opened.enter_context(Proxy(valkey.port))
        clock = Clock(directory / "clock")
        answering = opened.enter_context(agent or Agent(seed=seed))
        env = {
            **os.environ,
            **SETTINGS,
            **clock.env,
            "CLEARLANE_RESTART_WINDOW_S": "60",
            "DATABASE_URL": _by(postgres, to_postgres),
            "REDIS_URL": _by(valkey, to_valkey),
            "CELERY_BROKER_URL": _by(valkey, to_valkey),
        }
        home = directory / "home"
        opened.callback(_clearlane, env, "down", "--data", str(home))
        _up(env, home, _config(directory, answering.url))
        context = build_context(
            Settings(database_url=postgres.url, redis_url=valkey.url, lease_margin_s=MARGIN_S)
        )
        opened.callback(context.engine.dispose)
        yield Campaign(
            home=home.resolve(),
            env=env,
            postgres=postgres,
            valkey=valkey,
            to_postgres=to_postgres,
            to_valkey=to_valkey,
            clock=clock,
            agent=answering,
            context=context,
        )


def _by(server: Managed, proxy: Proxy) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


def _config(directory: Path, url: str) -> Path:
    path = directory / "fleet.toml"
    lanes = [
        LANE.format(name=name, url=url, refill_per_s=refill_per_s, slots=slots)
        for name, (refill_per_s, slots) in LANES.items()
    ]
    path.write_text(CONFIG + "".join(lanes))
    return path


def _up(env: Mapping[str, str], home: Path, config: Path) -> None:
    done = _clearlane(env, "up", "--detach", "--data", str(home), "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr


def _clearlane(env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=env, capture_output=True, text=True, check=False, timeout=180
    )
