"""Section `windows`: how much of their cooldown windows a fleet's agents are used."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psycopg
import redis

from bench import stats
from bench.processes import together
from bench.section import Bench, Figures, Grid, Section, Trial
from bench.stand import CLIENT, FAMILY, Stand, running
from ledger import intake
from ledger.model import Agent
from workers.probes import http_ready
from workers.process import Process

AGENTS = 32
COOLDOWN_S = 20.0  # stands for two hours
WINDOWS = 6
LANE = "mint"
LOOK_S = 0.2
OPENER = build_opener(ProxyHandler({}))  # what the environment says of proxies is not for here
RANDOM = {"at the fleet's rate": 1, "at ten times that": 10}  # tries in each window


@contextmanager
def _limited(bench: Bench, name: str, cooldown_s: float) -> Iterator[str]:
    """The URL of a process of agents that keep to their cooldown."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = Process(
        name=name,
        argv=(sys.executable, "-m", "bench.limited", str(port), str(AGENTS), str(cooldown_s)),
        env=os.environ,
        ready=partial(http_ready, f"{url}/log"),
    )
    with together([process], bench.place):
        yield url


def _log(url: str) -> dict[str, Any]:
    with OPENER.open(f"{url}/log") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _look(watch: Any, seen: Sequence[dict[int, int]]) -> None:
    """Which window each agent has, by its last reservation."""
    with watch.pipeline(transaction=False) as pipe:
        for number in range(AGENTS):
            pipe.hmget(f"pool:A{number}", "last_action_ms", "next_available_ms")
        for windows, (action, opens) in zip(seen, pipe.execute(), strict=True):
            if action is not None and int(action):
                windows[int(action)] = int(opens)


def _ours(stand: Stand, url: str, cooldown_s: float, windows: int) -> Trial:
    """More work than fits; measured after the first window, when every process is warm."""
    item = intake.Submission(family=FAMILY, payload={"n": 1}, lane=LANE)
    intake.submit(stand.engine, CLIENT, [item] * (AGENTS * (windows + 3)), datetime.now(UTC))
    start = time.time() + 1.5 * cooldown_s
    end = start + windows * cooldown_s
    seen: list[dict[int, int]] = [{} for _ in range(AGENTS)]
    with redis.Redis.from_url(stand.bench.redis_url) as watch:
        while time.time() < end:
            stand.require_alive()
            _look(watch, seen)
            time.sleep(LOOK_S)
    log = _log(url)
    with psycopg.connect(stand.url) as connection:
        row = connection.execute("SELECT avg(attempt) FROM task WHERE state = 'COMMITTED'")
        claims = float(row.fetchone()[0])  # type: ignore[index]
    return {
        **used(log["accepted"], start, end, cooldown_s),
        "refused": log["refused"],
        "claims_per_start": claims,
        "parts_ms": [
            part
            for accepted, opened in zip(log["accepted"], seen, strict=True)
            for part in parts(accepted, opened, cooldown_s)
            if start <= part["at"] < end
        ],
    }


def used(
    accepted: Sequence[Sequence[float]], start: float, end: float, cooldown_s: float
) -> dict[str, Any]:
    """Starts between two instants, as a share of those possible, and what each came too late.

    accepted: when each agent accepted a call. A start uses its agent for a cooldown. Pure.
    """
    busy_s = sum(
        max(0.0, min(at + cooldown_s, end) - max(at, start)) for agent in accepted for at in agent
    )
    late_ms = [
        (after - before - cooldown_s) * 1000
        for agent in accepted
        for before, after in itertools.pairwise(agent)
        if start <= after < end
    ]
    return {
        "share": busy_s / (len(accepted) * (end - start)),
        "starts": sum(start <= at < end for agent in accepted for at in agent),
        "late_ms": late_ms,
    }


def parts(
    accepted: Sequence[float], opened: Mapping[int, int], cooldown_s: float
) -> list[dict[str, float]]:
    """Where the time went between an agent's window and its next call (`at`), in ms. Pure.

    opened: until when the agent rested after each reservation, both in ms since the epoch.
    answer: until we took the window for open; turn: until the next task had it; call: until the
    agent had the call.
    """
    found = []
    arrived = dict(zip(sorted(opened), accepted, strict=False))
    for before, after in zip(arrived, [*arrived][1:], strict=False):
        open_ms = arrived[before] * 1000 + cooldown_s * 1000
        found.append(
            {
                "answer": opened[before] - open_ms,
                "turn": float(after - opened[before]),
                "call": arrived[after] * 1000 - after,
                "at": arrived[after],
            }
        )
    return found


def _random(url: str, tries: int, cooldown_s: float, windows: int) -> Trial:
    """Nobody keeps account: each try goes to any agent, one that was refused waits for its turn."""
    rng = random.Random(tries)
    start = time.time()
    end, pause_s = start + windows * cooldown_s, cooldown_s / AGENTS / tries
    for number in range(int((end - start) / pause_s)):
        time.sleep(max(0.0, start + number * pause_s - time.time()))
        _call(f"{url}/{rng.randrange(AGENTS)}")
    log = _log(url)
    return used(log["accepted"], start, end, cooldown_s) | {"refused": log["refused"]}


def _at_random(bench: Bench, cooldown_s: float, windows: int) -> dict[str, Trial]:
    """At each rate, all at the same time: each rate has agents of its own."""
    with ExitStack() as stack, ThreadPoolExecutor(len(RANDOM)) as pool:
        urls = {
            name: stack.enter_context(_limited(bench, f"limited_{tries}", cooldown_s))
            for name, tries in RANDOM.items()
        }
        found = {
            name: pool.submit(_random, urls[name], tries, cooldown_s, windows)
            for name, tries in RANDOM.items()
        }
        return {name: one.result() for name, one in found.items()}


def _call(url: str) -> None:
    try:
        with OPENER.open(Request(url, data=b"{}", method="POST")) as answer:
            answer.read()
    except HTTPError as error:
        error.close()  # 429


def measure(bench: Bench, number: int) -> Trial:
    """Our dispatcher, then random choice, on agents of the same kind."""
    cooldown_s = float(bench.size(int(COOLDOWN_S), 2))
    windows = bench.size(WINDOWS, 3)
    with _limited(bench, "limited", cooldown_s) as url:
        agents = [
            Agent(
                id=f"A{index}", kind="json", url=f"{url}/{index}", y_max=100_000, k=10**6,
                slots=1, cooldown_s=cooldown_s, lane=LANE,
            )
            for index in range(AGENTS)
        ]  # fmt: skip
        with running(bench, f"windows_{number}", agents=agents) as stand:
            ours = _ours(stand, url, cooldown_s, windows)
    bench.say(f"windows used: {ours['share']:.2%}, {ours['refused']} refused")
    return {
        "cooldown_s": cooldown_s,
        "windows": windows,
        "ours": ours,
        "random": _at_random(bench, cooldown_s, windows),
    }


def summarise(trials: Sequence[Trial]) -> Figures:
    """The one trial."""
    (trial,) = trials
    ours = trial["ours"]
    rows = {"Clearlane": ours} | {f"random, {n}": row for n, row in trial["random"].items()}
    shown = ("share", "starts", "refused")
    return {
        "cooldown_s": trial["cooldown_s"],
        "rows": {name: {key: row[key] for key in shown} for name, row in rows.items()},
        "claims_per_start": ours["claims_per_start"],
        "late": _spread(ours["late_ms"]),
        "parts": {
            name: _spread([part[name] for part in ours["parts_ms"]])
            for name in ("answer", "turn", "call")
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50_ms": stats.quantile(values, 0.50),
        "p99_ms": stats.quantile(values, 0.99),
        "mean_ms": sum(values) / len(values),
    }


PARTS = {
    "late": "a start, after its window opened at the agent",
    "answer": "of it until we took the window for open",
    "turn": "of it until the next task had it (wake, claim, hop, reserve)",
    "call": "of it until the agent had the call (hop, begin, HTTP)",
}


def grids(figures: Figures) -> list[Grid]:
    """What was used, and what was lost where."""
    rows = [
        (name, f"{row['share']:.2%}", f"{row['starts']:,}", f"{row['refused']:,}")
        for name, row in figures["rows"].items()
    ]
    spreads = {"late": figures["late"], **figures["parts"]}
    lost = [
        (PARTS[name], *(f"{spread[key]:.1f}" for key in ("p50_ms", "p99_ms", "mean_ms")))
        for name, spread in spreads.items()
    ]
    title = f"{AGENTS} agents, each with a cooldown of {figures['cooldown_s']:g} s"
    return [
        Grid(title=title, head=("", "of the possible starts", "starts", "429"), rows=rows),
        Grid(title="What a window loses", head=("", "p50 ms", "p99 ms", "mean ms"), rows=lost),
    ]


SECTION = Section(
    name="windows",
    about="32 HTTP agents with a cooldown, beside random choice",
    measure=measure,
    summarise=summarise,
    grids=grids,
    notes=(
        f"Windows: a cooldown of {COOLDOWN_S:g} s stands for two hours. What a window loses does "
        "not depend on its length: that is the figure that carries over. The agents count from "
        "the arrival of the call that they accepted last, and refuse what comes sooner.",
        "Random: each try goes to any of the agents at a steady rate, as many tries as there are "
        "windows or ten times as many; refused work waits for the next try.",
    ),
    trials=1,
)
