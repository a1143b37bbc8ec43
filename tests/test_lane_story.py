"""Where the lanes come from: 32 agents went down because a person ran a batch beside cron (M02).

The story as the demo tells it, on a small stack; then the same agents without the lock, so that the
first proves something.
"""

from __future__ import annotations

import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ledger import lanes
from tests.servers import scratch
from tests.stack import await_true
from tests.tenures import double_holders
from workers.demo.lanes import (
    BATCH_WHO,
    CRON_WHO,
    LANE,
    Ending,
    Size,
    Told,
    broken,
    configuration,
    jobs,
    play,
)
from workers.demo.resting import BANS, RestingAgents, Served, Temper
from workers.demo.stage import live_stack

SMALL = Size(agents=8, cooldown_s=1.0, items=24, cron_count=8, cron_every_s=1.0)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its stack."""
    with scratch() as directory:
        monkeypatch.chdir(directory)
        yield directory
        monkeypatch.undo()


def test_an_agent_bans_who_comes_too_soon_longer_each_time() -> None:
    temper = Temper(2.0)
    assert [temper.call(at_s) for at_s in (0.0, 2.0)] == [0.0, 0.0]
    first, second = BANS * 2.0, BANS * 4.0
    assert [temper.call(at_s) for at_s in (3.9, 4.0)] == [first, second]
    assert temper.call(4.0 + second) == 0.0
    assert temper.call(5.0 + second) == first, "who waited is forgiven"


def test_cron_makes_room_for_the_batch_and_comes_back() -> None:
    events = list(play(SMALL))
    told = " | ".join(event.words for event in events if isinstance(event, Told))
    for words in ("alice starts a batch", "cron pauses", "the lane has drained", "back with cron"):
        assert words in told
    end = events[-1]
    assert isinstance(end, Ending)
    assert end.broken == []
    assert end.refused == 0
    assert end.calls[BATCH_WHO] == SMALL.items
    assert end.calls[CRON_WHO] >= 2 * SMALL.cron_count
    assert double_holders(end.tenures) == []
    assert [row["ended"] for row in end.tenures] == ["taken", "released", None]


def test_without_the_lock_one_ban_follows_the_other(place: Path) -> None:
    """The batch goes to the same agents past Clearlane, as the script of that day did."""
    with ExitStack() as opened:
        agents = opened.enter_context(RestingAgents(SMALL.agents, SMALL.cooldown_s))
        (place / "fleet.toml").write_text(configuration(agents.urls, SMALL))
        (place / "jobs.py").write_text(jobs(SMALL))
        options = ["--config", str(place / "fleet.toml")]
        _, context = opened.enter_context(
            live_stack(options, {"CLEARLANE_CRON_FILE": place / "jobs.py"})
        )
        await_true("cron is at work", lambda: len(agents.served()) >= SMALL.cron_count, 120)
        assert refused(agents) == [], "alone, cron comes too soon nowhere"
        with naive_batch(agents.urls):
            await_true("cron is refused as well", lambda: CRON_WHO in who_of(refused(agents)), 120)
            await_true(
                "every agent has banned somebody",
                lambda: len({call.agent for call in refused(agents)}) == SMALL.agents,
                120,
            )
        served = agents.served()
        tenures = lanes.history(context.engine, LANE)[::-1]
    assert who_of(refused(agents)) == {CRON_WHO, BATCH_WHO}
    found = list(broken(served, tenures))
    assert any("calls were answered 429" in wrong for wrong in found)
    assert any(f"calls of {BATCH_WHO} came while the lane was not" in wrong for wrong in found)


def refused(agents: RestingAgents) -> list[Served]:
    return [call for call in agents.served() if call.status != 200]


def who_of(calls: Sequence[Served]) -> set[str]:
    return {call.who for call in calls}


@contextmanager
def naive_batch(urls: Sequence[str]) -> Iterator[None]:
    """Someone's script: a few threads, any agent, and when that says no, the next one at once."""
    over = threading.Event()
    rng = random.Random(7)

    def work() -> None:
        while not over.is_set():
            over.wait(0.02)
            try:
                ask(rng.choice(urls))
            except urllib.error.HTTPError as error:
                error.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def ask(url: str) -> None:
    body = json.dumps({"payload": {"who": BATCH_WHO}}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        answer.read()
