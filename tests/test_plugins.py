"""Packages of others, installed beside ours: built by pip, found by their entry points, and run in
the real flow, the good ones and the bad ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from sqlalchemy import Engine

import tasks.messages
from ledger import attempts, check, intake
from ledger.model import Wait
from tasks import abort, commit, execute, reserve, validate
from tasks.context import Context, bind
from tests.makers import agent, client, family, install, submit
from tests.servers import scratch
from tests.stack import started

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "shop"
STEPS: dict[str, Callable[[Any], None]] = {
    "saga.reserve": reserve.reserve,
    "saga.execute": execute.execute,
    "saga.validate": validate.validate,
    "saga.commit": commit.commit,
    "saga.abort": abort.abort,
}
BAD_HOOKS = """
import sys, threading, time
from scheduler.hooks import hookimpl

@hookimpl
def before_task(work):
    sys.exit(3)

@hookimpl
def after_task(reply):
    raise ValueError(f"\\x1b[2J{reply}")

@hookimpl
def on_validate(verdict):
    while True:
        try:
            threading.Event().wait()
        except Exception:
            pass
"""
BAD_VALIDATORS = """
import sys, time

def hang(payload, output):
    while True:
        try:
            time.sleep(1)
        except Exception:
            pass

def leave(payload, output):
    sys.exit()

def shout(payload, output):
    return "\\x1b[2J" + "x" * 10**7
"""
BAD_PROJECT = """
[build-system]
requires = ["setuptools>=75"]
build-backend = "setuptools.build_meta"
[project]
name = "bad"
version = "1.0"
[project.entry-points."clearlane.hooks"]
bad = "bad_hooks"
broken = "bad_nowhere"
[project.entry-points."clearlane.validators"]
hang = "bad_validators:hang"
quit = "bad_validators:leave"
shout = "bad_validators:shout"
[tool.setuptools]
py-modules = ["bad_hooks", "bad_validators"]
"""


def installed(source: Path, place: Path) -> Path:
    """Build and install a package as its user would, without a network; where it is now."""
    # Building leaves files beside the sources: not in ours.
    copy = shutil.copytree(source, place / "source")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--disable-pip-version-check", "--root-user-action=ignore",
         "--target", str(place / "site"), str(copy)],
        check=False, capture_output=True, text=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "site"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(EXAMPLE, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("sources")
    (source / "pyproject.toml").write_text(BAD_PROJECT)
    (source / "bad_hooks.py").write_text(BAD_HOOKS)
    (source / "bad_validators.py").write_text(BAD_VALIDATORS)
    return installed(source, tmp_path_factory.mktemp("bad"))


@pytest.fixture
def transport(context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    found = Transport(context.engine)
    monkeypatch.setattr(tasks.messages, "current_app", found)
    bind(context)
    yield found
    execute.finish_calls()


class Transport:
    """Celery's part, in one process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.messages: deque[tuple[str, list[Any]]] = deque()

    def send_task(self, name: str, args: list[Any], **_shown: str) -> None:
        self.messages.append((name, args[0]))

    def run(self, now: datetime) -> None:
        """Dispatch what is ready and deliver what follows."""
        claims = attempts.claim(
            self.engine, limit=128, hold={"default": 1000}, margin_s=60.0, now=now
        )
        tasks.messages.send("saga.reserve", [item.key for item in claims])
        while self.messages:
            name, message = self.messages.popleft()
            STEPS[name](message)
            if not self.messages:
                execute.finish_calls()


def bill(total: int) -> dict[str, Any]:
    return {"items": [1, 2], "total": total}  # an echo agent answers with its question


def test_the_example_package_vetoes_adjusts_and_judges(
    shop: Path, engine: Engine, now: datetime, transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(shop)
    judged_by_shop = {"type": "python", "entry": "bill"}
    install(
        engine,
        now,
        agents=[
            agent("cheap", k=10**4, tools=frozenset({"cheap"})),
            agent("dear", k=10**8, tools=frozenset({"dear"})),
        ],
        families=[
            family("bill", tools=frozenset({"cheap"}), max_attempts=1, validator=judged_by_shop),
            family("luxury", tools=frozenset({"dear"})),
        ],
        params={"routing": {"delta_f": 1.0, "f_max": 10.0}},
    )
    (right,) = one(engine, now, "bill", bill(3))
    (wrong,) = one(engine, now, "bill", bill(4))
    (dear,) = one(engine, now, "luxury", {})
    transport.run(now)
    row = intake.task_row(engine, right)
    assert (row["state"], row["output"]) == ("COMMITTED", bill(3))
    row = intake.task_row(engine, wrong)
    assert row["state"] == "QUARANTINED"
    (attempt,) = row["attempts"]
    assert attempt["reason"] == "bill: total is 4, not 3"
    assert attempt["f_after"] == pytest.approx(3.0), "1 by the built-in policy, 2 by the shop's"
    row = intake.task_row(engine, dear)
    assert (row["state"], row["wait"]) == ("INIT", Wait.CAPACITY), "beyond the shop's cap"
    assert check.violations(engine) == []


def one(engine: Engine, now: datetime, to: str, payload: Any) -> list[str]:
    asked = [intake.Submission(family=to, payload=payload)]
    return [accepted.task for accepted in intake.submit(engine, "R", asked, now)]


def test_a_package_that_means_harm_costs_its_own_answers_and_nobody_elses(
    bad: Path, engine: Engine, now: datetime, transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(bad)
    names = ("hang", "quit", "shout")
    install(
        engine,
        now,
        clients=[client(mint_b=10**6)],
        agents=[agent(y_max=10**6, slots=200)],
        families=[
            family("plain", size=1),
            *(
                family(name, size=1, max_attempts=1, validator={"type": "python", "entry": name})
                for name in names
            ),
        ],
    )
    plain = submit(engine, now, 60, to="plain")
    theirs = {name: submit(engine, now, 3, to=name) for name in names}
    with structlog.testing.capture_logs() as lines:
        transport.run(now)
    assert {intake.task_row(engine, task)["state"] for task in plain} == {"COMMITTED"}
    reasons = {
        name: {intake.task_row(engine, task)["attempts"][0]["reason"] for task in found}
        for name, found in theirs.items()
    }
    assert all(reason.startswith("validator hang broke: took") for reason in reasons["hang"])
    assert reasons["quit"] == {"validator quit broke: SystemExit"}
    (shout,) = reasons["shout"]
    assert shout.startswith("shout: [2Jxxx")
    assert len(shout) == 200
    said = [line["event"] for line in lines]
    assert said.count("hook plug-in switched off") == 1
    assert said.count("hook plug-in not loaded") == 1
    assert len(said) < 15
    assert all(str(value).isprintable() for line in lines for value in line.values())
    assert check.violations(engine) == []


CONFIG = """
[[clients]]
id = "R"
mint = "100000"
[[agents]]
id = "A"
kind = "echo"
y_max = 100000
k = 1000000
slots = 200
[[families]]
id = "plain"
size = 1
deadline_s = 30
max_attempts = 3
validator = { type = "none" }
[[families]]
id = "hang"
size = 1
deadline_s = 30
max_attempts = 1
validator = { type = "python", entry = "hang" }
"""


@pytest.mark.timeout(300)
def test_the_same_package_in_the_environment_of_real_workers(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their own main threads, where Celery has signals of its own."""
    monkeypatch.setenv("PYTHONPATH", str(bad))
    with scratch() as directory:
        config = directory / "plugins.toml"
        config.write_text(CONFIG)
        with started("R", "--fleet", "none", "--config", str(config)) as stack:
            before = stack.pids()
            theirs = stack.submit("hang", 3)
            plain = stack.submit("plain", 200)
            assert {row["state"] for row in stack.ended(plain, 120.0)} == {"COMMITTED"}
            rows = stack.ended(theirs, 120.0)
            assert {row["state"] for row in rows} == {"QUARANTINED"}
            assert all("hang broke: took longer than" in row["reason"] for row in rows)
            assert stack.pids() == before, "no worker had to be started again"
            stack.check()
            logs = {path.name: path.read_text() for path in (stack.home / "log").glob("*.log")}
    assert logs["validate1.log"].count("hook plug-in switched off") == 1
    assert logs["reserve1.log"].count("hook plug-in not loaded") == 1
