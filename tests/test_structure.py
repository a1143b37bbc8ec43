"""The rules the house is built by, kept by tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import beat_schedule

HOME = Path(__file__).parent.parent
ROOMS = ("ledger", "scheduler", "tasks", "workers")
LINES_MAX = 400
FUNCTION_LINES_MAX = 60


def python_files() -> list[Path]:
    found = [path for room in ROOMS for path in sorted((HOME / room).rglob("*.py"))]
    return [HOME / "beat_schedule.py", *found]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def name_of(path: Path) -> str:
    return str(path.relative_to(HOME))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{item.name}" for item in node.names}
    return found


def test_imports_go_one_way() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([tool], cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_scheduler_knows_two_modules_of_the_ledger() -> None:
    allowed = {"ledger.model", "ledger.errors"}
    for path in (HOME / "scheduler").glob("*.py"):
        modules = {
            ".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("ledger.")
        }
        assert modules <= allowed, name_of(path)
        assert "ledger" not in imported(path), name_of(path)


def test_the_cron_table_is_data() -> None:
    path = HOME / "beat_schedule.py"
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots <= set(sys.stdlib_module_names), roots
    assert list(functions(path)) == []


def test_every_cron_job_is_registered() -> None:
    from workers.celery import app

    app.loader.import_default_modules()
    jobs = {entry["task"] for entry in beat_schedule.beat_schedule.values()}
    assert jobs
    assert jobs <= set(app.tasks)
    steps = {"saga.reserve", "saga.execute", "saga.validate", "saga.commit", "saga.abort"}
    assert steps <= set(app.tasks)


def test_every_task_has_a_queue_of_its_own_kind() -> None:
    from workers.celery import QUEUES, app

    routes = {
        name: app.amqp.router.route({}, name)["queue"].name
        for name in app.tasks
        if name.startswith(("saga.", "cron."))
    }
    assert set(routes.values()) <= set(QUEUES)
    assert {routes[name] for name in routes if name.startswith("cron.")} == {"control"}


def test_no_module_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: count for name, count in lengths.items() if count > LINES_MAX} == {}


def test_no_function_is_too_long() -> None:
    found = {
        f"{name_of(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in python_files()
        for node in functions(path)
    }
    assert {name: count for name, count in found.items() if count > FUNCTION_LINES_MAX} == {}


def test_nothing_is_left_to_do() -> None:
    sources = [
        path
        for room in ROOMS
        for path in (HOME / room).rglob("*")
        if path.suffix in (".py", ".sql", ".lua", ".toml", ".html", ".js", ".css")
    ]
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [name_of(path) for path in sources if marks.search(path.read_text())]
    assert found == []


def called_statements() -> set[str]:
    """Names given to `query` and `scan`, and to helpers that pass their argument on to them."""
    found: set[str] = set()
    for path in (HOME / "ledger").rglob("*.py"):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            position = {"query": 1, "scan": 1, "_put": 1}.get(node.func.id)
            if position is None or len(node.args) <= position:
                continue
            argument = node.args[position]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.add(argument.value)
    return found


def test_every_statement_is_used_and_every_used_one_exists() -> None:
    files = {path.stem for path in (HOME / "ledger/sql").glob("*.sql")}
    called = called_statements()
    assert files - called == set(), "never called"
    assert called - files == set(), "no such file"


EXECUTES = {"execute", "executemany", "exec_driver_sql", "text", "stream", "copy"}


def executed() -> dict[str, list[str]]:
    """What each module of the ledger has PostgreSQL run, as it is written there."""
    found: dict[str, list[str]] = {}
    for path in (HOME / "ledger").glob("*.py"):
        for call in ast.walk(tree(path)):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in EXECUTES:
                found.setdefault(name_of(path), []).append(ast.unparse(call.args[0]))
    return found


def test_statements_are_files_with_bound_values() -> None:
    """One place runs them; LISTEN takes no values, so its channel is quoted as an identifier."""
    assert executed() == {
        "ledger/db.py": ["sql(name)", "sql(name)"],
        "ledger/listen.py": ["sql.SQL('LISTEN {}').format(sql.Identifier(channel))"],
    }


def test_no_statement_is_put_together() -> None:
    """In the files: no dynamic SQL. At the call: a name that is written out, not computed."""
    for path in (HOME / "ledger/sql").glob("*.sql"):
        assert not re.search(r"\bEXECUTE\b|\bformat\s*\(", path.read_text()), path.stem
    for path in (HOME / "ledger").glob("*.py"):
        for call in ast.walk(tree(path)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in {"query", "scan"}:
                assert isinstance(call.args[1], ast.Constant | ast.Name), name_of(path)


SCRIPTS = sorted((HOME / "scheduler/lua").glob("*.lua"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scripts_header_names_its_keys_and_arguments(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if line[:2] != "--")])
    body = "\n".join(line for line in lines if not line.startswith("--"))
    documented = {"KEYS": set[int](), "ARGV": set[int]()}
    kind = "KEYS"
    for word, number in re.findall(r"(KEYS|ARGV)?\[(\d+)(?:\.\.\.)?\]", header):
        kind = word or kind
        documented[kind].add(int(number))
    for kind, numbers in documented.items():
        used = {int(number) for number in re.findall(rf"{kind}\[(\d+)\]", body)}
        used |= {int(number) for number in re.findall(rf"unpack\({kind}, (\d+)\)", body)}
        assert numbers == used, kind
        assert used or f"No {kind}." in header, f"{path.stem} does not say that it has no {kind}"


def test_every_script_has_a_verb() -> None:
    from scheduler.scripts import VERBS

    assert sorted(path.stem for path in SCRIPTS) == sorted(VERBS)


def test_every_module_says_what_it_is_for() -> None:
    silent = [name_of(path) for path in python_files() if not ast.get_docstring(tree(path))]
    assert silent == []
