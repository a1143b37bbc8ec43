"""Calling agents: what a real server does on loopback, and the reply it ends in."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvariantBroken
from ledger.model import Agent, AttemptKey, Outcome, Reply
from tasks.addresses import AddressPolicy
from tasks.agents import BODY_MAX, AgentClient, retry_after_s
from tasks.resolver import Resolver

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AGENT = Agent(id="a", kind="json", url="", y_max=1000, k=1_000_000)
LONG_S = 60.0  # for calls that end by themselves
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
PEM = Path(__file__).with_name("untrusted.pem")


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls, backlog=512).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def ask(client: AgentClient, agent: Agent, deadline_s: float = LONG_S) -> Reply:
    return await client.call(
        agent, key=AttemptKey("t-1", 2), family="f", payload={"q": "ü"}, deadline_s=deadline_s
    )


def call(handler: Handler, *, deadline_s: float = LONG_S, **changes: Any) -> Reply:
    """One call of a server with this handler."""

    async def scene() -> Reply:
        async with serving(handler) as port, AgentClient() as client:
            agent = replace(AGENT, url=f"http://127.0.0.1:{port}/run", **changes)
            return await ask(client, agent, deadline_s)

    return asyncio.run(scene())


def answering(body: bytes | str, status: int = 200, **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        raw = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=raw, status=status, headers=named)

    return handler


# Kinds


def test_json_kind_posts_the_task_and_returns_the_output() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, dict(request.headers), await request.json()))
        return web.json_response({"output": [1, None]})

    secret = {"X-Key": "k", "idempotency-key": "mine", "accept-encoding": "gzip"}
    reply = call(handler, headers=secret | {"x-clearlane-task": "mine"})
    assert (reply.outcome, reply.output, reply.detail) == (Outcome.OK, [1, None], "")
    assert 0 < reply.latency_s < LONG_S
    method, headers, body = seen[0]
    assert (method, body) == ("POST", {"task": "t-1", "family": "f", "payload": {"q": "ü"}})
    assert headers["X-Key"] == "k"
    named = {name.lower(): value for name, value in headers.items()}
    assert named["idempotency-key"] == named["x-clearlane-task"] == "t-1"
    assert named["x-clearlane-attempt"] == "2"
    assert [value for name, value in headers.items() if name.lower() == "accept-encoding"] == [
        "identity"
    ]


def test_openai_kind_posts_a_chat_completion_and_reads_its_content() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"choices": [{"message": {"content": '{"n": 3}'}}]})

    reply = call(handler, kind="openai", model="m-1")
    assert (reply.outcome, reply.output) == (Outcome.OK, {"n": 3})
    assert seen[0]["model"] == "m-1"
    (message,) = seen[0]["messages"]
    assert message["role"] == "user"
    assert json.loads(message["content"]) == {"q": "ü"}


def test_echo_kind_answers_without_any_server() -> None:
    async def scene() -> Reply:
        async with AgentClient() as client:
            return await ask(client, replace(AGENT, kind="echo", url="http://192.0.2.1/"))

    assert asyncio.run(scene()) == Reply(outcome=Outcome.OK, latency_s=0.0, output={"q": "ü"})


def test_unknown_kind_is_our_bug() -> None:
    with pytest.raises(InvariantBroken, match="carrier-pigeon"):
        call(answering(""), kind="carrier-pigeon")


# Deadlines


def test_hanging_agent_ends_at_the_deadline() -> None:
    async def handler(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    reply = call(handler, deadline_s=0.2)
    assert reply.outcome is Outcome.TIMEOUT
    assert reply.latency_s >= 0.2


def test_dripping_body_ends_at_the_deadline() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    reply = call(handler, deadline_s=0.3)
    assert reply.outcome is Outcome.TIMEOUT
    assert reply.latency_s >= 0.3


def test_dripping_headers_end_at_the_deadline() -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.02)

    assert raw(drip, deadline_s=0.3).outcome is Outcome.TIMEOUT


def test_slow_name_lookup_is_inside_the_deadline() -> None:
    answered = threading.Event()

    def slow(*_args: Any) -> list[Any]:
        answered.wait(LONG_S)
        return []

    try:
        reply = named("agent.example", Resolver(slow), deadline_s=0.2)
        assert reply.outcome is Outcome.TIMEOUT
    finally:
        answered.set()


def test_slow_refusal_keeps_its_meaning() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503)
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    reply = call(handler)
    assert (reply.outcome, reply.detail) == (Outcome.ERROR, "HTTP 503")
    assert reply.latency_s < LONG_S


def test_hanging_calls_do_not_hold_their_neighbours() -> None:
    hanging = 0
    many = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal hanging
        if request.path == "/hang":
            hanging += 1
            if hanging == 120:  # more than a client pools by default
                many.set()
            await asyncio.Event().wait()
        return web.json_response({"output": 1})

    async def scene() -> Reply:
        async with serving(handler) as port, AgentClient() as client:
            stuck = replace(AGENT, url=f"http://127.0.0.1:{port}/hang")
            calls = [asyncio.create_task(ask(client, stuck, 60)) for _ in range(120)]
            await asyncio.wait_for(many.wait(), LONG_S)
            reply = await ask(client, replace(AGENT, url=f"http://127.0.0.1:{port}/run"))
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            return reply

    assert asyncio.run(scene()).outcome is Outcome.OK


# Floods, bombs, nonsense


def test_endless_stream_is_cut_at_the_limit() -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_length = 1 << 30
        await response.prepare(request)
        block = b'"' + b"x" * 65535
        for _ in range(1 << 14):
            await response.write(block)
            sent += len(block)
        return response

    reply = call(handler)
    assert reply.outcome is Outcome.GARBAGE
    assert "larger than 1048576 bytes" in reply.detail
    assert sent < 64 << 20  # what the kernel had buffered, not the gigabyte


def test_largest_allowed_answer_passes_and_one_byte_more_does_not() -> None:
    fits = '{"output": "' + "x" * (BODY_MAX - 14) + '"}'
    assert len(fits) == BODY_MAX
    assert call(answering(fits)).outcome is Outcome.OK
    assert call(answering(fits + " ")).outcome is Outcome.GARBAGE


def test_gzip_bomb_is_refused_unopened() -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < BODY_MAX
    reply = call(answering(bomb, Content_Encoding="gzip"))
    assert reply.outcome is Outcome.GARBAGE
    assert "encoded as gzip" in reply.detail


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("Sure! Here it is.", "json", "not JSON"),
        ("", "json", "not JSON"),
        ('{"output": ', "json", "not JSON"),
        (b'{"output": "\xff"}', "json", "not JSON"),
        ('{"result": 1}', "json", "no field output"),
        ("[1]", "json", "no field output"),
        ('{"output": NaN}', "json", "not finite"),
        ('{"output": 1e999}', "json", "not finite"),
        ('{"output": "a\\u0000"}', "json", "NUL"),
        ('{"output": {"\\ud800": 1}}', "json", "surrogate"),
        ('{"output": ' + "9" * 5000 + "}", "json", "more than 1000 digits"),
        ('{"output": ' + "[" * 64 + "]" * 64 + "}", "json", "deeper than 64"),
        ("[" * 100_000, "json", "deeper than 64"),
        ('{"output": 1}', "openai", "choices[0]"),
        ('{"choices": []}', "openai", "choices[0]"),
        ('{"choices": [{"message": {"content": null}}]}', "openai", "no text"),
        ('{"choices": [{"message": {"content": "Sure!"}}]}', "openai", "not JSON"),
        ('{"choices": [{"message": {"content": "[Infinity]"}}]}', "openai", "not finite"),
    ],
)
def test_garbage_is_named(body: str | bytes, kind: str, words: str) -> None:
    reply = call(answering(body), kind=kind)
    assert reply.outcome is Outcome.GARBAGE
    assert words in reply.detail
    assert reply.output is None


@pytest.mark.parametrize(
    "wire",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"",
    ],
)
def test_broken_http_is_an_error(wire: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(wire)
        writer.close()

    reply = raw(speak)
    assert reply.outcome is Outcome.ERROR
    assert reply.detail


# Statuses


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (499, Outcome.REFUSED),
        (500, Outcome.ERROR),
        (503, Outcome.ERROR),
        (304, Outcome.ERROR),
        (201, Outcome.OK),
    ],
)
def test_status_decides_the_outcome(status: int, outcome: Outcome) -> None:
    reply = call(answering('{"output": 1}' if status < 300 else "", status=status))
    assert reply.outcome is outcome
    assert outcome is Outcome.OK or f"HTTP {status}" in reply.detail


def test_refusal_quotes_the_agent_but_neither_escapes_nor_our_key() -> None:
    words = 'bad \x1b[31mkey\r\n "sk-very-secret"\u202e ' + "x" * 500
    reply = call(
        answering(words, status=401), headers={"Authorization": "sk-very-secret", "v": "1"}
    )
    assert reply.outcome is Outcome.REFUSED
    assert reply.detail.startswith('HTTP 401: bad [31mkey "***" x')
    assert len(reply.detail) <= 200
    assert reply.detail.isprintable()


def test_rate_limit_in_seconds_and_as_a_date() -> None:
    reply = call(answering("{}", status=429, Retry_After="7"))
    assert (reply.outcome, reply.retry_after_s) == (Outcome.RATE_LIMITED, 7.0)
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    reply = call(answering("{}", status=429, Retry_After=until))
    assert reply.outcome is Outcome.RATE_LIMITED
    assert reply.retry_after_s == pytest.approx(1000, abs=LONG_S)
    assert call(answering("", status=429)).retry_after_s is None
    long = call(answering("", status=429, Retry_After="7000"), cooldown_s=7200.0)
    assert long.retry_after_s == 7000.0, "an hour at most would end before its cooldown"


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("3601", 3600.0),
        ("9" * 5000, 3600.0),
        ("Sat, 21 Nov 2026 05:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 05:01:00 -0000", 60.0),
        ("Sat, 21 Nov 2026 04:59:00 GMT", 0.0),
        ("Sun, 21 Nov 2027 05:00:00 GMT", 3600.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("²", None),
    ],
)
def test_retry_after(value: str | None, wait_s: float | None) -> None:
    assert retry_after_s(value, NOW) == wait_s


@given(st.text())
def test_retry_after_never_raises_and_stays_in_bounds(value: str) -> None:
    wait_s = retry_after_s(value, NOW)
    assert wait_s is None or 0 <= wait_s <= 3600


# Addresses


def raw(speak: Callable[..., Awaitable[None]], deadline_s: float = LONG_S) -> Reply:
    """One call of a server that speaks bytes."""

    async def scene() -> Reply:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AgentClient() as client:
            return await ask(client, replace(AGENT, url=f"http://127.0.0.1:{port}/"), deadline_s)

    return asyncio.run(scene())


def named(
    host: str,
    resolver: Resolver | None = None,
    *,
    policy: AddressPolicy | None = None,
    deadline_s: float = LONG_S,
    port: int = 9,
) -> Reply:
    """One call of a host, whoever it is."""

    async def scene() -> Reply:
        async with AgentClient(policy, resolver=resolver) as client:
            return await ask(client, replace(AGENT, url=f"http://{host}:{port}/"), deadline_s)

    return asyncio.run(scene())


def lookup_of(*addresses: str) -> Callable[..., list[tuple[Any, ...]]]:
    """A name service that knows one answer."""

    def lookup(_host: str, port: int, *_rest: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", where)
            for one in addresses
            for where in [(one, port, 0, 0) if ":" in one else (one, port)]
        ]

    return lookup


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status: int) -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(request.path)
        target = "http://169.254.169.254/latest/meta-data/"
        return web.Response(status=status, headers={"Location": target})

    reply = call(handler)
    assert reply.outcome is Outcome.ERROR
    assert "169.254.169.254" in reply.detail
    assert "not followed" in reply.detail
    assert calls == ["/run"]


def test_redirect_to_a_permitted_address_is_not_followed_either() -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    assert call(handler).outcome is Outcome.ERROR
    assert calls == ["/run"]


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.1", "[::ffff:169.254.169.254]", "0.0.0.0", "224.0.0.1"]
)
def test_forbidden_literal_is_never_connected_to(host: str) -> None:
    reply = named(host)
    assert reply.outcome is Outcome.ERROR
    assert "allow" in reply.detail
    assert reply.latency_s < 1


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1"])
def test_odd_spelling_of_an_address_is_refused(host: str) -> None:
    assert named(host).outcome is Outcome.ERROR


def test_name_resolving_to_a_forbidden_address_is_refused() -> None:
    for address in ("169.254.169.254", "192.168.1.1", "fe80::1", "fd00:ec2::254"):
        reply = named("agent.example", Resolver(lookup_of(address)))
        assert reply.outcome is Outcome.ERROR
        assert address in reply.detail


def test_name_is_looked_up_once_and_what_was_checked_is_called() -> None:
    asked: list[str] = []

    def rebinding(host: str, *rest: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return lookup_of("127.0.0.1" if len(asked) == 1 else "169.254.169.254")(host, *rest)

    async def scene() -> list[Reply]:
        async with (
            serving(answering('{"output": 1}')) as port,
            AgentClient(resolver=Resolver(rebinding)) as client,
        ):
            agent = replace(AGENT, url=f"http://agent.example:{port}/")
            return [await ask(client, agent) for _ in range(3)]

    assert [reply.outcome for reply in asyncio.run(scene())] == [Outcome.OK] * 3
    assert asked == ["agent.example"]


def test_loopback_is_refused_when_it_is_not_listed() -> None:
    reply = named("127.0.0.1", policy=AddressPolicy(allowed=()))
    assert "127.0.0.1 is not a global address and not on the allow-list" in reply.detail


# Connections


def test_calls_share_a_connection() -> None:
    ports: set[int] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.json_response({"output": 1})

    async def scene() -> None:
        async with serving(handler) as port, AgentClient() as client:
            for _ in range(5):
                await ask(client, replace(AGENT, url=f"http://127.0.0.1:{port}/"))

    asyncio.run(scene())
    assert len(ports) == 1


def test_cookies_are_not_kept() -> None:
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(text='{"output": 1}', headers={"Set-Cookie": "track=1; Path=/"})

    async def scene() -> None:
        async with (
            serving(handler) as port,
            AgentClient(resolver=Resolver(lookup_of("127.0.0.1"))) as client,
        ):
            for _ in range(2):
                await ask(client, replace(AGENT, url=f"http://agent.example:{port}/"))

    asyncio.run(scene())
    assert seen == [None, None]


def test_nobody_listening_is_an_error() -> None:
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        reply = named("127.0.0.1", port=idle.getsockname()[1])
    assert reply.outcome is Outcome.ERROR
    assert reply.detail


@pytest.mark.parametrize(
    "url",
    [
        *("", "not a url", "file:///etc/passwd", "http://"),
        *("ftp://me:secret@127.0.0.1/", "http://me:secret@[::1"),
    ],
)
def test_url_that_cannot_be_called_is_an_error_and_not_quoted(url: str) -> None:
    async def scene() -> Reply:
        async with AgentClient() as client:
            return await ask(client, replace(AGENT, url=url))

    reply = asyncio.run(scene())
    assert (reply.outcome, reply.detail) == (Outcome.ERROR, "the agent's url cannot be called")


def test_header_that_cannot_be_sent_is_an_error() -> None:
    reply = call(answering('{"output": 1}'), headers={"X-A": "b\r\nX-Evil: 1"})
    assert reply.outcome is Outcome.ERROR


def test_certificate_that_nobody_vouches_for_is_refused() -> None:
    async def scene() -> Reply:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(PEM)
        async with serving(answering('{"output": 1}'), tls) as port, AgentClient() as client:
            return await ask(client, replace(AGENT, url=f"https://127.0.0.1:{port}/"))

    reply = asyncio.run(scene())
    assert reply.outcome is Outcome.ERROR
    assert "certificate" in reply.detail.lower()
