"""The story of the lanes on a live stack: cron mints with 32 agents, and a person runs a batch.

Every agent wants rest between two calls and bans whoever comes sooner. Done at once, cron and the
batch would meet on the same agents, and one ban after another would stop them all; here the person
takes the lane, cron makes room and comes back. Rows M01, M02, M03, M27.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from ledger import batches, check, cron, lanes
from ledger.batches import Counts
from ledger.lanes import Lane, Mode
from tasks.context import Context
from workers.demo.resting import RestingAgents, Served
from workers.demo.stage import COMMAND, DemoFailed, await_true, live_stack
from workers.locate import Running

T = TypeVar("T")

LANE: Final = "mint"
JOB: Final = "mint"
PERSON = "alice"
CRON_WHO, BATCH_WHO = "cron", "batch"  # what the tasks say of themselves
PATIENCE_S = 120.0  # for any one act, on a machine that has other things to do
LOOK_S = 0.05
PROGRESS_S = 2.0
TOO_SOON = 429

CONFIG = """\
[[clients]]
id = "R"
mint = "1000000"
[[families]]
id = "mint"
size = 10
deadline_s = 20
max_attempts = 3
validator = { type = "json_schema", schema = { type = "object", required = ["minted"] } }
"""
AGENT = """\
[[agents]]
id = "miner-{number:02}"
kind = "json"
url = "{url}"
lane = "mint"
y_max = 1000
k = 1000000
slots = 1
cooldown_s = {cooldown_s}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a story: so many agents, how long each rests, items of the batch, what cron
    submits each time and how often."""

    agents: int = 32
    cooldown_s: float = 3.0
    items: int = 96
    cron_count: int = 20
    cron_every_s: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What happens, in words."""

    at_s: float
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How it ended: `tenures` oldest first, `broken` what is not as it must be.

    calls: served calls by who asked. refused: calls that were answered 429. slots: what became of
    cron's slots.
    """

    calls: Mapping[str, int]
    refused: int
    slots: Mapping[str, int]
    tenures: Sequence[Mapping[str, Any]]
    broken: Sequence[str]


Event = Running | Told | Ending


class Story:
    """One run of it. `agents` are those the stack was configured with."""

    def __init__(self, context: Context, agents: RestingAgents, size: Size) -> None:
        self._context = context
        self._agents = agents
        self._size = size
        self._began_s = time.monotonic()
        self._batch_code: int | None = None

    def acts(self, batch_command: Sequence[str], env: Mapping[str, str]) -> Iterator[Told | Ending]:
        """Cron works; the batch comes; cron works again."""
        yield from self._cron_works(since=None)
        yield self._told(f"{PERSON} starts a batch of {self._size.items} items in lane {LANE}")
        child = subprocess.Popen(
            batch_command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield from self._handed_over(child)
            yield from self._batch_runs(child)
        finally:
            child.kill()
            out, _ = child.communicate()
        self._batch_code = child.returncode
        if self._batch_code:
            yield self._told(f"the batch ended with exit code {self._batch_code}: {out.strip()}")
        back = await_true(
            "cron has the lane again", lambda: self._drained_of(Mode.CRON), PATIENCE_S
        )
        yield self._told(f"the lane is back with cron, under token {back.token}")
        yield from self._cron_works(since=self._context.now())
        yield self._ending()

    def _cron_works(self, since: datetime | None) -> Iterator[Told]:
        """Until cron's tasks have been served by some agents (since then)."""
        since_s = since.timestamp() if since else 0.0

        def served() -> int:
            calls = self._agents.served()
            return sum(call.who == CRON_WHO and call.at_s >= since_s for call in calls)

        wanted = self._size.cron_count
        await_true("cron's tasks are served", lambda: served() >= wanted, PATIENCE_S)
        again = "again " if since else ""
        yield self._told(
            f"cron is at work {again}in lane {LANE}: {served()} of its calls came,"
            f" {self._refused()} calls in all came too soon"
        )

    def _handed_over(self, child: subprocess.Popen[str]) -> Iterator[Told]:
        found = await_true(
            "the lane is taken", lambda: _while(child, self._lane_of(Mode.MANUAL)), PATIENCE_S
        )
        yield self._told(
            f"cron pauses: {LANE} is {found.principal}'s under token {found.token};"
            f" {found.in_flight} tasks of cron's are in flight"
        )
        await_true(
            "the lane drains", lambda: _while(child, self._drained_of(Mode.MANUAL)), PATIENCE_S
        )
        yield self._told("the lane has drained: the batch may begin")

    def _batch_runs(self, child: subprocess.Popen[str]) -> Iterator[Told]:
        told_s = time.monotonic()
        deadline_s = told_s + PATIENCE_S
        while child.poll() is None:
            if time.monotonic() >= deadline_s:
                raise DemoFailed(f"the batch has not ended after {PATIENCE_S:.0f} s")
            if time.monotonic() - told_s >= PROGRESS_S:
                told_s = time.monotonic()
                yield self._told(
                    f"batch: {self._counts().committed} of {self._size.items} done;"
                    f" cron: {self._slots()['skipped']} slots skipped"
                )
            time.sleep(LOOK_S)
        yield self._told(f"the batch is over: {self._counts().committed} items done")

    def _ending(self) -> Ending:
        served = self._agents.served()
        tenures = lanes.history(self._context.engine, LANE, limit=1000)[::-1]
        return Ending(
            calls=Counter(call.who for call in served if call.status != TOO_SOON),
            refused=self._refused(),
            slots=self._slots(),
            tenures=tenures,
            broken=[*broken(served, tenures), *self._unsettled()],
        )

    def _unsettled(self) -> Iterator[str]:
        if self._batch_code != 0:
            yield f"the batch ended with exit code {self._batch_code}"
        if self._counts().committed != self._size.items:
            yield f"{self._counts().committed} of {self._size.items} items are done"
        for found in check.violations(self._context.engine):
            yield f"{found.subject}: {found.violation}"

    def _refused(self) -> int:
        return sum(call.status == TOO_SOON for call in self._agents.served())

    def _slots(self) -> Counter[str]:
        rows = cron.history(self._context.engine, JOB, limit=1000)
        return Counter(row["state"] for row in rows)

    def _counts(self) -> Counts:
        (newest,) = batches.batches(self._context.engine, limit=1)
        return batches.counts(self._context.engine, newest.id)

    def _lane(self) -> Lane:
        return lanes.lane(self._context.engine, LANE, self._context.now())

    def _lane_of(self, mode: Mode) -> Lane | None:
        found = self._lane()
        return found if found.mode is mode else None

    def _drained_of(self, mode: Mode) -> Lane | None:
        found = self._lane_of(mode)
        return found if found is not None and found.drained else None

    def _told(self, words: str) -> Told:
        return Told(at_s=time.monotonic() - self._began_s, words=words)


def play(size: Size) -> Generator[Event, None, None]:
    """Run the story; yields the addresses, then what happens, then how it ended."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="clearlane-demo-")))
        agents = stack.enter_context(RestingAgents(size.agents, size.cooldown_s))
        for name, text in {
            "fleet.toml": configuration(agents.urls, size),
            "jobs.py": jobs(size),
            "items.jsonl": items(size),
        }.items():
            (place / name).write_text(text)
        addresses, context = stack.enter_context(
            live_stack(
                ["--config", str(place / "fleet.toml")], {"CLEARLANE_CRON_FILE": place / "jobs.py"}
            )
        )
        yield addresses
        command = (
            *COMMAND, "batch", "run", "--lane", LANE, "--file", str(place / "items.jsonl"),
            "--client", "R", "--as", PERSON, "--reason", "monthly mint",
        )  # fmt: skip
        servers = {"DATABASE_URL": addresses.database_url, "REDIS_URL": addresses.redis_url}
        yield from Story(context, agents, size).acts(command, {**os.environ, **servers})


def configuration(urls: Sequence[str], size: Size) -> str:
    """The fleet: these agents, all in one lane."""
    return CONFIG + "".join(
        AGENT.format(number=number, url=url, cooldown_s=size.cooldown_s)
        for number, url in enumerate(urls)
    )


def jobs(size: Size) -> str:
    """The cron table: one job that gives the lane work."""
    order = {
        "client": "R",
        "family": "mint",
        "payload": {"who": CRON_WHO},
        "count": size.cron_count,
    }
    job = {
        "task": "cron.submit",
        "schedule": size.cron_every_s,
        "lane": LANE,
        "misfire": "skip",
        "args": [order],
    }
    return f"beat_schedule = {{{JOB!r}: {job!r}}}\n"


def items(size: Size) -> str:
    """The person's file."""
    rows = ({"family": "mint", "payload": {"who": BATCH_WHO, "n": n}} for n in range(size.items))
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def broken(served: Sequence[Served], tenures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What in the calls that came, and in the lane's tenures (oldest first), must not be."""
    refused = sum(call.status == TOO_SOON for call in served)
    if refused:
        yield f"{refused} calls were answered 429"
    if [row["mode"] for row in tenures] != [Mode.CRON, Mode.MANUAL, Mode.CRON]:
        yield "the lane did not go from cron to a person and back"
    for one, other in pairwise(tenures):
        if not one["ended_at"] or not other["granted_at"] or one["ended_at"] > other["granted_at"]:
            yield f"tokens {one['token']} and {other['token']} held the lane at once"
    mine = [row for row in tenures if row["mode"] == Mode.MANUAL]
    for who in (CRON_WHO, BATCH_WHO):
        wrong = [
            call
            for call in served
            if call.who == who and any(_during(call, row) for row in mine) != (who == BATCH_WHO)
        ]
        if wrong:
            yield f"{len(wrong)} calls of {who} came while the lane was not {who}'s"


def _while(child: subprocess.Popen[str], found: T) -> T:
    """What was found, as long as the batch's command lives. Raises DemoFailed."""
    if found is None and child.poll() is not None and child.stdout is not None:
        words = child.stdout.read().strip()
        raise DemoFailed(f"the batch ended with exit code {child.returncode}: {words}")
    return found


def _during(call: Served, tenure: Mapping[str, Any]) -> bool:
    """Whether a call came while this holder had the lane."""
    at = datetime.fromtimestamp(call.at_s, UTC)
    begun, ended = tenure["granted_at"], tenure["ended_at"]
    return bool(begun and begun <= at and (ended is None or at <= ended))
