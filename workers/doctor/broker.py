"""Redis or Valkey, for reservations and for messages: reached, let in, set up, on our time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from workers.doctor.clocks import skew
from workers.doctor.finding import Finding, fail, ok, skipped, warn
from workers.doctor.site import Site

if TYPE_CHECKING:
    import redis as redis_package

ANSWER_S: Final = 5.0
VERSION_MIN: Final = (6, 2)  # ZRANGE … BYSCORE
FULL: Final = 0.9  # of maxmemory
REMEDIES: Final = {
    "away": "start the server, or correct {variable}",
    "password": "correct user and password in {variable}",
    "database": "use database 0 in {variable}, or raise `databases`",
}


def redis(site: Site) -> list[Finding]:
    """What REDIS_URL leads to."""
    if site.redis_url is None:
        return [skipped("redis", "REDIS_URL is not set and no stack runs here")]
    return _server("redis", "REDIS_URL", site.redis_url, site)


def broker(site: Site) -> list[Finding]:
    """Where Celery's messages go, if that is another server; and that all agree on it."""
    name = "broker"
    if site.broker_url is None:
        return [skipped(name, "no broker is known")]
    running = site.run.get("redis_url")
    if running is not None and site.redis_url != running:
        said = f"the environment names {_place(site.redis_url)}, the stack uses {_place(running)}"
        return [fail(name, said, "unset REDIS_URL, or restart the stack with it")]
    if site.broker_url == site.redis_url:
        return [ok(name, "messages go to the same server as reservations")]
    found = _server(name, "CELERY_BROKER_URL", site.broker_url, site)
    said = f"messages go to {_place(site.broker_url)}, reservations to {_place(site.redis_url)}"
    remedy = "give every process the same CELERY_BROKER_URL, or unset it everywhere"
    return [*found, warn(name, said, remedy)]


def _place(url: str | None) -> str:
    """Host, port and database; no password."""
    parts = urlsplit(url or "")
    return f"{parts.hostname or ''}:{parts.port or 6379}{parts.path}"


def _server(name: str, variable: str, url: str, site: Site) -> list[Finding]:
    import redis as package

    from workers.probes import one_line, redis_fault

    client = package.Redis.from_url(
        url,
        decode_responses=True,
        socket_connect_timeout=ANSWER_S,
        socket_timeout=ANSWER_S,
        retry=None,
    )
    try:
        with client:
            return list(_examined(name, client, site))
    except (package.RedisError, OSError, ValueError) as error:
        remedy = REMEDIES[redis_fault(error)].format(variable=variable)
        return [fail(name, one_line(error), remedy)]


def _examined(name: str, client: redis_package.Redis, site: Site) -> Iterator[Finding]:
    client.ping()
    yield from judge(name, dict(client.info()), _saves(client))
    before = time.time()
    seconds, micros = client.time()
    there_s = float(seconds) + float(micros) / 1e6
    yield skew(name.capitalize(), there_s, before, time.time(), site.settings.lease_margin_s)


def _saves(client: redis_package.Redis) -> bool | None:
    """Whether snapshots are written; None where the server does not tell (managed services)."""
    import redis as package

    try:
        found: Any = client.config_get("save")
    except package.ResponseError:
        return None
    return bool(found.get("save"))


def judge(name: str, info: Mapping[str, Any], saves: bool | None) -> Iterator[Finding]:
    """What the server's own account of itself (INFO) means for us. Pure."""
    version = str(info.get("redis_version", "0"))
    if tuple(map(int, version.split(".")[:2])) < VERSION_MIN:
        yield fail(name, f"it is version {version}", "upgrade it to Redis 6.2, Valkey 7.2 or later")
        return
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        remedy = "use one server, with a replica if you like: scripts touch several keys at once"
        yield fail(name, "it runs as a cluster", remedy)
    if info.get("role", "master") != "master":
        yield fail(name, "it is a replica, which takes no writes", "name its primary")
    yield from _memory(name, info)
    if not info.get("aof_enabled") and saves is not True:
        said = "nothing is written to disk" if saves is False else "no append-only file"
        remedy = "set `appendonly yes`: after a restart what was in flight runs a second time"
        yield warn(f"{name} persistence", said, remedy)
    else:
        yield ok(f"{name} persistence", "the append-only file or snapshots are on")
    yield ok(name, f"version {info.get('valkey_version', version)} answers")


def _memory(name: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        remedy = "set `maxmemory-policy noeviction`"
        yield fail(f"{name} memory", f"{policy}: it may forget what is in flight", remedy)
        return
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > FULL * most:
        said = f"{used >> 20} of {most >> 20} MiB are used; at the limit it takes no writes"
        yield warn(f"{name} memory", said, "raise maxmemory, or see what fills it")
        return
    yield ok(f"{name} memory", "noeviction")
