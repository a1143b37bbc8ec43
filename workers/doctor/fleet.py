"""Who should be at work: workers on every queue, one beat, the web servers, the agents."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from workers.doctor.finding import Finding, fail, ok, skipped, warn
from workers.doctor.site import Site

if TYPE_CHECKING:
    from ledger.model import Agent

REPLY_S: Final = 3.0  # for workers to say which queues they serve; a busy one answers late
CONNECT_S: Final = 3.0
AGENTS_S: Final = 8.0  # for all agents together
AGENTS_MAX: Final = 200  # more are not worth a thread each
SHOWN_MAX: Final = 5
START: Final = "start it with `clearlane up`, or beside others as the how-to describes"


def queues(site: Site) -> list[Finding]:
    """Somebody serves every queue."""
    import celery
    from kombu.exceptions import KombuError
    from redis.exceptions import RedisError

    from workers.stack import POOLS

    name = "workers"
    if site.broker_url is None:
        return [skipped(name, "no broker is known")]
    try:
        with celery.Celery(broker=site.broker_url, set_as_current=False) as app:
            app.conf.broker_transport_options = {"socket_connect_timeout": CONNECT_S}
            replies = app.control.inspect(timeout=REPLY_S).active_queues() or {}
    except (KombuError, RedisError, OSError) as error:
        return [skipped(name, f"the broker does not answer: {error}")]
    if not replies and not site.runs_here:
        return [warn(name, "no worker answers", START)]
    served = {queue["name"] for queues in replies.values() for queue in queues}
    missing = [queue for queue in POOLS if queue not in served]
    if missing:
        said = f"nobody who answers serves {', '.join(missing)}"
        return [fail(name, said, "start workers for it; a busy one may answer a second time")]
    return [ok(name, f"{len(replies)} serve {', '.join(POOLS)}")]


def beat(site: Site) -> list[Finding]:
    """One beat holds the lock, and no second one runs on this machine."""
    import redis

    name = "beat"
    if site.broker_url is None:
        return [skipped(name, "no broker is known")]
    try:
        with redis.Redis.from_url(
            site.broker_url, socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S
        ) as client:
            held_ms = int(str(client.pttl("redbeat::lock")))
    except (redis.RedisError, OSError, ValueError) as error:
        return [skipped(name, f"the broker does not answer: {error}")]
    if held_ms <= 0:
        said = "none holds its lock: nothing is swept, lost tasks stay lost"
        judged = fail if site.runs_here else warn
        return [judged(name, said, START)]
    count = len(_beats(site.broker_url))
    if count > 1:
        said = f"{count} run on this machine with this broker; one works, the others wait"
        return [warn(name, said, "end all but one, unless they stand by on purpose")]
    return [ok(name, "one holds the lock")]


def _beats(broker_url: str) -> list[int]:
    """Pids of beats on this machine that use this broker."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words, env = process.info["cmdline"] or [], process.info["environ"] or {}
        given = env.get("CELERY_BROKER_URL") or env.get("REDIS_URL")
        if "celery" in " ".join(words[:4]) and "beat" in words and given == broker_url:
            found.append(int(process.info["pid"]))
    return found


def web(site: Site) -> list[Finding]:
    """Gateway and Flower answer, where a stack runs."""
    from workers.probes import http_ready

    if not site.runs_here:
        return [skipped("gateway", "no stack runs here")]
    found = []
    for name, path in (("gateway", "/readyz"), ("flower", "/healthcheck")):
        url = f"{site.run[f'{name}_url']}{path}"
        reason = asyncio.run(http_ready(url))
        remedy = f"see {site.home / 'log' / f'{name}.log'}"
        found.append(
            fail(name, f"{url}: {reason}", remedy) if reason else ok(name, f"{url} answers")
        )
    return found


def agents(site: Site) -> list[Finding]:
    """Each agent's address may be called and takes a connection. Nothing is sent."""
    name = "agents"
    if site.database_url is None or site.redis_url is None:
        return [skipped(name, "no servers are known")]
    known = [agent for agent in _registered(site) if agent.kind != "echo" and not agent.suspended]
    if not known:
        return [ok(name, "none has an address to connect to")]
    wrong = _asked(known[:AGENTS_MAX])
    found = [*_told(name, wrong, len(known))]
    return found or [ok(name, f"{min(len(known), AGENTS_MAX)} of {len(known)} take connections")]


def _told(name: str, wrong: Sequence[tuple[str, str, bool]], total: int) -> Iterator[Finding]:
    refused = [f"{agent}: {reason}" for agent, reason, is_refused in wrong if is_refused]
    silent = [f"{agent}: {reason}" for agent, reason, is_refused in wrong if not is_refused]
    if refused:
        said = f"may not be called: {_some(refused)}"
        yield fail(name, said, "give them a global or a loopback address")
    if silent:
        said = f"{len(silent)} of {total} cannot be reached: {_some(silent)}"
        judged = fail if len(silent) == total else warn
        yield judged(name, said, "start them, correct their url, or `clearlane agents suspend`")


def _some(items: Sequence[str]) -> str:
    more = len(items) - SHOWN_MAX
    return "; ".join(items[:SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


def _registered(site: Site) -> list[Agent]:
    from ledger.registry import load_registry
    from workers.bootstrap import build_context

    addresses = {"database_url": site.database_url, "redis_url": site.redis_url}
    context = build_context(site.settings.model_copy(update=addresses))
    try:
        return list(load_registry(context.engine).agents.values())
    finally:
        context.engine.dispose()


def _asked(known: Sequence[Agent]) -> list[tuple[str, str, bool]]:
    """(agent, reason, whether the address is forbidden) of those that do not take a connection."""
    wrong: dict[str, tuple[str, bool]] = {
        agent.id: (f"no answer within {AGENTS_S:g} s", False) for agent in known
    }

    def ask(agent: Agent) -> None:
        said = _connect(agent.url)
        if said is None:
            wrong.pop(agent.id, None)
        else:
            wrong[agent.id] = said

    threads = [threading.Thread(target=ask, args=(agent,), daemon=True) for agent in known]
    deadline = time.monotonic() + AGENTS_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [(name, *said) for name, said in sorted(wrong.items())]


def _connect(url: str) -> tuple[str, bool] | None:
    """None once a connection is made; else why not, and whether our own policy forbids it."""
    from workers.settings import load_settings

    parts, policy = urlsplit(url), load_settings().agent_addresses
    port = parts.port or (443 if parts.scheme == "https" else 80)
    said: tuple[str, bool] = ("its name leads nowhere", False)
    try:
        for family, kind, _, _, target in socket.getaddrinfo(
            parts.hostname, port, type=socket.SOCK_STREAM
        ):
            refusal = policy.refusal(str(target[0]))
            said = (refusal, True) if refusal else _tried(family, kind, target)
            if not said[0]:
                return None
    except OSError as error:
        return str(error.strerror or error), False
    return said


def _tried(family: int, kind: int, target: Any) -> tuple[str, bool]:
    try:
        with socket.socket(family, kind) as probe:
            probe.settimeout(CONNECT_S)
            probe.connect(target)
    except OSError as error:
        return str(error.strerror or error), False
    return "", False
