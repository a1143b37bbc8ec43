"""The documentation says what is: its commands run, its examples load, its tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from fastapi.routing import APIRoute

from ledger.model import Outcome
from ledger.proof.entries import _SHAPES as SHAPES
from tasks.messages import CHUNK_MAX
from tests.servers import scratch
from workers.celery import QUEUES
from workers.cli import main
from workers.config import load_config
from workers.gateway import accounts, epochs, fleet, health, lanes, log, metrics, tasks
from workers.gateway.problems import TITLES
from workers.home import port
from workers.sections import SECTIONS
from workers.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference"
RUNNABLE = [
    ROOT / "docs" / "tutorial" / "first-task.md",  # first: its figures are those of a fresh ledger
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    REFERENCE / "log.md",  # last: it closes an epoch
]
PORT = "9301"  # where the documented agent listens; any free port will do
UP = "clearlane up --detach --fleet sample"
DOWN = "clearlane down"
TRUE_ALREADY = ("make install",)

FENCE = re.compile(r"(?:<!-- ([^>]+) -->\n+)?```(\w*)\n(.*?)```\n", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, kw_only=True)
class Fence:
    mark: str
    language: str
    text: str


@dataclass(kw_only=True)
class Command:
    """A documented command and the lines it is said to print."""

    text: str
    output: list[str] = field(default_factory=list)

    @property
    def plain(self) -> str:
        return self.text.replace(".venv/bin/", "")


def fences(page: Path) -> list[Fence]:
    return [Fence(mark=m or "", language=n, text=t) for m, n, t in FENCE.findall(page.read_text())]


def commands(page: Path) -> list[Command]:
    """Everything in the page's blocks marked `run`, in order."""
    found: list[Command] = []
    for fence in fences(page):
        if fence.mark != "run":
            continue
        assert fence.language == "console", page
        for line in fence.text.splitlines():
            if line.startswith("$ "):
                found.append(Command(text=line[2:]))
            else:
                found[-1].output.append(line)
    return found


def squeezed(line: str) -> str:
    return " ".join(line.split())


def expect(command: Command, said: str) -> None:
    """Every documented line is there; `…` stands for anything, a line of it alone for any lines."""
    lines = [squeezed(line) for line in said.splitlines()]
    for line in map(squeezed, command.output):
        pattern = ".*".join(map(re.escape, line.split("…")))
        assert any(re.fullmatch(pattern, got) for got in lines), (
            f"$ {command.text}\ndoes not print\n{line}\nbut\n{said}"
        )


class Reader:
    """Someone who follows the pages in one directory, typing what they say into one shell a page.

    The pages share a stack: it is started by the documented command, and stopped by the
    documented command at the end.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._port = str(port(place, "documented"))
        self._groups: list[int] = []
        self._started = ""
        (place / ".venv").symlink_to(sys.prefix)
        dropped = ("CLEARLANE_", "DATABASE_", "REDIS_", "CELERY_", "COV_", "PYTEST_")
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self._env["PATH"] = f"{Path(sys.executable).parent}:{self._env['PATH']}"

    def start(self) -> None:
        self._started, code = self.run([UP])[0]
        assert code == 0, self._started

    def stop(self) -> tuple[str, int]:
        return self.run([DOWN])[0]

    def follow(self, page: Path) -> None:
        for fence in fences(page):
            if fence.mark.startswith("file: "):
                text = fence.text.replace(PORT, self._port)
                (self.place / fence.mark.removeprefix("file: ")).write_text(text)
        asked = [item for item in commands(page) if item.plain not in (UP, DOWN, *TRUE_ALREADY)]
        for command in commands(page):
            if command.plain == UP:
                expect(command, self._started)
        for command, (said, code) in zip(asked, self.run([i.text for i in asked]), strict=True):
            assert code == 0, f"$ {command.text}\nexit code {code}\n{said}"
            expect(command, said)

    def run(self, lines: list[str]) -> list[tuple[str, int]]:
        """What each line printed, on both streams, and its exit code; all in one shell."""
        mark = "@@@@"
        script = "".join(f"{line}\nprintf '\\n{mark}%s\\n' $?\n" for line in lines)
        log = self.place / "said"
        with log.open("wb") as out:
            # A file, because a pipe would stay open as long as what runs in the background.
            shell = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.place,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            self._groups.append(shell.pid)
            shell.wait(60)
        parts = re.split(rf"\n{mark}(\d+)\n", log.read_text())
        return list(zip(parts[0:-1:2], map(int, parts[1::2]), strict=True))

    def close(self) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.stop()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with scratch() as place:
        found = Reader(place)
        try:
            found.start()
            yield found
        finally:
            found.close()


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_every_documented_command_does_what_it_says(reader: Reader, page: Path) -> None:
    reader.follow(page)


def test_the_documented_end_is_the_end(reader: Reader) -> None:
    said, code = reader.stop()
    assert code == 0, said
    ends = [item for page in RUNNABLE for item in commands(page) if item.plain == DOWN]
    assert ends
    for command in ends:
        expect(command, said)


def test_every_page_that_should_run_does() -> None:
    assert [page.name for page in RUNNABLE if UP in {item.plain for item in commands(page)}] == [
        "first-task.md",
        "README.md",
    ]
    for page in RUNNABLE:
        marked = {fence.mark.split(":")[0] for fence in fences(page)}
        assert marked <= {"", "run", "file", "fragment"}, page
    # What needs servers elsewhere cannot run here.
    silent = [page.name for page in RUNNABLE if not commands(page)]
    assert silent == ["run-a-replica.md", "run-against-your-own-servers.md"]


def test_every_configuration_example_is_accepted(tmp_path: Path) -> None:
    count = 0
    for page in PAGES:
        for fence in fences(page):
            if fence.language == "toml" and fence.mark != "fragment":
                file = tmp_path / "example.toml"
                file.write_text(fence.text)
                load_config(file)
                count += 1
    assert count >= 5


def test_every_key_of_the_configuration_is_described() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    for name, section in SECTIONS.items():
        (part,) = [item for item in parts if item.lstrip("`[").startswith(f"{name}]")]
        # The first table alone: a second one may describe something else.
        head = part.split("\n\n| `validator`")[0]
        assert first_cells(head) - {"key"} == set(section.model_fields), name


def test_every_variable_is_described() -> None:
    page = (REFERENCE / "environment.md").read_text().split("\n## ")[0]
    expected = {
        str(item.validation_alias or f"{PREFIX}{name.upper()}")
        for name, item in Settings.model_fields.items()
    }
    assert first_cells(page) - {"variable"} == expected


def test_every_command_and_option_is_described() -> None:
    described = described_commands((REFERENCE / "cli.md").read_text())
    existing = {
        name: {option for item in command.params for option in item.opts if option[:2] == "--"}
        for name, command in leaves(main)
    }
    assert described == existing


def test_every_path_of_the_gateway_is_described() -> None:
    page = (REFERENCE / "http-api.md").read_text()
    described = {cell for cell in first_cells(page) if " /" in cell}
    existing = {
        f"{method} {route.path_format}"
        for room in (tasks, fleet, lanes, accounts, epochs, log, health, metrics)
        for route in room.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert described == existing


def test_every_status_and_outcome_is_described() -> None:
    page = (REFERENCE / "errors.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| `([a-z-]+)`", page, re.MULTILINE))
    assert rows == {str(status): name for status, (name, _) in TITLES.items()}
    outcomes = page.split("## How an attempt can end")[1]
    assert first_cells(outcomes) - {"outcome"} == set(map(str, Outcome))


def test_every_table_script_and_queue_is_described() -> None:
    schema = (ROOT / "ledger" / "schema.sql").read_text()
    tables = set(re.findall(r"^CREATE TABLE (\w+)", schema, re.MULTILINE))
    page = (REFERENCE / "database.md").read_text()
    assert {cell for cell in first_cells(page) if not cell.startswith("clearlane")} == tables
    page = (REFERENCE / "redis-keys.md").read_text().split("| script |")[1]
    assert first_cells(page) == {file.stem for file in (ROOT / "scheduler" / "lua").glob("*.lua")}
    page = (REFERENCE / "celery.md").read_text()
    assert set(re.findall(r"^\| `[a-z.]+` \| `(\w+)` \|", page, re.MULTILINE)) == set(QUEUES)
    assert f"list of up to {CHUNK_MAX} pairs" in page


def test_every_leaf_and_field_is_described() -> None:
    head, types = (REFERENCE / "log.md").read_text().split("\n## Types\n")
    leaves_of, fields_of = types.split("\n| field |", 1)
    described = {}
    for line in leaves_of.splitlines():
        if line.startswith("| `"):
            name, further, _ = line.strip("| ").split(" | ", 2)
            described[name.strip("`")] = set(CODE.findall(further))
    existing: dict[str, set[str]] = {}
    common = first_cells(head) - {"field"}
    for (kind, _), shape in SHAPES.items():
        existing.setdefault(kind, set()).update(dict(shape).keys() - common)
    assert described == existing
    stated = first_cells(fields_of) | {"postings", "balance", "output_sha256", "balances_sha256"}
    assert set().union(*existing.values()) <= stated


def test_every_link_leads_somewhere() -> None:
    count = 0
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            if re.match(r"https?://", target) or target.startswith("bench/results/"):
                continue  # figures are written by `make bench`
            assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"
            count += 1
    assert count > 30


def test_every_test_that_is_named_exists() -> None:
    count = 0
    for page in PAGES:
        for name, file in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", page.read_text()):
            source = (page.parent / file).read_text()
            assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{page}: {name} in {file}"
            count += 1
    assert count > 10


def first_cells(text: str) -> set[str]:
    """What stands in code in the first column of a page's tables."""
    return {
        name
        for line in text.splitlines()
        if line.startswith("| ")
        for name in CODE.findall(line.split(" | ")[0])
    }


def leaves(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def described_commands(text: str) -> dict[str, set[str]]:
    """Command to options. A row names one command and its options; `submit` has a table."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "/").strip("| ").split(" | ")]
        named = CODE.findall(cells[0])
        if not line.startswith("| `") or not named:
            continue
        if named[0].startswith("--"):
            found.setdefault("submit", set()).add(shlex.split(named[0])[0])
        else:
            name = " ".join(word for word in named[0].split() if word.islower())
            options = CODE.findall(cells[1])
            found[name] = {shlex.split(option)[0] for option in options}
    return found
