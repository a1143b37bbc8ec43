"""Every command there is, found by walking the program: called wrongly, alone, and rightly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from ledger.registry import apply
from tests import makers
from workers.cli import main
from workers.config import load_config

CONFIG = """\
[[clients]]
id = "R"
mint = "2000"
[[agents]]
id = "A"
kind = "echo"
y_max = 1000
k = 1000000
[[families]]
id = "f"
size = 100
deadline_s = 5
max_attempts = 3
validator = { type = "none" }
"""
AGENTS = '[[agents]]\nid = "A"\nkind = "echo"\ny_max = 1000\nk = 1000000\n'

STANDS_ALONE = {
    *("up", "down", "status", "doctor", "demo", "migrate"),
    *("verify", "log verify", "log witnesses", "replica key", "replica run", "replica show"),
}
"""Commands that need no running stack, or say themselves that there is none."""

ELSEWHERE = {
    "status": "tests/test_up.py: it needs a whole stack",
    "demo": "tests/test_demo.py: it runs a whole stack",
    "doctor": "tests/test_doctor.py",
    "batch run": "tests/test_batch.py: it waits until the items have ended",
    "batch resume": "tests/test_batch.py",
    "log witnesses": "tests/test_log_cli.py: it needs a policy",
    "log key": "tests/test_log_cli.py: it needs a log",
    "log verify": "tests/test_log_cli.py: it needs a receipt",
    "verify": "tests/test_log_cli.py: it needs a receipt",
    "replica show": "tests/test_replica_process.py: it needs a replica's state",
    "cron run": "tests/test_cron_stack.py: it waits until the job has ended",
}
"""Commands whose --json is tested there."""


def commands(group: click.Group = main, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


ALL = dict(commands())


def _has_json(name: str) -> bool:
    return any(option.name == "as_json" for option in ALL[name].params)


WITH_JSON = [name for name in ALL if _has_json(name) and name not in ELSEWHERE]
OPTIONS = [
    (name, option)
    for name, command in ALL.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
]
TYPED = [
    (name, max(option.opts, key=len))
    for name, option in OPTIONS
    if isinstance(option.type, click.Choice | click.types.IntParamType | click.types.FloatParamType)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with nothing running in it, and an environment that names no server."""
    for name in ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "CLEARLANE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "agents.toml").write_text(AGENTS)
    (tmp_path / "items.jsonl").write_text('{"payload": 1, "key": "k"}\n')
    return tmp_path


@pytest.fixture
def installed(
    place: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine, database_url: str, redis_url: str
) -> Path:
    """The same, with the servers of this test and client R, agent A and family f in them."""
    apply(engine, load_config(place / "c.toml"), datetime.now(UTC))
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    return place


def run(name: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*name.split(), *arguments])


def one_line(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("clearlane: "), result.stderr
    return result.stderr.removeprefix("clearlane: ").rstrip("\n")


def needed(name: str, task: str = "0" * 32) -> list[str]:
    """Values for what the command cannot do without."""
    if name == "submit":
        return ["--client", "R", "--family", "f", "--payload", "1"]
    if name == "tokens create":
        return ["--role", "operator", "--principal", "p"]
    if name == "lanes lock":
        return ["default", "--reason", "why"]
    if name == "lanes release":
        return ["default", "--as", "p"]
    if name == "batch run":
        return ["--lane", "default", "--file", "items.jsonl", "--client", "R", "--family", "f"]
    values = {
        "LANE": "default",
        "NUMBER": "1",
        "TASK_ID": task,
        "TASK_OR_INDEX": "0",
        "JOB": "sweep",
        "AGENT": "A",
        "NAME": "client:R",
        "TOKEN_ID": task,
    }
    file = "agents.toml" if name == "agents add" else "c.toml"
    return [
        {**values, "FILE": file}.get(str(item.name).upper(), "x")
        for item in ALL[name].params
        if isinstance(item, click.Argument) and item.required
    ]


def test_there_are_commands() -> None:
    assert {"up", "task show", "agents list", "ledger check", "doctor"} <= ALL.keys()
    assert len(TYPED) > 5


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_it_does_and_what_each_option_means(place: Path, name: str) -> None:
    said = run(name, "--help")
    assert (said.exit_code, said.stderr) == (0, "")
    assert len(ALL[name].help or "") > 20
    for option in ALL[name].params:
        if isinstance(option, click.Option) and option.name not in ("limit",):
            assert option.help, f"{name} --{option.name}"


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_option_is_one_line(place: Path, name: str) -> None:
    said = one_line(run(name, "--no-such-option"))
    assert said.startswith("--no-such-option: it is not known here; ")
    assert said.endswith(f"see `main {name} --help`")  # the program's name is the runner's


@pytest.mark.parametrize(("name", "option"), TYPED)
def test_a_value_of_the_wrong_kind_names_its_option(place: Path, name: str, option: str) -> None:
    said = one_line(run(name, *needed(name), option, "no-such-value"))
    assert said.startswith(f"{option}: 'no-such-value' is not ")


@pytest.mark.parametrize("name", sorted(ALL.keys() - STANDS_ALONE))
def test_without_a_stack_it_says_how_to_start_one(place: Path, name: str) -> None:
    flags = ["--json"] if _has_json(name) else []
    said = one_line(run(name, *needed(name), *flags), code=1)
    assert "nothing is running here" in said
    assert "clearlane up" in said


@pytest.mark.parametrize("name", sorted(ALL.keys() - STANDS_ALONE))
def test_with_its_servers_away_it_says_so_and_prints_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@127.0.0.1:1/0")
    said = one_line(run(name, *needed(name)), code=1)
    assert said.startswith("postgresql: ")
    assert "hidden" not in said


@pytest.mark.parametrize("name", WITH_JSON)
def test_json_is_one_document_and_nothing_else(installed: Path, engine: Engine, name: str) -> None:
    (task,) = makers.submit(engine, datetime.now(UTC))
    asked = needed(name, task)
    if name == "tokens revoke":
        made = json.loads(run("tokens create", *needed("tokens create"), "--json").stdout)
        asked = [made["id"]]
    if name == "lanes release":
        assert run("lanes lock", "default", "--reason", "why", "--as", "p").exit_code == 0
    said = run(name, *asked, "--json")
    assert (said.exit_code, said.stderr) == (0, ""), said.output
    assert said.stdout.count("\n") == 1
    found = json.loads(said.stdout)
    if name.endswith(" list") or name in ("prices", "ledger balances", "ledger params"):
        assert isinstance(found, list)
        assert all(isinstance(row, dict) for row in found)
