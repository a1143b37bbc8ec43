"""Where the running stack answers: from the environment, else from the home's run file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ledger.errors import Unavailable
from ledger.model import Json
from workers import home as homes
from workers import leftovers
from workers.settings import load_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Addresses of a stack. The first two hold passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    gateway_url: str | None  # None: no gateway of ours runs here
    flower_url: str | None
    flower_login: Path  # the file with user and password
    log_policy: Path | None  # the file with the log's witnesses


def running(data: Path) -> Running:
    """The stack whose home is `data`; DATABASE_URL, REDIS_URL and CLEARLANE_LOG_POLICY go first.

    Raises Unavailable when something is missing and nothing runs in `data`, BadInput when what is
    there is not a run file.
    """
    settings = load_settings()
    run = live_run(data)
    database_url = settings.database_url or run.get("database_url")
    redis_url = settings.redis_url or run.get("redis_url")
    if database_url is None or redis_url is None:
        raise Unavailable(
            "data directory",
            f"nothing is running here ({data.expanduser().absolute()})",
            "start it with `clearlane up --detach`",
        )
    policy = run.get("log_policy")
    return Running(
        database_url=database_url,
        redis_url=redis_url,
        gateway_url=run.get("gateway_url"),
        flower_url=run.get("flower_url"),
        flower_login=data.expanduser().absolute() / homes.FLOWER_LOGIN,
        log_policy=settings.log_policy or (Path(policy) if policy else None),
    )


def live_run(data: Path) -> dict[str, Json]:
    """The run file of `data` if its supervisor is alive, else an empty object."""
    run = homes.read_json(data.expanduser() / homes.RUN)
    supervisor = run.get("supervisor", {})
    alive = supervisor and leftovers.identify(supervisor["pid"], supervisor["started"])
    return run if alive else {}
