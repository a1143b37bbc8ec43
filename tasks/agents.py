"""Calling agents: one pooled HTTP client per worker process, and limits on all they can do.

An agent may hang, drip, flood, redirect, compress, lie about lengths or answer nonsense. All
of it ends in a `Reply` within the deadline; nothing an agent does raises.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict

from ledger.errors import BadInput, InvariantBroken
from ledger.model import Agent, AttemptKey, Json, Outcome, Reply
from tasks.addresses import SAID_TOO_MUCH, AddressPolicy, guarded_socket
from tasks.call import RETRY_AFTER_MAX_S
from tasks.jsontext import parse
from tasks.resolver import Resolver
from tasks.text import printable

BODY_MAX = 1 << 20  # bytes of one answer
OFF_LOOP = 64 << 10  # bytes from which reading an answer would hold up the others
EXPLAIN_S = 0.25  # how long to wait for the words that go with a refusal
# Common servers close an idle connection after 5 s. Closing first avoids the race in which a
# request meets a closing connection and the agent is blamed for it.
KEEPALIVE_S = 4.0
SUCCESS = 2  # the first digit of the status
SECRET_MIN = 8  # characters; shorter header values are no secrets


class AgentClient:
    """Calls agents of every kind. One per worker process; use it as `async with`.

    Connections are pooled without a bound of their own: an agent's slots bound its calls.
    """

    def __init__(
        self, policy: AddressPolicy | None = None, *, resolver: AbstractResolver | None = None
    ) -> None:
        self._policy = policy or AddressPolicy()
        self._resolver = resolver or Resolver()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
            resolver=self._resolver,
            socket_factory=partial(guarded_socket, self._policy),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # a bomb is refused unopened
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # ours is around the whole call
            headers={"User-Agent": "clearlane"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()
        await self._resolver.close()
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def call(
        self, agent: Agent, *, key: AttemptKey, family: str, payload: Json, deadline_s: float
    ) -> Reply:
        """Ask `agent` for one task's output; at most `deadline_s` from name lookup to last byte.

        Kind `json` posts {task, family, payload} and expects {output}; kind `openai` posts a
        chat completion and reads the answer's content as JSON; kind `echo` answers at once
        with its payload, without HTTP, and is for benches and drills. Task and attempt go in
        headers as well: an agent that asks others for help names both.
        """
        if agent.kind == "echo":
            return Reply(outcome=Outcome.OK, latency_s=0.0, output=payload)
        body = _question(agent, key.task, family, payload)
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                reply = await self._exchange(agent, key, body)
        except TimeoutError:
            reply = _failed(Outcome.TIMEOUT, f"no complete answer within {deadline_s:g} s")
        except BadInput as error:
            reply = _failed(Outcome.GARBAGE, f"the {error.field} {error.reason}")
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            reply = _failed(Outcome.ERROR, "the agent's url cannot be called")
        except aiohttp.ClientConnectorError as error:
            why = error.os_error.strerror or error.os_error
            reply = _failed(Outcome.ERROR, f"cannot connect to {error.host}:{error.port}: {why}")
        except aiohttp.ClientResponseError as error:
            reply = _failed(Outcome.ERROR, f"it does not speak HTTP: {error.message}")
        except Exception as error:
            # Whatever an agent provokes in the HTTP library is that agent's failure; the other
            # tasks of the chunk must not see it.
            reply = _broken(error)
        latency_s = time.monotonic() - started_s
        if reply.outcome is Outcome.OK:
            return replace(reply, latency_s=latency_s)
        return replace(reply, latency_s=latency_s, detail=_presentable(agent, reply.detail))

    async def _exchange(self, agent: Agent, key: AttemptKey, body: bytes) -> Reply:
        headers = CIMultiDict(agent.headers)
        headers["Idempotency-Key"] = key.task
        headers["X-Clearlane-Task"] = key.task
        headers["X-Clearlane-Attempt"] = str(key.attempt)
        headers["Content-Type"] = "application/json"
        headers["Accept-Encoding"] = "identity"
        async with self._session.post(
            agent.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status // 100 != SUCCESS:
                return await _declined(response, max(RETRY_AFTER_MAX_S, agent.cooldown_s))
            answer = await _read(response)
        if len(answer) < OFF_LOOP:
            output = _output(agent.kind, answer)
        else:
            loop = asyncio.get_running_loop()
            output = await loop.run_in_executor(self._reader, _output, agent.kind, answer)
        return Reply(outcome=Outcome.OK, latency_s=0.0, output=output)


def _question(agent: Agent, task: str, family: str, payload: Json) -> bytes:
    match agent.kind:
        case "json":
            body = {"task": task, "family": family, "payload": payload}
        case "openai":
            message = {"role": "user", "content": json.dumps(payload, ensure_ascii=False)}
            body = {"model": agent.model, "messages": [message]}
        case _:
            raise InvariantBroken(f"agent {agent.id} has the unknown kind {agent.kind!r}")
    return json.dumps(body).encode()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, never more than BODY_MAX and one buffer of it in memory."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise _garbage(f"is encoded as {encoding}, though identity was asked for")
    protocol = response.connection.protocol if response.connection is not None else None
    body = bytearray()
    try:
        async for part in response.content.iter_any():
            body += part
            if len(body) > BODY_MAX:
                raise _garbage(f"is larger than {BODY_MAX} bytes")
    except aiohttp.ClientPayloadError as error:
        # The parser says that something is missing; the connection knows why.
        lost = protocol.exception() if protocol is not None else None
        if lost is None:
            raise
        raise error from lost
    return bytes(body)


def _output(kind: str, body: bytes) -> Json:
    answer = parse(body, field="answer")
    if kind == "json":
        if not isinstance(answer, dict) or "output" not in answer:
            raise _garbage("has no field output")
        return answer["output"]
    try:
        content = answer["choices"][0]["message"]["content"]
    except (TypeError, LookupError):
        raise _garbage("has no choices[0].message.content") from None
    if not isinstance(content, str):
        raise _garbage("has a choices[0].message.content that is no text")
    return parse(content, field="answer's content")


def _garbage(reason: str) -> BadInput:
    return BadInput("answer", reason, "answer as the agent's kind promises")


async def _declined(response: aiohttp.ClientResponse, rest_max_s: float) -> Reply:
    """What a status other than 2xx means."""
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        wait_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC), rest_max_s)
        reply = _failed(Outcome.RATE_LIMITED, await _explanation(response))
        return replace(reply, retry_after_s=wait_s)
    match response.status // 100:
        case 3:
            # Not even to a permitted address: the url that was registered is the agent.
            target = response.headers.get("Location", "nowhere")
            detail = f"HTTP {response.status}: redirects to {target}, not followed"
            return _failed(Outcome.ERROR, detail)
        case 4:
            return _failed(Outcome.REFUSED, await _explanation(response))
        case _:
            return _failed(Outcome.ERROR, await _explanation(response))


async def _explanation(response: aiohttp.ClientResponse) -> str:
    """Status and the beginning of what the agent says about it, if it says it at once."""
    try:
        async with asyncio.timeout(EXPLAIN_S):
            words = (await _read(response)).decode("utf-8", "replace")
    except (TimeoutError, BadInput, aiohttp.ClientError):
        words = ""
    return f"HTTP {response.status}: {words}" if words else f"HTTP {response.status}"


def retry_after_s(
    value: str | None, now: datetime, most_s: float = RETRY_AFTER_MAX_S
) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or HTTP date), at most `most_s`; None if
    unclear."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), most_s)
    try:
        until = parsedate_to_datetime(text)
        wait_s = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return min(max(wait_s, 0.0), most_s)


def _broken(error: BaseException) -> Reply:
    """What a connection that broke off says about the agent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == SAID_TOO_MUCH:
            return _failed(Outcome.GARBAGE, f"the agent sent {cause.strerror}")
        cause = cause.__cause__
    return _failed(Outcome.ERROR, f"{type(error).__name__}: {error}")


def _failed(outcome: Outcome, detail: str) -> Reply:
    return Reply(outcome=outcome, latency_s=0.0, detail=detail)


def _presentable(agent: Agent, detail: str) -> str:
    """A detail for people. Agents like to quote the key they refused: it is taken out."""
    for value in agent.headers.values():
        if len(value) >= SECRET_MIN:
            detail = detail.replace(value, "***")
    return printable(detail)
