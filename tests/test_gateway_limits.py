"""The gateway's limits: of rate, of waiting, of time, and of what a request may look like."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger import db, intake, tokens
from ledger.errors import BadInput, Unavailable
from ledger.tokens import Role, Token
from tests.conftest import Servers
from tests.gateways import (
    WAIT_S,
    Answer,
    Gateway,
    Sent,
    install_fleet,
    own_database,
    refused,
    serving,
    task,
    token_of,
    until,
)
from tests.servers import embedded_servers, scratch
from workers.gateway import body, callers
from workers.gateway import waiting as waiting_room
from workers.gateway.__main__ import listen
from workers.gateway.callers import Callers
from workers.gateway.hosts import LOOPBACK, allowed
from workers.gateway.problems import Refused
from workers.gateway.rates import Rates, site
from workers.gateway.waiting import unless_gone
from workers.settings import load_settings, sqlalchemy_url
from workers.terms import checked_key

STALL_S = 30.0  # a request's bound and room for a loaded machine, far below a client's own


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[str]:
    with own_database(servers) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(servers: Servers, database: str) -> Iterator[Gateway]:
    tight = {
        "CLEARLANE_GATEWAY_REFUSALS_PER_MIN": "3",
        "CLEARLANE_GATEWAY_WAITS_MAX": "2",
        "CLEARLANE_GATEWAY_WAITS_PER_TOKEN_MAX": "1",
        "CLEARLANE_GATEWAY_HOSTS": "Gate.example, b.example",
    }
    with serving(database, servers.redis_url, **tight) as found:
        yield found


# Rates -------------------------------------------------------------------------------------------


def rates(requests_per_s: int = 2, refusals_per_min: int = 2) -> Rates:
    return Rates(requests_per_s=requests_per_s, refusals_per_min=refusals_per_min)


def test_a_token_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates()
    monkeypatch.setattr(time, "time", lambda: 1_000_000.5)
    for _ in range(2):
        found.count_request("a")
    with pytest.raises(Refused) as told:
        found.count_request("a")
    assert told.value.status == 429
    assert told.value.headers == {"Retry-After": "1"}
    found.count_request("b")
    monkeypatch.setattr(time, "time", lambda: 1_000_002.5)
    found.count_request("a")


def test_an_address_has_a_limit_of_refused_tokens() -> None:
    found = rates()
    for address in ("10.0.0.1", "2001:db8::1"):
        found.count_refusal(address)
        found.check_address(address)
        found.count_refusal(address)
        with pytest.raises(Refused) as told:
            found.check_address(address)
        assert told.value.headers is not None
        assert 1 <= int(told.value.headers["Retry-After"]) <= 60
    found.check_address("10.0.0.2")
    with pytest.raises(Refused):
        found.check_address("2001:db8::ffff")  # the same site
    found.check_address("2001:db8:0:1::1")


def test_one_address_has_one_name() -> None:
    assert site("::ffff:10.0.0.1") == site("10.0.0.1") == "10.0.0.1"
    assert site("fe80::1%eth0") == site("fe80::2")
    assert site("") == ""


def test_a_clock_that_is_set_back_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(requests_per_s=1)
    start_s = time.time()
    monkeypatch.setattr(time, "time", lambda: start_s)
    found.count_request("a")
    monkeypatch.setattr(time, "time", lambda: start_s - 7200)
    found.count_request("a")


def test_many_requests_of_one_token_are_told_to_wait(servers: Servers, database: str) -> None:
    few = {"CLEARLANE_GATEWAY_REQUESTS_PER_S": "2"}
    with serving(database, servers.redis_url, **few) as gateway:
        # All before the first answer is read: one by one, a slow machine keeps the rate by itself.
        sent = [gateway.send("GET", "/v1/agents") for _ in range(20)]
        found = {answer.status: answer for answer in [one.answer() for one in sent]}
        assert found.keys() == {200, 429}
        refused(found[429], 429, "Authorization")
        assert found[429].headers["retry-after"] == "1"
        assert gateway.ask("GET", "/v1/agents", token=token_of(database)).status == 200
        assert gateway.ask("GET", "/livez", token=None).status == 200


def test_refused_tokens_close_an_address_to_strangers_alone(
    gateway: Gateway, database: str
) -> None:
    stranger = token_of(database)
    assert gateway.ask("GET", "/v1/prices").status == 200
    bad = [f"clearlane_{number:012x}_{'0' * 64}" for number in range(20)]
    statuses = [gateway.ask("GET", "/v1/prices", token=token).status for token in bad]
    assert statuses == [401] * 3 + [429] * 17
    answer = gateway.ask("GET", "/v1/prices", token=stranger)
    refused(answer, 429, "Authorization")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert gateway.ask("GET", "/v1/prices").status == 200  # who was known goes on


# The memory of tokens ----------------------------------------------------------------------------


class Book:
    """A ledger of one token that counts its questions."""

    def __init__(self) -> None:
        text = f"clearlane_{'0' * 12}_{'1' * 64}"
        self.header = f"Bearer {text}"
        self.asked = 0
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.token: Token | None = Token(
            id="0" * 12,
            role=Role.VIEWER,
            tenant=None,
            principal="x",
            created_at=self.now,
            expires_at=self.now + timedelta(hours=1),
            revoked_at=None,
            secret_sha256=tokens._hash("1" * 64),
        )
        self.callers = Callers(self.find, rates(10**6, 1), lambda: self.now)

    async def find(self, token_id: str) -> Token | None:
        self.asked += 1
        return self.token if token_id == "0" * 12 else None

    def identify(self, header: str | None = None) -> Token:
        return asyncio.run(self.callers.identify(header or self.header, "10.0.0.1"))


def test_a_warm_token_costs_no_question() -> None:
    book = Book()
    for _ in range(5):
        assert book.identify() == book.token
    assert book.asked == 1


def test_a_remembered_token_still_expires_on_time() -> None:
    book = Book()
    book.identify()
    book.now += timedelta(hours=1)
    with pytest.raises(Refused, match="has expired"):
        book.identify()
    assert book.asked == 1


def test_who_was_known_is_looked_up_from_a_closed_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "REMEMBERED_S", -1.0)
    book = Book()
    book.identify()
    with pytest.raises(Refused, match="not known"):
        book.identify(f"Bearer clearlane_{'2' * 12}_{'1' * 64}")
    assert book.asked == 2
    book.identify()
    assert book.asked == 3
    for text in (f"{'2' * 12}_{'1' * 64}", f"{'0' * 12}_{'2' * 64}"):
        with pytest.raises(Refused, match="more than 1 refused tokens"):
            book.identify(f"Bearer clearlane_{text}")
    assert book.asked == 3


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "REMEMBERED_MAX", 0)
    book = Book()
    book.identify()
    book.identify()
    assert book.asked == 2


def test_a_revoked_token_is_refused_within_seconds(gateway: Gateway, database: str) -> None:
    engine = db.connect(sqlalchemy_url(database))
    parts = tokens.split(gateway.token)
    assert parts is not None
    with serving(database, "redis://127.0.0.1:1/0") as other:
        parts = tokens.split(other.token)
        assert parts is not None
        assert other.ask("GET", "/v1/accounts").status == 200
        tokens.revoke(engine, parts[0], datetime.now(UTC))
        deadline = time.monotonic() + WAIT_S
        while (answer := other.ask("GET", "/v1/accounts")).status == 200:
            assert time.monotonic() < deadline
        assert "was revoked" in refused(answer, 401, "Authorization")
    engine.dispose()


# Waiting -----------------------------------------------------------------------------------------


async def _stays() -> Message:
    """A client that sends nothing and does not go."""
    await asyncio.Event().wait()
    raise AssertionError


FOR_EVER = Request({"type": "http", "headers": []}, _stays)


def waiting(gateway: Gateway, path: str) -> Sent:
    """A request that waits, so that the gateway lets its caller wait nowhere else.

    Who asks whether it does waits a little as well: if that came first, this one was refused.
    """
    deadline = time.monotonic() + STALL_S
    sent = gateway.send("GET", path)
    while gateway.ask("GET", path.partition("?")[0] + "?wait=0.01").status != 429:
        assert time.monotonic() < deadline
        if sent.is_answered():
            assert sent.answer().status == 429
            sent = gateway.send("GET", path)
    return sent


def test_a_wait_ends_with_its_token(servers: Servers, database: str) -> None:
    engine = db.connect(sqlalchemy_url(database))
    one, other = (token_of(database, Role.CLIENT, "R") for _ in range(2))
    with serving(database, servers.redis_url) as gateway:
        name = gateway.submit(task()).body["task"]
        reads = gateway.send("GET", f"/v1/tasks/{name}?wait={WAIT_S}", token=one)
        path = f"/v1/tasks?wait={WAIT_S}"
        submits = gateway.send("POST", path, task(type="late"), token=other)
        until(lambda: any(row["type"] == "late" for row in intake.task_list(engine)))
        gateway.until_it_waits(name)
        for token in (one, other):
            parts = tokens.split(token)
            assert parts is not None
            tokens.revoke(engine, parts[0], datetime.now(UTC))
        assert "was revoked" in refused(reads.answer(), 401, "Authorization")
        # That it was accepted is no news to whoever sent it; what came of it would be.
        accepted = submits.answer()
        assert (accepted.status, accepted.body.keys()) == (201, {"task", "state"})
    engine.dispose()


def test_a_token_is_looked_at_before_its_wait_is_answered() -> None:
    book = Book()
    caller = book.identify()

    async def look() -> None:
        """The task has ended, and the token a moment before."""
        book.now += timedelta(hours=1)
        await unless_gone(FOR_EVER, asyncio.sleep(0), partial(book.callers.check, caller))

    with pytest.raises(Refused, match="has expired"):
        asyncio.run(look())


def test_a_wait_outlives_an_outage_that_hides_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "CHECK_S", 0.0)
    looks = iter([Unavailable("postgresql", "away", "wait")] * 3)

    async def look() -> None:
        ended = asyncio.Event()

        async def check() -> None:
            for error in looks:
                raise error
            ended.set()

        async def wait() -> None:
            await ended.wait()

        await unless_gone(FOR_EVER, wait(), check)
        assert next(looks, None) is None

    asyncio.run(look())


def test_who_waits_too_often_is_refused_before_anything_is_done(
    gateway: Gateway, database: str
) -> None:
    engine = db.connect(sqlalchemy_url(database))
    name = gateway.submit(task()).body["task"]
    path = f"/v1/tasks/{name}?wait={WAIT_S}"
    sent = waiting(gateway, path)
    before = intake.task_counts(engine)
    answer = gateway.submit(task(), "/v1/tasks?wait=1")
    refused(answer, 429, "wait")
    assert int(answer.headers["retry-after"]) >= 1
    assert intake.task_counts(engine) == before
    assert gateway.ask("GET", f"/v1/tasks/{name}").status == 200
    # Who goes away makes room.
    sent.connection.close()
    until(lambda: gateway.ask("GET", f"/v1/tasks/{name}?wait=0.01").status == 200)
    engine.dispose()


# Time --------------------------------------------------------------------------------------------


@contextmanager
def stalled(directory: Path) -> Iterator[None]:
    """Every process of the PostgreSQL in a directory stops, without a word to anybody."""
    main = int((directory / "postgres/postmaster.pid").read_text().split()[0])
    found = [psutil.Process(main), *psutil.Process(main).children(recursive=True)]
    for process in found:
        process.suspend()
    try:
        yield
    finally:
        for process in found:
            process.resume()


def test_a_stalled_postgresql_costs_a_request_seconds_and_no_more(
    now: datetime, redis_url: str
) -> None:
    with scratch() as directory, embedded_servers(directory) as (database_url, _):
        db.migrate(sqlalchemy_url(database_url))
        engine = db.connect(sqlalchemy_url(database_url))
        install_fleet(engine, now)
        with serving(database_url, redis_url) as gateway:
            name = gateway.submit(task()).body["task"]
            with stalled(directory):
                answers = [
                    gateway.submit(task(), Idempotency_Key="k"),
                    gateway.ask("GET", f"/v1/tasks/{name}"),
                ]
                ready = gateway.ask("GET", "/readyz", token=None)
                assert gateway.ask("GET", "/livez", token=None).status == 200
            for answer in answers:
                refused(answer, 503, "postgresql")
                assert answer.took_s < STALL_S
            assert (ready.status, ready.body["checks"]["redis"]) == (503, "ok")
            # The same key: whatever became of the first one, there is one task of it.
            until(lambda: gateway.submit(task(), Idempotency_Key="k").status in {200, 201})
            assert intake.task_counts(engine)[0]["tasks"] == 2
            with stalled(directory):
                assert gateway.ask("GET", f"/v1/tasks/{name}").status == 503
                gateway.process.send_signal(signal.SIGTERM)
                assert gateway.process.wait(STALL_S) == 0
        engine.dispose()


def test_what_only_drips_is_not_waited_for(gateway: Gateway) -> None:
    """Half a head before the first request and after one; a body whose request was answered."""
    lines = [socket.create_connection((gateway.host, gateway.port), timeout=60) for _ in range(3)]
    lines[2].sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
    assert b"401" in lines[2].recv(65_536).split(b"\r\n")[0]
    lines[1].sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" in lines[1].recv(65_536).split(b"\r\n")[0]
    for line in lines:
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
    for line in lines:
        assert b"HTTP/" not in b"".join(iter(partial(line.recv, 65_536), b""))
        line.close()


def test_answers_leave_at_once(gateway: Gateway) -> None:
    """Without TCP_NODELAY each answer would wait for a delayed acknowledgement."""
    with listen("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_bodies_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "HELD_MAX_BYTES", 10)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"123456", "more_body": False}

    async def send(_: Message) -> None:
        pass

    async def read(limit: body.BodyLimit, then: ASGIApp) -> None:
        limit._app = then
        await limit({"type": "http", "headers": []}, receive, send)

    async def two() -> None:
        limit = body.BodyLimit(app=send)  # type: ignore[arg-type]

        async def inner(_: Scope, receive: Receive, __: Send) -> None:
            await receive()

        async def outer(_: Scope, receive: Receive, __: Send) -> None:
            await receive()
            with pytest.raises(Refused) as told:
                await read(limit, inner)
            assert told.value.status == 429

        await read(limit, outer)
        await read(limit, inner)  # there is room again

    asyncio.run(two())


def test_a_body_has_a_limit_of_values(gateway: Gateway) -> None:
    """Few bytes can be many objects, and the interpreter stops for all of them at once."""
    head, tail = b'{"client":"R","family":"f","payload":[', b"]}"
    room = body.VALUES_MAX - 7  # the object, three keys, two texts, the list
    for value in (b"[]", b'""', b'{"a":1}'):
        many = room // (3 if value == b'{"a":1}' else 1)
        fits = head + b",".join([value] * many) + tail
        assert gateway.ask("POST", "/v1/tasks", raw=fits).status == 201
        longer = head + b",".join([value] * (many + 1)) + tail
        told = refused(gateway.ask("POST", "/v1/tasks", raw=longer), 413, "body")
        assert "more than 100000 values and keys" in told
    # What stands in a text is no value.
    marks = json.dumps(task(payload='[{"a\\": 1}, ' * 30_000)).encode()
    assert gateway.ask("POST", "/v1/tasks", raw=marks).status == 201
    # No list of tasks, and none of the fields is known: one error of each would be as many.
    for wrong in ([0] * 50_000, dict.fromkeys(map(str, range(49_000)))):
        assert gateway.submit(wrong).status == 422


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def values(document: Any) -> int:
    if isinstance(document, dict):
        return 1 + len(document) + sum(map(values, document.values()))
    return 1 + sum(map(values, document)) if isinstance(document, list) else 1


@given(documents, st.sampled_from([None, 1]), st.booleans())
def test_values_are_counted_exactly(document: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    raw = text.encode("utf-8", "surrogatepass")
    assert body.holds_more(raw, values(document) - 1)
    assert not body.holds_more(raw, values(document))


def test_a_body_that_ends_early_is_no_fault_of_ours(gateway: Gateway) -> None:
    line = socket.create_connection((gateway.host, gateway.port), timeout=60)
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.token}\r\n"
    )
    line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
    line.close()
    assert gateway.logged(route="/v1/tasks", status=400)
    assert not any('"level": "error"' in text for text in gateway.lines)


# Form --------------------------------------------------------------------------------------------


def twice(gateway: Gateway, *headers: tuple[str, str]) -> Answer:
    """A submission with these headers, as they are, in a gateway's own words for the rest."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=60)
    text = json.dumps(task()).encode()
    connection.putrequest("POST", "/v1/tasks", skip_host=any(n == "Host" for n, _ in headers))
    given = {name.lower() for name, _ in headers}
    if "authorization" not in given:
        connection.putheader("Authorization", f"Bearer {gateway.token}")
    if "content-type" not in given:
        connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(text)))
    for name, value in headers:
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders(text)
    response = connection.getresponse()
    answer = Answer(
        status=response.status,
        headers={name.lower(): value for name, value in response.getheaders()},
        body=json.loads(response.read()),
        took_s=0.0,
    )
    connection.close()
    return answer


def test_a_request_with_two_lengths_ends_its_connection(gateway: Gateway) -> None:
    """What follows could be a request that a proxy before us has not seen."""
    second = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection((gateway.host, gateway.port), timeout=60) as line:
        line.sendall(head + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + second)
        got = b""
        while more := line.recv(65_536):
            got += more
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"400 Bad Request" in got
    assert b"alive" not in got


def test_headers_that_decide_come_once(gateway: Gateway) -> None:
    bearer = ("Authorization", f"Bearer {gateway.token}")
    for pair in (
        (("Idempotency-Key", "a"), ("Idempotency-Key", "a")),
        (("Idempotency-Key", "a"), ("idempotency-key", "b")),
        (("Content-Type", "application/json"), ("Content-Type", "text/plain")),
        (bearer, bearer),
        (bearer, ("Authorization", "Basic x")),
    ):
        refused(twice(gateway, *pair), 400, pair[0][0])


@pytest.mark.parametrize("key", ["", "k" * 201, "ä", "a\tb", "\x7f", "k\xa0"])
def test_a_key_is_printable_and_short(gateway: Gateway, key: str) -> None:
    refused(twice(gateway, ("Idempotency-Key", key)), 422, "Idempotency-Key")
    refused(gateway.submit(task(idempotency_key=key)), 422, "idempotency_key")
    with pytest.raises(BadInput, match="1 to 200 characters of printable ASCII"):
        checked_key(key)  # the command line's


def test_a_key_holds_all_of_printable_ascii(gateway: Gateway) -> None:
    key = "".join(map(chr, range(0x21, 0x7F))) + "  x" + "k" * 103
    assert len(key) == 200
    assert checked_key(key) == key
    first = twice(gateway, ("Idempotency-Key", key))
    again = gateway.submit(task(idempotency_key=key))
    assert (first.status, again.status) == (201, 200)
    assert first.body == again.body


def test_a_key_twice_in_one_object_is_refused(gateway: Gateway) -> None:
    for raw in (
        b'{"client": "S", "family": "f", "payload": 1, "client": "R"}',
        b'{"client": "R", "family": "f", "payload": {"a": 1, "\\u0061": 2}}',
    ):
        refused(gateway.ask("POST", "/v1/tasks", raw=raw), 400, "body")


def test_a_parameter_twice_is_refused(gateway: Gateway) -> None:
    refused(gateway.ask("GET", "/v1/tasks?limit=1&limit=2"), 422, "limit")
    refused(gateway.ask("GET", "/livez?x=1", token=None), 422, "x")


def test_head_is_get_without_a_body(gateway: Gateway) -> None:
    for path in ("/v1/agents", "/livez", "/v1/nothing", "/v1/tasks"):
        got, head = gateway.ask("GET", path), gateway.ask("HEAD", path)
        assert head.status == got.status
        assert head.body is None
        assert head.headers["content-type"] == got.headers["content-type"]
    assert gateway.ask("HEAD", "/v1/agents", token=None).status == 401


def test_a_wrong_method_is_told_the_right_ones(gateway: Gateway) -> None:
    for path, allow in (("/v1/tasks", "GET, HEAD, POST"), ("/livez", "GET, HEAD")):
        for method in ("DELETE", "OPTIONS", "PATCH", "FOO"):
            answer = gateway.ask(method, path)
            assert (answer.status, answer.headers["allow"]) == (405, allow)
            assert answer.headers["content-type"] == "application/problem+json"


def test_every_answer_has_the_security_headers(gateway: Gateway) -> None:
    for answer in (
        gateway.ask("GET", "/livez"),
        gateway.ask("GET", "/v1/agents", token=None),
        gateway.ask("GET", "/v1/agents", headers={"Host": "evil.example"}),
        gateway.ask("POST", "/v1/tasks", raw=b"x"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


NAMES = {"/v1/tasks": "task", "/v1/accounts": "account", "/v1/lanes": "lane"}


@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/v1/agents", "/v1/prices", "/v1/accounts", "/v1/lanes"]
)
def test_every_list_comes_in_pages(gateway: Gateway, path: str) -> None:
    gateway.submit([task(), task(), task()])
    seen: list[str] = []
    following: str | None = f"{path}?limit=2"
    while following is not None:
        answer = gateway.ask("GET", following)
        assert answer.status == 200
        assert len(answer.body) <= 2
        seen += [row[NAMES.get(path, "agent")] for row in answer.body]
        link = answer.headers.get("link")
        following = link.split(">")[0].removeprefix("<") if link else None
    whole = gateway.ask("GET", f"{path}?limit=1000")
    assert "link" not in whole.headers
    assert len(seen) == len(set(seen)) == len(whole.body) >= 2
    for query in ("limit=0", "limit=1001", "limit=-1", "limit=x"):
        refused(gateway.ask("GET", f"{path}?{query}"), 422, "limit")
    refused(gateway.ask("GET", f"{path}?after="), 422, "after")


def test_a_page_after_no_task_is_refused(gateway: Gateway) -> None:
    for mark in ("x", "00000000-0000-7000-8000-000000000000"):
        refused(gateway.ask("GET", f"/v1/tasks?after={mark}"), 404, "after")


# Names, logs -------------------------------------------------------------------------------------


def test_names_are_those_of_the_operator(gateway: Gateway) -> None:
    for name in ("gate.example", "GATE.example:443", "b.example", "127.0.0.1"):
        assert gateway.ask("GET", "/v1/agents", headers={"Host": name}).status == 200
    for name in ("evil.example", "x.gate.example", "gate.example.evil.example"):
        refused(gateway.ask("GET", "/v1/agents", headers={"Host": name}), 421, "Host")


def test_whom_a_gateway_answers_to() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert allowed(host, ()) == LOOPBACK
    assert allowed("0.0.0.0", ()) == frozenset()  # whoever may reach it needs a token
    assert allowed("0.0.0.0", ("a.example",)) == LOOPBACK | {"a.example"}


@pytest.mark.parametrize("names", ["a b", "a.example:80", "a,,b", "-", "http://a"])
def test_names_that_are_none_are_refused(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARLANE_GATEWAY_HOSTS", names)
    with pytest.raises(BadInput) as told:
        load_settings()
    assert told.value.field == "CLEARLANE_GATEWAY_HOSTS"


def test_the_log_says_who_asked_for_what_and_no_secret(gateway: Gateway, database: str) -> None:
    made = gateway.submit([task(), task()], "/v1/tasks")
    (line,) = gateway.logged(tasks=[item["task"] for item in made.body])
    parts = tokens.split(gateway.token)
    assert parts is not None
    expected = {
        "event": "request", "principal": "test-operator", "token": parts[0], "method": "POST",
        "route": "/v1/tasks", "status": 201, "tasks_count": 2, "address": "127.0.0.1",
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    assert line["duration_s"] >= 0
    name = made.body[0]["task"]
    gateway.ask("GET", f"/v1/tasks/{name}")
    assert gateway.logged(tasks=[name])[0]["route"] == "/v1/tasks/{task}"
    gateway.ask("GET", "/v1/%1b[31m%0d%0aevil?q=secretive", headers={"User-Agent": "agentive"})
    assert gateway.logged(route="/v1/ [31m evil")[0]["status"] == 404
    gateway.ask("GET", "/v1/agents", token=None)
    assert gateway.logged(status=401)[0]["principal"] is None
    text = "".join(gateway.lines)
    for secret in (parts[1], "secretive", "agentive", '"a": 1'):
        assert secret not in text
    assert not any(c for c in text if not c.isprintable() and c != "\n")


def test_what_is_not_http_is_told_so_like_every_other_fault(gateway: Gateway) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n9d!~;: x\r\n\r\n")
        head, _, body = b"".join(iter(lambda: line.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["detail"] == ("request: Invalid HTTP request received.; send HTTP/1.1")
