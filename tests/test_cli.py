"""The program as people call it: real processes, real servers, exit codes and one-line errors."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from ledger import attempts, intake, leaves
from ledger.attempts import Waiting
from ledger.model import AttemptKey, Wait
from ledger.registry import apply
from ledger.settle import settle
from scheduler.reservations import Reservations
from tests import makers
from tests.makers import UB
from tests.program import COMMAND, Said
from workers.config import load_config

CONFIG = """\
[ledger]
tau = "0.01"
[[clients]]
id = "R"
mint = "2000"
[[agents]]
id = "A"
kind = "json"
url = "http://127.0.0.1:9/run"
y_max = 1000
k = 1000000
quota = "300"
headers = { authorization = "Bearer s3cr3t-s3cr3t" }
[[agents]]
id = "B"
kind = "echo"
y_max = 1000
k = 1000000
region = "eu"
[[families]]
id = "f"
size = 100
deadline_s = 5
max_attempts = 3
validator = { type = "none" }
region = "eu"
"""


OURS = {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "CLEARLANE_DATA"}


class Cli:
    """Runs `clearlane` in a directory of its own, with the servers of this test or with none."""

    def __init__(self, home: Path, **servers: str) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if k not in OURS} | servers

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Said:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.home,
            env=self.env,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.home,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refused(self, *arguments: str | Path, code: int = 2, stdin: bytes = b"") -> str:
        """Its one line on stderr."""
        said = self(*arguments, stdin=stdin)
        assert (said.code, said.out) == (code, ""), said
        assert said.err.count("\n") == 1, said.err
        return said.err.removeprefix("clearlane: ").rstrip("\n")


@pytest.fixture
def bare(tmp_path: Path, database_url: str, redis_url: str) -> Cli:
    """An installation with tables and nothing in them."""
    return Cli(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url)


@pytest.fixture
def cli(bare: Cli, engine: Engine) -> Cli:
    """An installation with client R, agents A and B, family f (which only B may take)."""
    file = bare.home / "c.toml"
    file.write_text(CONFIG)
    apply(engine, load_config(file), datetime.now(UTC))
    return bare


def task_count(engine: Engine) -> int:
    return sum(row["tasks"] for row in intake.task_counts(engine))


def pay(engine: Engine, key: AttemptKey, **values: Any) -> None:
    settle(
        engine,
        [makers.settlement(key, agent="B", **values)],
        now=datetime.now(UTC),
    )


def await_claims(engine: Engine, count: int) -> list[AttemptKey]:
    """Claim so many tasks, as the dispatcher does when it is told of them."""
    found: list[AttemptKey] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += makers.claim(engine, datetime.now(UTC))
    return found


# The program itself ----------------------------------------------------------------------------


def test_help_is_quick_and_names_every_command(tmp_path: Path) -> None:
    said = Cli(tmp_path)("--help")
    assert said.code == 0
    for name in ("up", "down", "status", "demo", "apply", "submit", "task", "agents", "ledger"):
        assert f"\n  {name} " in said.out
    script = "import sys, workers.cli; workers.cli.main(['--help'], standalone_mode=False);"
    script += "print(*{'sqlalchemy', 'celery', 'aiohttp', 'redis'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == ""


def test_version_and_unknown_commands(tmp_path: Path) -> None:
    assert Cli(tmp_path)("--version").out.startswith("clearlane, version ")
    said = Cli(tmp_path)("lunch")
    assert said.code == 2
    assert said.err == "clearlane: command: 'lunch' is not known; see `clearlane --help`\n"


def test_nothing_running(tmp_path: Path) -> None:
    for arguments in (["ledger", "balances"], ["task", "show", "x"], ["task", "list", "--json"]):
        said = Cli(tmp_path).refused(*arguments, code=1)
        assert "nothing is running" in said
        assert "clearlane up" in said


def test_a_wrong_database_url(bare: Cli) -> None:
    bare.env["DATABASE_URL"] = "mysql://x/y"
    assert bare.refused("ledger", "balances").startswith("DATABASE_URL: ")
    bare.env["DATABASE_URL"] = "postgresql://u:hunter2@127.0.0.1:1/d"
    said = bare.refused("ledger", "balances", code=1)
    assert said.startswith("postgresql: ")
    assert "check DATABASE_URL" in said
    assert "hunter2" not in said


def test_a_database_without_tables(bare: Cli, servers: Any) -> None:
    bare.env["DATABASE_URL"] = servers.database_url
    assert "does not hold this version's tables" in bare.refused("agents", "list", code=1)


def test_redis_away(cli: Cli) -> None:
    cli.env["REDIS_URL"] = "redis://127.0.0.1:1/0"
    assert cli.refused("prices", code=1).startswith("redis: ")


# Configuration ---------------------------------------------------------------------------------


def test_apply_says_what_it_changed_and_then_nothing(bare: Cli) -> None:
    file = bare.home / "c.toml"
    file.write_text(CONFIG)
    assert bare("apply", file).out.splitlines() == [
        "client R added",
        "agent A added",
        "agent B added",
        "family f added",
    ]
    assert bare("apply", file).out == "nothing to change\n"
    assert bare("apply", file, "--json").json == []
    file.write_text(CONFIG.replace('quota = "300"', 'quota = "400"').replace("2000", "9"))
    assert bare("apply", file, "--json").json == [{"change": "agent A changed"}]


def test_a_price_that_rounds_to_nothing_is_warned_of(bare: Cli) -> None:
    """Its tasks would be settled, and their agents get nothing."""
    file = bare.home / "c.toml"
    small = CONFIG.replace("size = 100", "size = 1").replace("y_max = 1000", "y_max = 1000000000")
    file.write_text(small)
    said = bare("apply", file)
    assert (said.code, said.err) == (
        0,
        "clearlane: warning: family f: its size, 1, costs 0 B on agent A and 1 more when idle; "
        "raise k there, or nobody is paid\n",
    )
    assert bare("apply", file).err == "", "nothing was changed"
    file.write_text(CONFIG)
    assert bare("apply", file).err == ""


def test_a_refused_file_changes_nothing(bare: Cli) -> None:
    file = bare.home / "c.toml"
    file.write_text(CONFIG.replace("deadline_s = 5", "deadline = 5"))
    said = bare.refused("apply", file)
    assert said.startswith(f"{file}:23: families.f.deadline: this key is unknown; use id, size")
    file.write_text(CONFIG.replace("size = 100", "size = 0"))
    assert bare.refused("apply", file).startswith(f"{file}:22: families.f.size: 0 is not possible")
    assert bare("agents", "list", "--json").json == []


def test_the_parameters_in_force(cli: Cli) -> None:
    found = {row["name"]: row["value"] for row in cli("ledger", "params", "--json").json}
    assert found["tau_ppm"] == 10_000
    assert found["routing"]["alpha"] == 0.3


# Agents ----------------------------------------------------------------------------------------


def test_agents_as_registered_without_their_secrets(cli: Cli) -> None:
    said = cli("agents", "list", "--json")
    assert "s3cr3t" not in said.out
    one, other = said.json
    assert one["agent"] == "A"
    assert one["quota_ub"] == "300000000"
    assert one["headers"] == ["authorization"]
    assert other["region"] == "eu"
    shown = cli("agents", "show", "B", "--json").json
    assert (shown["agent"], shown["y"], shown["cost_ub"]) == ("B", 1000.0, "111111111")
    assert "not known" in cli.refused("agents", "show", "C")
    table = cli("agents", "list").out
    assert "http://127.0.0.1:9/run" in table
    assert "s3cr3t" not in table


def test_suspend_and_resume(cli: Cli) -> None:
    assert cli("agents", "suspend", "B").code == 0
    assert [row["suspended"] for row in cli("agents", "list", "--json").json] == [False, True]
    assert {row["state"] for row in cli("prices", "--json").json} == {"open", "suspended"}
    assert cli("agents", "resume", "B").code == 0
    assert [row["suspended"] for row in cli("agents", "list", "--json").json] == [False, False]
    assert "not known" in cli.refused("agents", "suspend", "C")


def test_add_takes_agents_only(cli: Cli) -> None:
    file = cli.home / "more.toml"
    file.write_text('[[agents]]\nid = "C"\nkind = "echo"\ny_max = 10\nk = 1\n')
    assert cli("agents", "add", file).out == "agent C added\n"
    assert "[[agents]] and nothing else" in cli.refused("agents", "add", "c.toml")


def test_prices(cli: Cli) -> None:
    rows = cli("prices", "--size", "100", "--family", "f", "--json").json
    assert rows[0]["state"] == "unfit"
    assert "region eu" in rows[0]["reason"]
    assert rows[1] == {
        "agent": "B",
        "y": 1000.0,
        "y_max": 1000,
        "k": 1_000_000,
        "f": 0.0,
        "s": 1.0,
        "in_flight": 0,
        "cost_ub": "111111111",
        "price_ub": "111111111",
        "state": "open",
        "reason": "",
    }
    full = cli("prices", "--size", "1000", "--json").json[1]
    assert (full["state"], full["cost_ub"]) == ("full", None)
    assert cli.refused("prices", "--size", "0").startswith("size: 0 is not possible; use 1 to")
    assert "use one of those there are: f" in cli.refused("prices", "--family", "g")
    assert "111.111111" in cli("prices").out


# Submitting ------------------------------------------------------------------------------------


def test_submit_from_flags(cli: Cli, engine: Engine) -> None:
    said = cli("submit", "--client", "R", "--family", "f", "--payload", '{"a": 1}', "--count", "3")
    assert said.code == 0
    assert [line["state"] for line in said.lines] == ["INIT"] * 3
    assert len({line["task"] for line in said.lines}) == 3
    assert task_count(engine) == 3


def test_submit_with_a_key_twice_is_once(cli: Cli, engine: Engine) -> None:
    order = ("submit", "--client", "R", "--family", "f", "--payload", "1", "--key", "k")
    first = cli(*order, "--count", "2").lines
    assert cli(*order, "--count", "2").lines == first
    assert task_count(engine) == 2
    said = cli.refused(*order, "--count", "2", "--size", "7", code=5)
    assert "'k:1' was used for another task" in said
    # When it ends is no part of what was asked: it moves with the clock of whoever repeats it.
    assert cli(*order, "--count", "2", "--expires-s", "31622400").lines == first
    (row, _) = intake.task_list(engine)
    assert intake.task_row(engine, str(row["id"]))["expires_at"] is None


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--client", "X"), 2, "client: 'X' is not known"),
        (("--family", "g"), 2, "family: 'g' is not known; use one of: f"),
        (("--size", "-5"), 2, "size: -5 is not possible; use 1 to 1000000 tokens"),
        (("--payload", "{"), 2, "payload: is not JSON"),
        (("--payload", "NaN"), 2, "payload: holds a number that is not finite"),
        (("--type", "a b"), 2, "type: 'a b' is not possible"),
        (("--key", "\x07"), 2, "key: "),
        (("--key", "clé"), 2, "key: 'clé' is no key; use 1 to 200 characters of printable ASCII"),
        (("--payload", "9" * 5000), 2, "payload: holds an integer of more than 1000 digits"),
        (("--expires-s", "31622401"), 2, "--expires-s: "),
    ],
)
def test_impossible_flags(
    cli: Cli, engine: Engine, flags: tuple[str, str], code: int, said: str
) -> None:
    values = {"--client": "R", "--family": "f", "--payload": "1"} | {flags[0]: flags[1]}
    arguments = [part for pair in values.items() for part in pair]
    assert cli.refused("submit", *arguments, code=code).startswith(said)
    assert task_count(engine) == 0


@pytest.mark.parametrize("key", ["clé", "k" * 199])
def test_a_key_for_a_file_leaves_room_for_its_lines(cli: Cli, engine: Engine, key: str) -> None:
    order = ("submit", "-", "--client", "R", "--family", "f", "--key", key)
    assert cli.refused(*order, stdin=jsonl({"payload": 1})).startswith(f"key: '{key[:3]}")
    assert task_count(engine) == 0


def test_missing_flags(cli: Cli) -> None:
    assert cli.refused("submit", "--client", "R", "--payload", "1").startswith("family: it is miss")
    assert cli.refused("submit", "--client", "R", "--family", "f").startswith("payload: it is miss")


def jsonl(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def test_submit_a_file_twice_is_once(cli: Cli, engine: Engine) -> None:
    file = cli.home / "t.jsonl"
    file.write_bytes(
        jsonl(
            {"payload": 1},
            {"payload": 2, "size": 7, "type": "rare"},
            {"payload": 1},
            {"payload": 4, "key": "mine"},
        )
        + b"\n  \n"
    )
    order = ("submit", file, "--client", "R", "--family", "f")
    first = cli(*order).lines
    assert len({line["task"] for line in first}) == 4
    assert cli(*order).lines == first
    assert task_count(engine) == 4
    rows = intake.task_rows(engine, [line["task"] for line in first])
    assert [rows[line["task"]]["size"] for line in first] == [100, 7, 100, 100]
    again = cli(*order, "--key", "second-run").lines
    assert [a["task"] == b["task"] for a, b in zip(first, again, strict=True)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_stdin_more_than_a_batch_in_order(cli: Cli, engine: Engine) -> None:
    said = cli(
        "submit", "-", "--client", "R", "--family", "f",
        stdin=jsonl(*({"payload": number} for number in range(2345))),
    )  # fmt: skip
    assert said.code == 0
    tasks = [line["task"] for line in said.lines]
    payloads = attempts.payloads(engine, tasks)
    assert [payloads[task] for task in tasks] == list(range(2345))


def test_one_bad_line_and_nothing_is_submitted(cli: Cli, engine: Engine) -> None:
    lines = [json.dumps({"payload": number}) for number in range(2000)]
    lines[36] = '{"payload": '
    (cli.home / "t.jsonl").write_text("\n".join(lines))
    said = cli("submit", "t.jsonl", "--client", "R", "--family", "f")
    assert said.code == 2
    first, second = said.err.splitlines()
    assert first.startswith("clearlane: t.jsonl:37: line: is not JSON")
    assert second == "clearlane: nothing was submitted"
    assert task_count(engine) == 0


def test_every_bad_line_is_told(cli: Cli, engine: Engine) -> None:
    (cli.home / "t.jsonl").write_bytes(
        jsonl(
            {"payload": "x" * (2 << 20)},
            {"payload": 1, "size": -1},
            {"payload": 1, "family": "g"},
            {},
            {"payload": 1, "sise": 3},
            [1],
            {"payload": "\0"},
            {"payload": 1},
            {"payload": 1, "size": True},
            {"payload": "x" * (1 << 20)},
        )
        + b"\xff\n"
    )
    said = cli("submit", "t.jsonl", "--client", "R", "--family", "f")
    assert said.code == 2
    assert [line.removeprefix("clearlane: t.jsonl:")[:26] for line in said.err.splitlines()] == [
        "1: payload: 2097167 bytes ",
        "2: size: -1 is not possibl",
        "3: family: 'g' is not know",
        "4: payload: it is missing;",
        "5: sise: it is unknown; us",
        "6: line: it is not a JSON ",
        "7: line: holds a NUL chara",
        "9: size: True is not possi",
        "10: payload: 1048578 bytes",
        "11: line: is not JSON ('ut",
        "clearlane: nothing was sub",
    ]
    assert task_count(engine) == 0


def test_a_file_of_nothing_and_of_only_bad_lines(cli: Cli) -> None:
    order = ("submit", "-", "--client", "R", "--family", "f")
    assert cli.refused(*order, stdin=b"\n \n").startswith("stdin: it holds no tasks")
    said = cli(*order, stdin=b"?\n" * 50)
    assert said.code == 2
    assert said.err.splitlines()[-2:] == [
        "clearlane: 30 more lines are wrong",
        "clearlane: nothing was submitted",
    ]


def test_a_later_batch_that_fails_is_told(cli: Cli, engine: Engine) -> None:
    items: list[dict[str, Any]] = [{"payload": number} for number in range(1500)]
    items[1200]["key"] = "taken"
    makers.submit(engine, datetime.now(UTC), idempotency_key="taken")
    said = cli("submit", "-", "--client", "R", "--family", "f", stdin=jsonl(*items))
    assert said.code == 5
    assert len(said.lines) == 1000
    first, second = said.err.splitlines()
    assert "the first 1000 of 1500 tasks were accepted, the rest not; repeat" in first
    assert "'taken' was used for another task" in second


# Waiting ---------------------------------------------------------------------------------------


def but_waiting(err: str) -> str:
    """Without what is said to whom it takes long: on a slow machine that may be us."""
    return re.sub("^clearlane: still waiting for .*\n", "", err, flags=re.MULTILINE)


def test_wait_prints_what_came_out(cli: Cli, engine: Engine) -> None:
    program = cli.start(
        "submit", "--client", "R", "--family", "f", "--payload", "1", "--count", "2", "--wait"
    )
    first, second = sorted(await_claims(engine, 2))
    pay(engine, second, output={"n": 2})
    attempts.abort(engine, [makers.failure(first)], datetime.now(UTC))
    (again,) = await_claims(engine, 1)
    pay(engine, again, output={"text": "\x1b[31mred\x9b", "cost_ub": 5})
    out, err = program.communicate(timeout=60)
    assert (program.returncode, but_waiting(err)) == (0, "")
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "task": first.task,
            "state": "COMMITTED",
            "agent": "B",
            "attempts": 2,
            "cost_ub": "10000000",
            "reason": "passed",
            "result": {"text": "\x1b[31mred\x9b", "cost_ub": 5},  # its name, its number
        },
        {
            "task": second.task,
            "state": "COMMITTED",
            "agent": "B",
            "attempts": 1,
            "cost_ub": "10000000",
            "reason": "passed",
            "result": {"n": 2},
        },
    ]


def test_wait_exits_3_if_not_all_were_committed(cli: Cli, engine: Engine) -> None:
    program = cli.start("submit", "--client", "R", "--family", "f", "--payload", "1", "--wait")
    (key,) = await_claims(engine, 1)
    intake.cancel(engine, key.task, datetime.now(UTC))
    out, err = program.communicate(timeout=60)
    assert program.returncode == 3
    assert json.loads(out)["state"] == "CANCELLED"
    said = "1 of 1 tasks were not committed; `clearlane task show ID` says why"
    assert but_waiting(err) == f"clearlane: {said}\n"


def test_wait_has_an_end(cli: Cli) -> None:
    said = cli(
        "submit", "--client", "R", "--family", "f", "--payload", "1", "--wait", "--timeout", "0.2"
    )
    assert said.code == 3
    assert said.json["state"] == "INIT"


def test_ctrl_c_while_waiting_loses_no_ids(cli: Cli, engine: Engine, database_url: str) -> None:
    program = cli.start("submit", "--client", "R", "--family", "f", "--payload", "1", "--wait")
    (key,) = await_claims(engine, 1)
    _await(lambda: _listens(database_url))
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert json.loads(out) == {"task": key.task, "state": "INIT"}
    assert but_waiting(err) == "clearlane: interrupted\n"


def test_ctrl_c_in_an_exec_of_text_ends_with_our_exit_code(bare: Cli) -> None:
    # CPython remembers that one went unhandled there, whoever catches it further out.
    (bare.home / "halt.py").write_text(
        "import click\nhalt = click.command()(lambda: exec('raise KeyboardInterrupt'))\n"
    )
    (bare.home / "sitecustomize.py").write_text(
        "import workers.cli\nworkers.cli.COMMANDS['halt'] = 'halt:halt'\n"
    )
    bare.env["PYTHONPATH"] = str(bare.home)
    said = bare("halt")
    assert (said.code, said.err) == (130, "clearlane: interrupted\n")


def _listens(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'clearlane-listener' AND query LIKE 'LISTEN%'"
        )
        return found.fetchone() is not None


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Tasks -----------------------------------------------------------------------------------------


def wait_words(cli: Cli, engine: Engine, wait: Wait, **values: Any) -> str:
    """What `task show` says of a task that waits for this reason."""
    (task,) = makers.submit(engine, datetime.now(UTC), **values)
    # A suspension wakes the tasks of before, and they are claimed as well.
    (key,) = (key for key in makers.claim(engine, datetime.now(UTC)) if key.task == task)
    ready_ms = int(time.time() * 1000) + 3_600_000
    attempts.put_back(engine, [Waiting(key, wait, ready_ms)])
    found = cli("task", "show", key.task, "--json").json
    assert (found["state"], found["wait"]) == ("INIT", wait)
    words = str(found["why"]).split("; looked at again in ")[0]
    assert words.split(":")[0] in cli("task", "show", key.task).out  # the rest has the time in it
    return words


def test_why_a_task_waits(cli: Cli, engine: Engine, now: datetime) -> None:
    said = wait_words(cli, engine, Wait.CAPACITY, size=1000)
    assert said.startswith("no agent had room for 1000 tokens: ")
    assert "B is out (too small: 1000 tokens when idle, and it never gives its last)" in said
    said = wait_words(cli, engine, Wait.CREDIT)
    assert said == (
        "client R can spend 2000.000000 B (balance 2000.000000 B, quota 0.000000 B, 0.000000 B "
        "held by what is in flight) and the lowest price is 111.111111 B now (B); "
        "that is enough now"
    )
    cli("agents", "suspend", "B")
    said = wait_words(cli, engine, Wait.NO_AGENT)
    assert "A is out (is not in the family's region)" in said
    assert "B is out (suspended; `clearlane agents resume B` takes it back)" in said
    (task,) = makers.submit(engine, now)
    assert "dispatcher" in cli("task", "show", task, "--json").json["why"]
    makers.claim(engine, now)
    assert "attempt 1 is on its way" in cli("task", "show", task, "--json").json["why"]


def test_what_a_client_lacks_and_which_agents_rest(
    cli: Cli, engine: Engine, reservations: Reservations
) -> None:
    file = cli.home / "more.toml"
    file.write_text(
        '[[clients]]\nid = "poor"\nmint = "50"\nquota = "1"\n'
        '[[agents]]\nid = "C"\nkind = "echo"\nregion = "eu"\ny_max = 1000\nk = 1000000\n'
        "refill_per_s = 1\n"
    )
    assert cli("apply", file).code == 0
    said = wait_words(cli, engine, Wait.CREDIT, by="poor")
    assert "can spend 51.000000 B (balance 50.000000 B, quota 1.000000 B, 0.000000 B" in said
    assert "60.111111 B are missing" in said
    now_ms = int(time.time() * 1000)
    reservations.seed([makers.agent("B"), makers.agent("C", refill_per_s=1)], {}, now_ms)
    reservations.rest({"B": 3_600_000}, now_ms)
    reservations._redis.hset("pool:C", mapping={"y_mt": 20_000, "refilled_at_ms": now_ms})
    said = wait_words(cli, engine, Wait.COOLDOWN)
    assert re.search(r"B is out \(rests for \d+\.\d s, until \d\d:\d\d:\d\dZ\)", said), said
    assert re.search(r"C is out \([\d.]+ of 1000 tokens are free; at 1 a second there are", said), (
        said
    )


def test_each_agent_and_the_parts_of_its_price(
    cli: Cli, engine: Engine, reservations: Reservations, now: datetime
) -> None:
    file = cli.home / "more.toml"
    file.write_text('[[agents]]\nid = "C"\nkind = "echo"\nregion = "eu"\ny_max = 1000\nk = 1000000')
    assert cli("apply", file).code == 0
    reservations.seed([makers.agent(name) for name in "BC"], {}, int(time.time() * 1000))
    reservations._redis.hset("pool:C", mapping={"y_mt": 900_000, "f": 1.0, "s": 0.5})
    (task,) = makers.submit(engine, now)
    rows = {row["agent"]: row for row in cli("task", "show", task, "--json").json["agents"]}
    assert (rows["A"]["choice"], rows["A"]["obstacles"]) == ("out", ["region"])
    assert (rows["B"]["choice"], rows["B"]["congestion"], rows["B"]["price_ub"]) == (
        "first", 1.0, "111111111",
    )  # fmt: skip
    dear = rows["C"]
    assert (dear["choice"], dear["idle_ub"], dear["cost_ub"]) == (
        "dearer", "111111111", "138888888",
    )  # fmt: skip
    assert dear["congestion"] == pytest.approx(1.25)
    assert (dear["s"], dear["obstacles"]) == (0.5, [])
    shown = cli("task", "show", task).out
    assert "B is the first choice (111.111111 B = 111.111111 B for 100 tokens when idle" in shown
    assert re.search(r"C has [45]\S* × the price of B", shown), shown


def test_the_story_of_a_task(cli: Cli, engine: Engine, now: datetime) -> None:
    (task,) = makers.submit(engine, now)
    (first,) = makers.claim(engine, now)
    failure = makers.failure(
        first, reason="bad \x1b[2J text", latency_s=2.0, penalty=makers.jump((0.0, 5.0), (1.0, 0.7))
    )
    attempts.abort(engine, [failure], now)
    (second,) = makers.claim(engine, now)
    pay(engine, second, output="\x1b]0;title\x07")
    said = cli("task", "show", task.upper(), "--json")
    found = said.json
    assert (found["task"], found["state"], found["cost_ub"]) == (task, "COMMITTED", "10000000")
    assert found["why"] is None
    assert found["submitted_at"].endswith("Z")
    assert [(row["outcome"], row["f_after"], row["s_after"]) for row in found["attempts"]] == [
        ("garbage", 5.0, 0.7),
        ("ok", None, None),
    ]
    assert [row["what"].split(" (")[0] for row in found["timeline"]] == [
        "submitted by R",
        "attempt 1: A garbage after 2 s, ABORTED",
        "attempt 2: B ok after 0.1 s, COMMITTED",
        "ended: COMMITTED",
    ]
    assert "0.000001 B for 100 tokens" in found["attempts"][0]["price"]
    assert "risk f 0, quality s 1" in found["attempts"][0]["price"]
    shown = cli("task", "show", task)
    leaf = leaves.leaf_of(engine, task)
    assert found["leaf"] == leaf
    assert re.search(rf"^leaf +{leaf}$", shown.out, re.MULTILINE)
    assert (found["parts"], found["budgets"]) == ([], [])
    assert "parts" not in shown.out
    assert "bad [2J text" in shown.out
    assert "\x1b" not in shown.out
    assert "10.000000" in shown.out


def test_list_and_cancel(cli: Cli, engine: Engine, now: datetime) -> None:
    one, two, three = makers.submit(engine, now, 3)
    assert cli("task", "cancel", two).out == f"{two} is CANCELLED\n"
    rows = cli("task", "list", "--json").json
    assert [row["task"] for row in rows] == [three, two, one]
    page = cli("task", "list", "--limit", "1", "--before", three, "--json").json
    assert [row["task"] for row in page] == [two]
    assert [r["task"] for r in cli("task", "list", "--state", "cancelled", "--json").json] == [two]
    assert cli("task", "list", "--client", "nobody", "--json").json == []
    assert two in cli("task", "list").out
    (key,) = [key for key in makers.claim(engine, now) if key.task == one]
    pay(engine, key)
    assert "is COMMITTED" in cli.refused("task", "cancel", one, code=5)
    assert "is not a task id" in cli.refused("task", "show", "x")
    unknown = "0" * 8 + "-0000-7000-8000-" + "0" * 12
    assert "is not known" in cli.refused("task", "cancel", unknown)


# The ledger ------------------------------------------------------------------------------------


def settled(engine: Engine, now: datetime) -> AttemptKey:
    makers.submit(engine, now)
    (key,) = makers.claim(engine, now)
    pay(engine, key)
    return key


def test_balances_and_movements(cli: Cli, engine: Engine, now: datetime) -> None:
    key = settled(engine, now)
    found = {row.pop("account"): row for row in cli("ledger", "balances", "--json").json}
    assert found["client:R"] == {"balance_ub": "1990000000", "quota_ub": "0"}
    assert found["agent:B"] == {"balance_ub": "9900000", "quota_ub": "0"}
    assert found["system:burn"]["balance_ub"] == "100000"
    assert found["system:issuance"] == {"balance_ub": "-2000000000", "quota_ub": None}
    book = cli("ledger", "account", "client:R", "--json").json
    assert book["balance_ub"] == "1990000000"
    assert [(row["kind"], row["task"], row["amount_ub"]) for row in book["postings"]] == [
        ("settle", key.task, "-10000000"),
        ("mint", None, "2000000000"),
    ]
    leaf = leaves.leaf_of(engine, key.task)
    assert book["postings"][0]["leaf"] == leaf
    assert book["postings"][1]["leaf"] < leaf
    assert re.search(
        rf"settle .* -10\.000000 +{leaf} *$", cli("ledger", "account", "client:R").out, re.M
    )
    assert "1990.000000" in cli("ledger", "balances").out
    assert "-10.000000" in cli("ledger", "account", "client:R").out
    assert "not known" in cli.refused("ledger", "account", "R")


def test_check_holds(cli: Cli, engine: Engine, now: datetime) -> None:
    settled(engine, now)
    said = cli("ledger", "check", "--json")
    assert said.code == 0
    assert said.json["ok"] is True
    assert said.json["violations"] == []
    assert said.json["totals"]["minted_ub"] == "2000000000"
    assert said.json["totals"]["settlements"] == 1
    assert cli("ledger", "check").out.endswith("everything holds\n")


PLANTED = [
    ("C1", "account client:R", "UPDATE account SET balance_ub = 1 WHERE id = 'client:R'"),
    ("C1", "transaction 1", "DELETE FROM posting WHERE transaction = 1 AND account LIKE 'a%'"),
    ("C2", "task ", "DELETE FROM posting WHERE transaction = 1"),
    ("C2", "task ", "UPDATE task_result SET cost_ub = 1"),
    (
        "C4",
        "account client:R",
        "ALTER TABLE account DROP CONSTRAINT balance_within_quota;"
        " UPDATE account SET balance_ub = -5 WHERE id = 'client:R'",
    ),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_check_catches_what_was_planted(
    cli: Cli, engine: Engine, database_url: str, planted: tuple[str, str, str]
) -> None:
    invariant, subject, statement = planted
    settled(engine, datetime.now(UTC))
    makers.plant(database_url, *statement.split(";"))
    said = cli("ledger", "check", "--json")
    assert said.code == 1
    assert said.json["ok"] is False
    assert any(
        row["invariant"] == invariant and row["subject"].startswith(subject)
        for row in said.json["violations"]
    ), said.out
    told = cli("ledger", "check")
    assert told.code == 1
    assert any(line.startswith(f"{invariant} {subject}") for line in told.out.splitlines())


LEAKS: Sequence[tuple[str, str, tuple[str, str, int]]] = [
    ("C4", "account client:R", ("credit:client:R", "reserved_ub", 5)),
    ("C5", "agent B", ("pool:B", "in_flight", 1)),
    ("C5", "agent B", ("pool:B", "y_mt", 900_000)),
    ("C5", "agent B", ("pool:B", "y_mt", 1_000_001)),
]


@pytest.mark.parametrize(("invariant", "subject", "leak"), LEAKS)
def test_check_catches_leaks_once_nothing_is_in_flight(
    cli: Cli, reservations: Reservations, leak: tuple[str, str, int], invariant: str, subject: str
) -> None:
    client = reservations._redis
    reservations.seed([makers.agent("A"), makers.agent("B")], {}, int(time.time() * 1000))
    assert cli("ledger", "check").code == 0
    client.hset(*leak)
    said = cli("ledger", "check", "--json")
    assert said.code == 1
    assert [(row["invariant"], row["subject"]) for row in said.json["violations"]] == [
        (invariant, subject)
    ]
    client.zadd("leases", {"0190a0a0-0000-7000-8000-000000000000:1": 9e15})
    busy = cli("ledger", "check")
    assert busy.code == 0
    assert "1 attempts are in flight" in busy.out


def test_amounts_are_exact(cli: Cli) -> None:
    file = cli.home / "rich.toml"
    file.write_text('[[clients]]\nid = "rich"\nmint = "9000000000"\nquota = "0.000001"\n')
    assert cli("apply", file).code == 0
    found = {row["account"]: row for row in cli("ledger", "balances", "--json").json}
    assert found["client:rich"]["balance_ub"] == str(9_000_000_000 * UB)
    assert found["client:rich"]["quota_ub"] == "1"


ONE_TASK = ("--client", "R", "--family", "f", "--payload", "1")


@pytest.mark.parametrize("option", ["--expires-s", "--timeout"])
def test_a_time_that_is_no_number_is_refused(cli: Cli, option: str) -> None:
    said = cli.refused("submit", *ONE_TASK, "--wait", option, "nan")
    assert said == f"{option}: nan is no time; use a number of seconds, as 60"


def test_a_key_given_twice_in_a_file_is_refused_with_both_lines(cli: Cli) -> None:
    file = cli.home / "twice.jsonl"
    file.write_text('{"payload": 1, "key": "k"}\n{"payload": 2}\n{"payload": 3, "key": "k"}\n')
    said = cli("submit", file, "--client", "R", "--family", "f")
    assert (said.code, said.out) == (2, "")
    assert f"{file}:3: key: line 1 has the same; give each line its own" in said.err
    assert "nothing was submitted" in said.err


def test_who_waits_is_told_why(cli: Cli) -> None:
    with cli.start("submit", *ONE_TASK, "--wait") as program:
        assert program.stderr is not None
        said = program.stderr.readline()
        program.kill()
    assert "still waiting for " in said
    assert "the dispatcher takes it" in said


def test_a_bad_configuration_is_refused_before_anything_starts(cli: Cli) -> None:
    file = cli.home / "bad.toml"
    file.write_text("[routing]\nalpha = 7\n")
    home = cli.home / "stack"
    said = cli("up", "--detach", "--data", home, "--config", file)
    assert said.code == 2, said
    assert f"{file}:2: routing.alpha" in said.err
    assert not home.exists()


def test_a_file_with_a_mark_in_front_or_in_another_encoding(cli: Cli, engine: Engine) -> None:
    order = ("submit", "-", "--client", "R", "--family", "f")
    said = cli(*order, stdin=b"\xef\xbb\xbf" + jsonl({"payload": 1}))
    assert (said.code, len(said.lines)) == (0, 1), said
    wide = cli.refused(*order, stdin='{"payload": 2}\n'.encode("utf-16"))
    assert wide == "stdin: it is written in UTF-16 or UTF-32; save it as UTF-8"
    assert task_count(engine) == 1


def test_a_name_given_twice_in_an_object_is_refused(cli: Cli, engine: Engine) -> None:
    order = ("submit", "-", "--client", "R", "--family", "f")
    said = cli(
        *order, stdin=b'{"payload": 1, "payload": 2}\n{"payload": {"a": [{"b": 1, "b": 2}]}}'
    )
    assert said.code == 2
    first, second, _ = said.err.splitlines()
    assert "stdin:1: line: names a key twice in one object: 'payload'" in first
    assert "stdin:2: line: names a key twice in one object: 'b'" in second
    assert task_count(engine) == 0


def test_a_page_that_cannot_begin_there_names_its_option(cli: Cli) -> None:
    assert cli.refused("task", "list", "--before", "zz").startswith("--before: 'zz' is not a task")


def test_a_bar_for_people_leaves_programs_their_lines(cli: Cli) -> None:
    """Standard error is a terminal, standard output a pipe: as in `clearlane submit … | jq`."""
    mine, theirs = pty.openpty()
    program = subprocess.Popen(
        [*COMMAND, "submit", *ONE_TASK, "--count", "1500", "--wait", "--timeout", "0"],
        cwd=cli.home,
        env=cli.env | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = threading.Thread(target=_drain, args=(mine,), daemon=True)
    shown.start()
    out, _ = program.communicate(timeout=60)
    assert program.returncode == 3
    assert len([json.loads(line) for line in out.splitlines()]) == 1500


def _drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while os.read(descriptor, 65_536):
            pass


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "--family", "f", "--payload", "1", "--client", "\udcff"),
        ("task", "list", "--client", "\udcff"),
        ("ledger", "account", "client:\udcff"),
        ("tokens", "create", "--role", "viewer", "--principal", "\udcff"),
        ("tokens", "revoke", "\udcff"),
        ("up", "--data", "\udcff"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_everywhere(words: tuple[str, ...]) -> None:
    """As `$'\\xff'` in a shell: what Python makes of such bytes can be neither stored nor shown."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    reason = "udcff' is not text in this locale (utf-8); write it in UTF-8\n"
    assert done.stderr.startswith(f"clearlane: argument {len(words)}: ")
    assert done.stderr.endswith(reason)


def test_a_locale_that_cannot_hold_the_text_is_named(cli: Cli) -> None:
    done = subprocess.run(
        [*COMMAND, "submit", "--client", "R", "--family", "f", "--payload", '"é"'.encode()],
        env=cli.env | {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not text in this locale (ascii); set LC_ALL=C.UTF-8 or" in done.stderr


@pytest.mark.parametrize("words", [("agents", "list"), ("agents", "list", "--json"), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(cli: Cli, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *words], cwd=cli.home, env=cli.env, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    said = "clearlane: cannot write: No space left on device; make room, or write elsewhere\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_name_that_nobody_can_have_is_refused(cli: Cli) -> None:
    for name in ("", "no name"):
        refused = cli.refused("task", "list", "--client", name)
        assert refused.startswith(f"--client: {name!r} is no name; use 1 to 64 letters")


def test_an_empty_data_directory_is_the_default(tmp_path: Path) -> None:
    """Not the directory where one happens to stand."""
    done = subprocess.run(
        [*COMMAND, "status", "--data", ""],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "CLEARLANE_DATA"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"nothing is running in {tmp_path / '.clearlane'};" in done.stderr
