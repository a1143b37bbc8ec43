"""A gateway as a process of its own, on real servers, and how to speak to it over HTTP."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Engine

from ledger import db, registry, tokens
from ledger.model import Agent, Family
from ledger.tokens import Role
from tests.conftest import TEMPLATE, Servers
from workers.settings import sqlalchemy_url

SOON_S = 40.0  # below WAIT_S, far above what a loaded machine needs
WAIT_S = 60  # the longest that may be asked for
PATIENCE_S = 100.0  # above WAIT_S
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    took_s: float


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request that the gateway has, or will have before any that is sent later."""

    connection: http.client.HTTPConnection
    started_s: float

    def answer(self) -> Answer:
        """What it said, as soon as it does."""
        try:
            response = self.connection.getresponse()
            text = response.read()
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=_decoded(text, response.headers.get_content_subtype()),
                took_s=time.monotonic() - self.started_s,
            )
        finally:
            self.connection.close()

    def is_answered(self) -> bool:
        """Whether the first byte of the answer has come, or the end."""
        return bool(select.select([self.connection.sock], [], [], 0)[0])


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The running process and how to speak to it. `token` goes with every request."""

    process: subprocess.Popen[str]
    host: str
    port: int
    token: str
    lines: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        """Send a request as `send` does, and wait for its answer."""
        return self.send(method, path, body, **more).answer()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> Sent:
        """`token` "" is the gateway's own, None is none."""
        sent = raw if raw is not None or body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} if sent is not None else {}
        if token is not None:
            named["Authorization"] = f"Bearer {token or self.token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        started_s = time.monotonic()
        try:
            connection.request(method, path, sent, {**named, **(headers or {})})
        except BaseException:
            connection.close()
            raise
        return Sent(connection=connection, started_s=started_s)

    def submit(
        self, body: object, path: str = "/v1/tasks", token: str = "", **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, headers=named, token=token)

    def until_it_waits(self, task: str) -> None:
        """Ten rounds on the same event loop: a request sent before has begun to wait."""
        for _ in range(10):
            assert self.ask("GET", f"/v1/tasks/{task}").status == 200

    def logged(self, **wanted: object) -> list[dict[str, Any]]:
        """Lines of the log with these fields, as soon as there are any."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            lines = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
            found[:] = [
                line
                for line in lines
                if all(line.get(name) == value for name, value in wanted.items())
            ]
            return bool(found)

        until(look)
        return found


def _decoded(text: bytes, kind: str) -> Any:
    if not text:
        return None
    if kind == "octet-stream":
        return text
    return json.loads(text) if kind.endswith("json") else text.decode()


def environment(database_url: str, redis_url: str, **settings: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url, **settings}


@contextmanager
def serving(
    database_url: str, redis_url: str, *arguments: str, **settings: str
) -> Iterator[Gateway]:
    """A gateway with an operator's token."""
    with subprocess.Popen(
        [sys.executable, "-m", "workers.gateway", "--port", "0", *arguments],
        env=environment(database_url, redis_url, **settings),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            assert first.startswith("{"), first + process.stderr.read()
            host, _, port = json.loads(first)["url"].removeprefix("http://").rpartition(":")
            found = Gateway(
                process=process, host=host, port=int(port), token=token_of(database_url)
            )
            # Unread, its log would fill the pipe and stop it.
            reader = threading.Thread(target=found.lines.extend, args=(process.stderr,))
            reader.start()
            yield found
            process.kill()
            reader.join()
        finally:
            process.kill()


@contextmanager
def own_database(servers: Servers) -> Iterator[str]:
    """A migrated database with the fleet, for all tests of a module."""
    name = f"gateway_{os.getpid()}_{next(_numbers)}"
    url = f"{servers.database_url.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    engine = db.connect(sqlalchemy_url(url))
    install_fleet(engine, datetime.now(UTC))
    engine.dispose()
    yield url
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def token_of(database_url: str, role: Role = Role.OPERATOR, tenant: str | None = None) -> str:
    """A fresh token."""
    engine = db.connect(sqlalchemy_url(database_url))
    try:
        return tokens.create(
            engine, role=role, principal=f"test-{role}", tenant=tenant, now=datetime.now(UTC)
        ).text
    finally:
        engine.dispose()


def install_fleet(engine: Engine, now: datetime) -> None:
    """Two clients, of which R has credit, a family and two agents, of which one has secrets."""
    wanted = registry.Wanted(
        params={},
        clients=[registry.Client(id="R", mint_ub=2_000_000_000), registry.Client(id="S")],
        agents=[
            Agent(
                id="A",
                kind="json",
                url="http://user:secret@127.0.0.1:9001/run?key=secret",
                y_max=1000,
                k=1_000_000,
                headers={"x-api-key": "secret"},
            ),
            Agent(id="B", kind="echo", url="echo:", y_max=500, k=1_000_000, suspended=True),
        ],
        families=[
            Family(id="f", size=100, deadline_s=5, max_attempts=3, validator={"type": "none"})
        ],
    )
    registry.apply(engine, wanted, now)


def task(**fields: object) -> dict[str, object]:
    return {"client": "R", "family": "f", "payload": {"a": 1}, **fields}


def refused(answer: Answer, status: int, field: str) -> str:
    """The problem's detail, after checking its form."""
    problem = answer.body
    assert answer.status == status, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"].startswith("urn:problem-type:clearlane:")
    assert problem["title"]
    assert problem["field"] == field, problem
    assert problem["detail"] == f"{field}: {problem['reason']}; {problem['remedy']}"
    assert "Traceback" not in json.dumps(problem)
    return str(problem["detail"])


def until(condition: Any) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
