"""Continuous load by seed, and a record of all that the clients were told (invariant C10)."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine

from ledger import intake
from ledger.errors import Unavailable
from ledger.intake import Submission

CLIENT = "T"
FAMILY = "count"
ANSWER_S = 10.0  # a client's patience with one request
PAUSE_S = 0.1  # before the next try
REST_MAX_S = 1.5  # before the next submission: some 18 tasks a second in all
CHUNK_MAX = 8
FEEDERS = 3  # two at the gateway, one at the intake
AGAIN = {429, 502, 503, 504}  # try again with the same keys


@dataclass(kw_only=True)
class Told:
    """What its client knows of a task. `state` INIT: accepted."""

    task: str
    number: int
    state: str = "INIT"
    cost_ub: str | None = None
    result: Any = None


class Load:
    """Clients that submit, look and cancel while the block runs. At its end every key was told.

    `wrong` lists all that no client may ever see: a status that is neither an answer nor "try
    again", another task for the same key, a task that ended twice.
    """

    def __init__(
        self, *, gateway_url: str, token: str, engine: Engine, name: str, seed: int
    ) -> None:
        self._url = f"{gateway_url}/v1/tasks"
        self._token = token
        self._engine = engine
        self.name = name
        self._seed = seed
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._number = 0
        self.told: dict[str, Told] = {}
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self._feeders = [
            threading.Thread(target=self._feed, args=(index, ask), daemon=True)
            for index, ask in enumerate([self._post, self._post, self._hand_in][:FEEDERS])
        ]
        self._looker = threading.Thread(target=self._look_around, daemon=True)

    def __enter__(self) -> Self:
        for thread in (*self._feeders, self._looker):
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def finish(self, timeout_s: float) -> None:
        """No new tasks; wait until everybody has been told of what was sent."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in (*self._feeders, self._looker):
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                self.wrong.append(f"a client waits in vain for an answer: {dict(self.answers)}")

    # Submitting

    def _feed(self, index: int, ask: Callable[[list[dict[str, Any]]], Any]) -> None:
        rng = random.Random(f"{self._seed}:{index}")
        while not self._stop.is_set():
            batch = self._batch(rng)
            while (found := ask(batch)) is None:
                if self._stop.wait(PAUSE_S):
                    time.sleep(PAUSE_S)  # it stops, but nobody is left without an answer
            for item, answer in zip(batch, found, strict=True):
                self._learn(item["idempotency_key"], item["payload"]["n"], answer)
            self._stop.wait(rng.uniform(0.0, REST_MAX_S))

    def _batch(self, rng: random.Random) -> list[dict[str, Any]]:
        with self._lock:
            first, self._number = self._number, self._number + CHUNK_MAX
        return [
            {
                "client": CLIENT,
                "family": FAMILY,
                "payload": {"n": number},
                "idempotency_key": f"{self.name}-{number}",
            }
            for number in range(first, first + rng.randint(1, CHUNK_MAX))
        ]

    def _post(self, batch: list[dict[str, Any]]) -> Any:
        return self._ask("POST", self._url, batch)

    def _hand_in(self, batch: list[dict[str, Any]]) -> Any:
        asked = [
            Submission(
                family=item["family"],
                payload=item["payload"],
                idempotency_key=item["idempotency_key"],
            )
            for item in batch
        ]
        try:
            found = intake.submit(self._engine, CLIENT, asked, datetime.now(UTC))
        except Unavailable:
            self.answers["intake away"] += 1
            return None
        except Exception as error:
            self._blame(f"the intake raised {type(error).__name__}: {error}")
            return None
        return [{"task": item.task, "state": item.state} for item in found]

    # Looking and cancelling

    def _look_around(self) -> None:
        rng = random.Random(f"{self._seed}:look")
        while not self._stop.wait(PAUSE_S / 2):
            with self._lock:
                keys = [key for key, told in self.told.items() if told.state == "INIT"]
            if not keys:
                continue
            key = rng.choice(keys)
            url = f"{self._url}/{self.told[key].task}"
            found = (
                self._ask("POST", f"{url}/cancel", expected={409})
                if rng.random() < 0.1
                else self._ask("GET", f"{url}?wait=0.5")
            )
            if found is not None and "task" in found:
                self._learn(key, self.told[key].number, found)

    def _ask(
        self, method: str, url: str, body: Any = None, expected: Sequence[int] | set[int] = ()
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                self.answers[str(answer.status)] += 1
                return json.load(answer)
        except urllib.error.HTTPError as error:
            self.answers[str(error.code)] += 1
            if error.code not in AGAIN and error.code not in expected:
                self._blame(f"{method} {url}: {error.code} {error.read()[:500]!r}")
        except TimeoutError:
            self.answers["no answer"] += 1
        except (OSError, ValueError) as error:  # ValueError: the answer broke off
            self.answers[type(error).__name__] += 1
        return None

    # The record

    def _learn(self, key: str, number: int, answer: dict[str, Any]) -> None:
        with self._lock:
            told = self.told.setdefault(key, Told(task=answer["task"], number=number))
            if told.task != answer["task"]:
                self.wrong.append(f"key {key}: first task {told.task}, then {answer['task']}")
            if told.state not in {"INIT", answer["state"]}:
                self.wrong.append(f"task {told.task}: first {told.state}, then {answer['state']}")
            told.state = answer["state"]
            if "cost_ub" in answer:
                told.cost_ub, told.result = answer["cost_ub"], answer["result"]

    def _blame(self, what: str) -> None:
        with self._lock:
            if len(self.wrong) < 20:
                self.wrong.append(what)
