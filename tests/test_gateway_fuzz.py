"""Whatever is sent to the gateway: no fault of ours, and never an answer that is not documented.

`CHAOS_SCALE=1` sends 20,000 requests instead of 1,000; `CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import Servers
from tests.gateways import PATIENCE_S, Gateway, own_database, serving, task

SCALE = int(os.environ.get("CHAOS_SCALE", "0"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
PARTS = 4  # that can be sent at the same time
REQUESTS = (20_000 * SCALE or 1_000) // PARTS
WAIT_S_MAX = 0.02  # what is waited for here never ends
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def gateway(servers: Servers) -> Iterator[Gateway]:
    free = {"CLEARLANE_GATEWAY_REQUESTS_PER_S": "1000000"}
    with own_database(servers) as url, serving(url, servers.redis_url, **free) as found:
        yield found


@dataclass(kw_only=True)
class Fuzz:
    """Sends cases, and once more to things that are there, and checks the answers."""

    gateway: Gateway
    there: dict[str, str]
    statuses: Counter[int] = field(default_factory=Counter)
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False
        self.session.auth = self._authorize

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The last word: whether another token opens is another test's business."""
        request.headers["Authorization"] = f"Bearer {self.gateway.token}"
        return request

    def send(self, case: Any) -> None:
        self._ask(case)
        if self._aim(case):
            self._ask(case)

    def _ask(self, case: Any) -> None:
        query = case.query or {}
        with suppress(KeyError, TypeError, ValueError):
            if WAIT_S_MAX < float(query["wait"]) < float("inf"):
                query["wait"] = WAIT_S_MAX
        url = f"http://{self.gateway.host}:{self.gateway.port}"
        response = case.call(base_url=url, session=self.session, timeout=PATIENCE_S)
        self.statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    def _aim(self, case: Any) -> bool:
        """At what is there, since random names are never known; whether that is another case."""
        names = case.path_parameters or {}
        names |= {name: self.there[name] for name in names}
        bodies = case.body if isinstance(case.body, list) else [case.body]
        tasks = [item for item in bodies if isinstance(item, dict)]
        for item in tasks:
            item |= {"client": "R", "family": "f"}
        return bool(names or tasks)

    def fuzz(self, operation: Any, mode: GenerationMode, count: int, number: int) -> None:
        """About `count` cases, fewer if there are not so many different ones."""

        @seed(number)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def sent(case: Any) -> None:
            self.send(case)

        with suppress(Unsatisfiable):  # nothing about it can be wrong
            sent()


@pytest.mark.timeout(120 + REQUESTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_sent_is_answered_as_documented(gateway: Gateway, part: int) -> None:
    fuzz = Fuzz(
        gateway=gateway,
        there={
            "task": gateway.submit(task()).body["task"],
            "agent": "A",
            "account": "client:R",
            "lane": "default",
            "path": "entries/000.p/1",
            "epoch": "1",
        },
    )
    schema = schemathesis.openapi.from_dict(gateway.ask("GET", "/openapi.json").body)
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) == len(schema)
    print(f"seed {SEED}, {len(operations)} operations")
    numbers = random.Random(f"{SEED}:{part}")
    while (left := REQUESTS - fuzz.statuses.total()) > 0:
        for operation in operations:
            for mode in GenerationMode:
                count = max(1, left // (2 * 2 * len(operations)))
                fuzz.fuzz(operation, mode, count, numbers.getrandbits(64))
    print(dict(fuzz.statuses))
    assert {200, 201, 404, 422} <= fuzz.statuses.keys(), "it never got inside"
    assert gateway.ask("GET", "/readyz").status == 200
