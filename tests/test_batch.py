"""Batches on the whole stack: one lane, one token, every item once, whoever dies. Rows M02, M03."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from ledger import batches, intake, lanes
from ledger.lanes import Mode
from tests import makers
from tests.program import Said, begun, said
from tests.servers import scratch
from tests.stack import SETTINGS, Stack, await_true, started
from workers.demo.gated import GatedAgent

pytestmark = pytest.mark.timeout(240)

CLIENT = "T"
LANE = "mint"
GOOD = {"output": {"answer": 42}}
CONFIG = """\
[[clients]]
id = "T"
mint = "100000000"
[[agents]]
id = "echo"
kind = "echo"
lane = "mint"
y_max = 1000000
k = 1000000
slots = 100
tools = ["echo"]
[[agents]]
id = "gate"
kind = "json"
url = "{gate}"
lane = "mint"
y_max = 1000000
k = 1000000
slots = 8
tools = ["gate"]
[[families]]
id = "echo"
size = 10
deadline_s = 5
max_attempts = 1
tools = ["echo"]
validator = {{ type = "json_schema", schema = {{ type = "object", required = ["n"] }} }}
[[families]]
id = "gate"
size = 10
deadline_s = 60
max_attempts = 5
tools = ["gate"]
validator = {{ type = "none" }}
"""


@dataclass(frozen=True, kw_only=True)
class Mint:
    """A stack whose agents are all in one lane; `gate` answers when told to."""

    stack: Stack
    gate: GatedAgent
    files: Path

    def file(self, name: str, rows: Sequence[Any]) -> Path:
        path = self.files / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    def started(self, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return begun(SETTINGS, *words, "--data", str(self.stack.home))

    def __call__(self, *words: str) -> Said:
        return said(SETTINGS, *words, "--data", str(self.stack.home))

    def run(self, file: Path, *words: str) -> list[str]:
        return ["batch", "run", "--lane", LANE, "--file", str(file), "--client", CLIENT,
                "--as", "alice", "--json", *words]  # fmt: skip

    def lane(self) -> lanes.Lane:
        return lanes.lane(self.stack.context.engine, LANE, self.stack.context.now())

    def newest(self) -> batches.Kept:
        return batches.batches(self.stack.context.engine, limit=1)[0]

    def states(self, mark: str) -> Counter[str]:
        """How many tasks of a file there are in each state."""
        found = "SELECT state, count(*) FROM task WHERE type = %s GROUP BY state"
        return Counter(dict(self.rows(found, mark)))

    def await_committed(self, mark: str, count: int) -> None:
        await_true(f"{count} are done", lambda: self.states(mark)["COMMITTED"] >= count, 120)

    def rows(self, query: LiteralString, mark: str) -> list[tuple[Any, ...]]:
        """What PostgreSQL says of the tasks of a file."""
        with psycopg.connect(self.stack.addresses["database_url"]) as connection:
            return connection.execute(query, (mark,)).fetchall()

    def expire(self) -> None:
        """The lease of a holder who is gone has ended long ago."""
        makers.as_owner(
            self.stack.addresses["database_url"],
            f"UPDATE lane SET until = now() - interval '1 min' WHERE id = '{LANE}'",
        )


@pytest.fixture(scope="module")
def whole() -> Iterator[Mint]:
    with ExitStack() as opened:
        gate = opened.enter_context(GatedAgent())
        files = opened.enter_context(scratch())
        (files / "fleet.toml").write_text(CONFIG.format(gate=gate.url))
        stack = opened.enter_context(started(CLIENT, "--config", str(files / "fleet.toml")))
        yield Mint(stack=stack, gate=gate, files=files)


@pytest.fixture
def mint(whole: Mint) -> Iterator[Mint]:
    whole.gate.hold()
    yield whole
    whole.gate.release(GOOD)
    await_true("nothing is in flight", lambda: whole.stack.in_flight() == 0, 60.0)


def lines(mark: str, count: int, family: str = "gate") -> list[dict[str, Any]]:
    return [{"family": family, "type": mark, "payload": {"n": n, "of": mark}} for n in range(count)]


def test_every_item_is_done_once_and_the_lane_comes_back(mint: Mint) -> None:
    file = mint.file("echo.jsonl", lines("echo", 300, "echo"))
    dry = mint(*mint.run(file, "--dry-run"))
    assert dry.code == 0, dry.err
    assert {dry.json[name] for name in ("items", "to_do")} == {300}
    assert mint.states("echo") == {}

    said = mint(*mint.run(file))
    assert said.code == 0, said.err
    found = said.json
    assert (found["state"], found["items"], found["done"], found["left"]) == ("done", 300, 300, 0)
    assert int(found["spent_ub"]) > 0
    assert mint.states("echo") == {"COMMITTED": 300}
    kept = mint.newest()
    assert (kept.id, kept.state, kept.items) == (found["batch"], "done", 300)
    assert mint.lane().mode is Mode.CRON
    told = lanes.history(mint.stack.context.engine, LANE, limit=2)
    assert [(row["principal"], row["ended"]) for row in told] == [
        ("beat", None),
        ("alice", "released"),
    ]

    again = mint(*mint.run(file))
    assert again.code == 0, again.err
    assert (again.json["batch"], again.json["before"]) == (None, 300)
    more = mint.file("more.jsonl", lines("echo", 310, "echo"))
    rest = mint(*mint.run(more, "--rate", "50/s"))
    assert rest.code == 0, rest.err
    assert (rest.json["before"], rest.json["done"]) == (300, 310)
    assert rest.json["elapsed_s"] >= 0.1, "the second five of ten items come a tenth of a second on"
    assert mint.states("echo") == {"COMMITTED": 310}
    mint.stack.check()


def test_items_that_failed_are_told(mint: Mint) -> None:
    bad = [*lines("bad", 5, "echo"), {"family": "echo", "type": "bad", "payload": {"m": 1}}]
    file = mint.file("bad.jsonl", bad)
    for _ in range(2):
        said = mint(*mint.run(file))
        assert said.code == 3, said.err
        assert (said.json["done"], said.json["failed"]) == (5, 1)
        assert "1 items failed" in said.err


def test_a_lane_that_somebody_holds_is_refused(mint: Mint) -> None:
    file = mint.file("refused.jsonl", lines("refused", 3))
    assert mint("lanes", "lock", LANE, "--reason", "audit", "--as", "bob").code == 0
    try:
        said = mint(*mint.run(file))
        assert (said.code, said.out) == (5, "")
        assert "mint is held by bob since" in said.err
        assert "because: audit" in said.err
        assert mint.states("refused") == {}
    finally:
        assert mint("lanes", "release", LANE, "--as", "bob").code == 0


def test_killed_command_and_worker(mint: Mint) -> None:
    """Whoever dies, and however often: each item is settled exactly once."""
    file = mint.file("kill.jsonl", lines("kill", 300))
    with mint.started(*mint.run(file)) as process:
        await_true("calls are out", lambda: mint.gate.waiting == 8)
        assert sum(mint.states("kill").values()) == 300
        process.kill()
        process.wait()
    number = mint.newest().id
    assert mint("batch", "status", str(number), "--json").json["state"] == "running"
    mint.stack.kill("execute1")
    mint.expire()
    with mint.started("batch", "resume", str(number), "--as", "alice", "--json") as process:
        await_true("it goes on", lambda: mint.lane().token > 2 and mint.lane().serves == number)
        mint.gate.release(GOOD)
        await_true("some are done", lambda: mint.states("kill")["COMMITTED"] >= 20, 60.0)
        mint.stack.kill("commit1")
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert (found["batch"], found["done"], found["left"]) == (number, 300, 0)
    assert mint.states("kill") == {"COMMITTED": 300}
    assert mint.newest().state == "done"
    mint.stack.check()


def test_who_stops_while_the_lane_drains_has_done_nothing(mint: Mint) -> None:
    file = mint.file("drain.jsonl", lines("drain", 5))
    words = ("--family", "gate", "--payload", "1", "--lane", LANE, "--count", "4")
    assert mint("submit", "--client", CLIENT, *words).code == 0
    await_true("calls are out", lambda: mint.gate.waiting == 4)
    with mint.started(*mint.run(file)) as process:
        assert process.stderr is not None
        assert "waiting for 4 tasks in flight in lane mint" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    number = mint.newest().id
    assert (process.returncode, out) == (130, "")
    assert f"lane mint was given back before batch {number} did anything" in err
    late = mint("batch", "resume", str(number), "--timeout", "0.1")
    assert late.code == 5
    assert "mint has not drained within 0.1 s: 4 tasks" in late.err
    assert mint.lane().mode is Mode.CRON
    assert (mint.states("drain"), mint.newest().state) == ({}, "stopped")
    mint.gate.release(GOOD)
    said = mint("batch", "resume", str(number), "--json")
    assert said.code == 0, said.err
    assert mint.states("drain") == {"COMMITTED": 5}


MANY = 10_000
ONCE = """
SELECT count(DISTINCT b.payload::text), count(*) FILTER (WHERE s.settled = 1), count(*)
FROM task t JOIN task_body b ON b.task = t.id CROSS JOIN LATERAL (
    SELECT count(*) AS settled FROM ledger_transaction x WHERE x.kind = 'settle' AND x.task = t.id
) s
WHERE t.type = %s
"""
PAID = """
SELECT count(*) FROM posting p JOIN ledger_transaction x ON x.id = p.transaction
JOIN task t ON t.id = x.task
WHERE p.account = 'client:T' AND t.type = %s
"""


def test_ten_thousand_items_survive_their_command_and_two_workers(mint: Mint) -> None:
    """Submitted slowly, so that much is left when somebody dies, however slow the machine is."""
    file = mint.file("many.jsonl", lines("many", MANY, "echo"))
    with mint.started(*mint.run(file, "--rate", "500/s")) as process:
        mint.await_committed("many", 200)
        process.kill()
        process.wait()
    assert sum(mint.states("many").values()) < MANY, "it died before it had submitted all"
    number = mint.newest().id
    mint.expire()
    before = mint.stack.pids()
    resume = ("batch", "resume", str(number), "--rate", "1000/s", "--as", "alice", "--json")
    with mint.started(*resume) as process:
        for name, done in {"execute1": 2_000, "commit1": 4_000}.items():
            mint.await_committed("many", done)
            os.kill(before[name], signal.SIGKILL)
        assert mint.states("many")["COMMITTED"] < MANY
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert (found["batch"], found["done"], found["failed"], found["left"]) == (number, MANY, 0, 0)
    assert found["before"] >= 200
    assert mint.rows(ONCE, "many") == [(MANY, MANY, MANY)], "each item is settled exactly once"
    assert mint.rows(PAID, "many") == [(MANY,)], "and paid exactly once"
    mint.stack.check()


def test_ctrl_c_drains_and_the_batch_goes_on_later(mint: Mint) -> None:
    file = mint.file("stop.jsonl", lines("stop", 40))
    with mint.started(*mint.run(file)) as process:
        await_true("calls are out", lambda: mint.gate.waiting == 8)
        process.send_signal(signal.SIGINT)
        await_true("it drains", lambda: mint.lane().mode is Mode.CRON)
        assert process.poll() is None, "it waits for what is in flight"
        mint.gate.release(GOOD)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "stopping: 8 in flight are waited for; Ctrl-C again" in err
    found = json.loads(out)
    assert found["state"] == "stopped"
    assert 8 <= found["done"] < 40
    assert f"clearlane batch resume {found['batch']}" in err
    assert mint.lane().drained
    assert mint.states("stop") == {"COMMITTED": found["done"], "INIT": found["left"]}
    waiting = next(
        row for row in intake.task_list(mint.stack.context.engine, client=CLIENT, state="INIT")
    )
    shown = mint("task", "show", str(waiting["id"]), "--json").json
    assert f"batch {found['batch']}, which is not running (stopped)" in shown["why"]

    resumed = mint("batch", "resume", str(found["batch"]), "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["before"] == found["done"]
    assert mint.states("stop") == {"COMMITTED": 40}
    mint.stack.check()


def test_ctrl_c_twice_fences_what_runs(mint: Mint) -> None:
    file = mint.file("twice.jsonl", lines("twice", 20))
    with mint.started(*mint.run(file)) as process:
        await_true("calls are out", lambda: mint.gate.waiting == 8)
        process.send_signal(signal.SIGINT)
        await_true("it drains", lambda: mint.lane().mode is Mode.CRON)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert json.loads(out)["done"] == 0
    assert mint.lane().drained, "the lane is free although calls are out"
    assert mint.gate.waiting == 8
    mint.gate.release(GOOD)
    # Running the file again is another way to go on.
    said = mint(*mint.run(file))
    assert said.code == 0, said.err
    assert mint.states("twice") == {"COMMITTED": 20}
    mint.stack.check()


def test_a_lost_lane_ends_the_batch_at_once(mint: Mint) -> None:
    file = mint.file("lost.jsonl", lines("lost", 40))
    with mint.started(*mint.run(file, "--rate", "30/m")) as process:
        await_true("calls are out", lambda: mint.gate.waiting > 0)
        assert mint("lanes", "release", LANE, "--as", "alice").code == 0
        out, err = process.communicate(timeout=100)
    assert process.returncode == 4, err
    assert json.loads(out)["state"] == "lost"
    assert "is no longer valid" in err
    assert "nothing more of the batch is accepted" in err
    accepted = sum(mint.states("lost").values())
    assert accepted < 40
    assert mint.newest().state == "lost"
    mint.gate.release(GOOD)
    resumed = mint("batch", "resume", str(mint.newest().id), "--rate", "1000/s", "--json")
    assert resumed.code == 0, resumed.err
    assert mint.states("lost") == {"COMMITTED": 40}


def test_a_file_that_is_not_as_it_was_is_refused(mint: Mint) -> None:
    file = mint.file("file.jsonl", lines("file", 20))
    with mint.started(*mint.run(file)) as process:
        await_true("calls are out", lambda: mint.gate.waiting > 0)
        process.send_signal(signal.SIGINT)
        mint.gate.release(GOOD)
        process.communicate(timeout=100)
    number = str(mint.newest().id)
    text = file.read_text()
    file.write_text(f"{text}\n")
    changed = mint("batch", "resume", number)
    assert changed.code == 2
    assert "it is not as it was when batch" in changed.err
    file.unlink()
    missing = mint("batch", "resume", number)
    assert missing.code == 2
    assert "--file" in missing.err
    moved = mint.files / "moved.jsonl"
    moved.write_text(text)
    said = mint("batch", "resume", number, "--file", str(moved), "--json")
    assert said.code == 0, said.err
    assert mint.states("file") == {"COMMITTED": 20}
    assert mint("batch", "status", "--json").json[0]["file"] == str(moved)
    assert mint("batch", "resume", "999999").code == 2


def test_bad_lines_are_told_before_the_lane_is_taken(mint: Mint) -> None:
    file = mint.files / "wrong.jsonl"
    file.write_text(
        '{"family": "echo", "payload": {"n": 1}, "type": "wrong"}\n'
        "nonsense\n"
        '{"family": "nothing", "payload": 1}\n'
        '{"family": "echo", "payload": {"n": 1}, "lane": "default"}\n'
        '{"family": "echo", "payload": {"n": 2}, "type": "wrong", "key": "wrong-2"}\n'
    )
    token = mint.lane().token
    said = mint(*mint.run(file))
    assert (said.code, said.out) == (2, "")
    for number, field in {2: "line", 3: "family", 4: "lane"}.items():
        assert f"{file}:{number}: {field}: " in said.err
    assert "nothing was submitted; --skip-bad" in said.err
    assert mint.lane().token == token
    skipped = mint(*mint.run(file, "--skip-bad"))
    assert skipped.code == 0, skipped.err
    assert "going on without 3 lines" in skipped.err
    assert mint.states("wrong") == {"COMMITTED": 2}
    other = mint.file(
        "key.jsonl", [{"family": "echo", "payload": {"n": 3}, "type": "wrong", "key": "wrong-2"}]
    )
    used = mint(*mint.run(other))
    assert used.code == 2
    assert f"{other}:1: idempotency_key: 'wrong-2' was used for another task" in used.err
