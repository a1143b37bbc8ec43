"""Readiness checks: one real request each, as a user of that server would make it (row M30).

Each returns None when it was answered, else why not, in one line without secrets.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
import celery
import kombu.exceptions
import psycopg
import redis.asyncio
import redis.exceptions

TIMEOUT_S = 5


class Fault(StrEnum):
    """What kind of obstacle stands before a server."""

    AWAY = "away"  # nobody answers, or it is starting or stopping: worth asking again
    PASSWORD = "password"  # noqa: S105 - it answers and does not let us in
    DATABASE = "database"  # it lets us in, and there is no such database


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a server does not work for us; `reason` is one line without secrets."""

    fault: Fault
    reason: str


async def database_refusal(url: str) -> Refusal | None:
    """PostgreSQL answers `SELECT 1` at a `postgresql://` URL, or what is in the way."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=TIMEOUT_S)
        async with connection:
            await connection.execute("SELECT 1")
    except psycopg.Error as error:
        return Refusal(fault=database_fault(error), reason=one_line(error))
    return None


def database_fault(error: psycopg.Error) -> Fault:
    """What a failed connection means. PostgreSQL sends no code before the session has begun."""
    text = str(error)
    if "does not exist" in text and "database " in text:
        return Fault.DATABASE
    names = ("password", "role ", "pg_hba.conf", "authentication", "not permitted to log in")
    if "FATAL" in text and any(name in text for name in names):
        return Fault.PASSWORD
    return Fault.PASSWORD if "no password supplied" in text else Fault.AWAY


async def database_ready(url: str) -> str | None:
    """PostgreSQL answers `SELECT 1` at a `postgresql://` URL."""
    refusal = await database_refusal(url)
    return refusal.reason if refusal else None


async def redis_refusal(url: str) -> Refusal | None:
    """Redis or Valkey answers `PING` at a URL, or what is in the way."""
    try:
        async with redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S
        ) as client:
            await client.ping()
    except (redis.exceptions.RedisError, OSError, ValueError) as error:
        return Refusal(fault=redis_fault(error), reason=one_line(error))
    return None


def redis_fault(error: Exception) -> Fault:
    """What a failed connection to Redis means."""
    text = str(error)
    if isinstance(error, redis.exceptions.AuthenticationError) or "NOAUTH" in text:
        return Fault.PASSWORD
    return Fault.DATABASE if "DB index is out of range" in text else Fault.AWAY


async def redis_ready(url: str) -> str | None:
    """Redis or Valkey answers `PING` at a URL."""
    refusal = await redis_refusal(url)
    return refusal.reason if refusal else None


async def http_ready(url: str) -> str | None:
    """An HTTP server answers GET with 200."""
    limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
            return None if response.status == 200 else f"answers {response.status}"  # noqa: PLR2004
    except (aiohttp.ClientError, TimeoutError) as error:
        return one_line(error)


async def celery_ready(broker_url: str, node: str) -> str | None:
    """The Celery worker `node` answers a ping through the broker."""
    return await asyncio.to_thread(_ping, broker_url, node)


def _ping(broker_url: str, node: str) -> str | None:
    # An app of its own: importing ours would bring the whole product into the supervisor.
    with celery.Celery(broker=broker_url, set_as_current=False) as app:
        try:
            replies = app.control.ping(destination=[node], timeout=1.0, limit=1)
        except (kombu.exceptions.KombuError, redis.exceptions.RedisError, OSError) as error:
            return one_line(error)
    return None if replies else f"{node} does not answer a ping"


def one_line(error: object) -> str:
    """The end of an error's text, for people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[-2:]) if lines else type(error).__name__
