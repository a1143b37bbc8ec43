"""Section `load`: latency under an open load, Poisson arrivals at shares of saturation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from bench import cost, stats
from bench.backlog import STEPS
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import CLIENT, SUBMISSION, SUBMIT_MAX, Stand, running
from ledger import intake
from ledger.db import ENDED
from ledger.listen import Listener

SHARES = {"half": 0.5, "near": 0.9}
WARM_S = 1.0  # arrivals of the first second are not counted
OPEN_MAX = 2_048  # tasks open at a time while saturation is measured
END_S = 30.0


@dataclass(slots=True)
class Endings:
    """When each task was heard to have ended; a thread of its own listens."""

    url: str
    at_s: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Endings:
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _listen(self) -> None:
        with Listener(self.url, ENDED) as listener:
            self._ready.set()
            while not self._stop.is_set():
                heard = listener.wait(0.1)
                now_s = time.perf_counter()
                for _, payload in heard:
                    for task in json.loads(payload):
                        self.at_s[task] = now_s


def _submit(stand: Stand, count: int) -> list[str]:
    accepted = intake.submit(stand.engine, CLIENT, [SUBMISSION] * count, datetime.now(UTC))
    return [item.task for item in accepted]


def _saturation(stand: Stand, span_s: float) -> float:
    """Settled tasks per second while the intake keeps the waiting room filled."""
    with Endings(stand.url) as endings:
        sent = len(_submit(stand, SUBMIT_MAX))
        started, warm = time.perf_counter(), None
        while (now_s := time.perf_counter()) - started < span_s:
            if warm is None and now_s - started > span_s / 4:
                warm = (now_s, len(endings.at_s))
            room = OPEN_MAX - (sent - len(endings.at_s))
            if room >= 64:
                sent += len(_submit(stand, min(room, SUBMIT_MAX)))
            else:
                time.sleep(0.002)
        assert warm is not None
        per_s = (len(endings.at_s) - warm[1]) / (time.perf_counter() - warm[0])
        _await_all(stand, endings, sent)
    return per_s


def _open_loop(stand: Stand, per_s: float, span_s: float, seed: int) -> list[float]:
    """Milliseconds from each task's arrival to its end, whether or not it was let in at once."""
    arrivals_s = stats.poisson(per_s, WARM_S + span_s, seed)
    arrived: dict[str, float] = {}
    with Endings(stand.url) as endings:
        started, next_one = time.perf_counter(), 0
        while next_one < len(arrivals_s):
            now_s = time.perf_counter() - started
            count = stats.due(arrivals_s, next_one, now_s, SUBMIT_MAX)
            if not count:
                time.sleep(max(0.0, arrivals_s[next_one] - now_s))
                continue
            for offset, task in enumerate(_submit(stand, count)):
                arrived[task] = started + arrivals_s[next_one + offset]
            next_one += count
        _await_all(stand, endings, len(arrivals_s))
    return [
        (endings.at_s[task] - at_s) * 1000
        for task, at_s in arrived.items()
        if at_s - started > WARM_S
    ]


def _await_all(stand: Stand, endings: Endings, count: int) -> None:
    deadline = time.perf_counter() + END_S
    while len(endings.at_s) < count:
        stand.require_alive()
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{count - len(endings.at_s)} tasks did not end in {END_S:g} s")
        time.sleep(0.02)


def measure(bench: Bench, number: int) -> Trial:
    """Saturation with the intake at work, then each share of it."""
    with running(bench, f"load_{number}") as stand:
        stand.warm()
        saturation = _saturation(stand, bench.size(8, 2))
        bench.say(f"saturation with intake: {saturation:,.0f} tasks/s")
        found: Trial = {"saturation_per_s": saturation, "ms": {}, "tasks_per_message": {}}
        for name, share in SHARES.items():
            sent, settled = cost.messages(bench.redis_url), stand.settled()
            waits_ms = _open_loop(stand, share * saturation, bench.size(10, 2), seed=number)
            after = cost.messages(bench.redis_url)
            found["tasks_per_message"][name] = {
                step: (stand.settled() - settled) / max(1, after.get(task, 0) - sent.get(task, 0))
                for step, task in STEPS.items()
            }
            found["ms"][name] = [round(value, 2) for value in waits_ms]
        stand.require_sound()
    return found


def summarise(trials: Sequence[Trial]) -> Figures:
    """Medians of the trials' quantiles."""
    return {
        "saturation_per_s": median(trial["saturation_per_s"] for trial in trials),
        **{
            name: stats.latency([trial["ms"][name] for trial in trials])
            | {"drift": max(stats.drift(trial["ms"][name]) for trial in trials)}
            | stats.medians([trial["tasks_per_message"][name] for trial in trials])
            for name in SHARES
        },
    }


def grids(figures: Figures) -> list[Grid]:
    """One row per share."""
    rows = [
        (
            f"{share:.0%}",
            f"{share * figures['saturation_per_s']:,.0f}",
            f"{figures[name]['p50_ms']:.1f}",
            f"{figures[name]['p99_ms']:.1f}",
            f"{figures[name]['p99_ms'] / figures[name]['p50_ms']:.2f}",
            f"{figures[name]['drift']:.2f}",
            " ".join(f"{figures[name][step]:.1f}" for step in STEPS),
        )
        for name, share in SHARES.items()
    ]
    title = f"Open load; saturation with intake: {figures['saturation_per_s']:,.0f} tasks/s"
    head = (
        "share of saturation",
        "arrivals/s",
        "p50 ms",
        "p99 ms",
        "p99/p50",
        "drift",
        "tasks/message",
    )
    return [Grid(title=title, head=head, rows=rows)]


SECTION = Section(
    name="load",
    about="latency under an open load at half of saturation and near it",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        "Open load: Poisson arrivals with a fixed seed; latency counts from a task's own arrival, "
        "so a late intake makes no figure look better. The intake takes what has arrived in one "
        "submission, from one process on the same cores. Saturation: settled tasks per second "
        f"while the intake keeps {OPEN_MAX:,} tasks open. Drift: p50 of the last third of arrivals "
        "over that of the first; where it is far above 1 a queue grew and the rate was no share "
        "of what the machine could do. Tasks/message: reserve, execute, validate, commit.",
    ),
    trials=2,
)
