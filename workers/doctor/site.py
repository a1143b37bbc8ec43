"""What the doctor looks at: the settings, the home, and the addresses of what should run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.model import Json
from workers.doctor.finding import Finding, fail, ok

if TYPE_CHECKING:
    from workers.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One installation as seen from here.

    The addresses are those that a command would use: of the environment, else of the running
    stack; None when there is none. `run`: the run file of a live stack, else empty.
    """

    settings: Settings
    home: Path
    run: Mapping[str, Json] = field(repr=False)
    database_url: str | None = field(repr=False)
    redis_url: str | None = field(repr=False)
    broker_url: str | None = field(repr=False)

    @property
    def log_policy(self) -> Path | None:
        """The policy of the log's witnesses: of the environment, else of the running stack."""
        running = self.run.get("log_policy")
        return self.settings.log_policy or (Path(running) if running else None)

    @property
    def runs_here(self) -> bool:
        """Whether a supervisor of this home is alive."""
        return bool(self.run)

    @property
    def processes(self) -> list[dict[str, Json]]:
        """The processes of the live stack, as its run file has them."""
        return list(self.run.get("processes", []))


def survey(data: Path | None) -> tuple[Site | None, list[Finding]]:
    """The site, unless the environment or the run file cannot be read, and what that says."""
    from ledger.errors import BadInput
    from workers.locate import live_run
    from workers.settings import load_settings

    try:
        settings = load_settings()
        home = (data or settings.data).expanduser().absolute()
        run = live_run(home)
    except BadInput as error:
        return None, [fail("settings", f"{error.field}: {error.reason}", error.remedy)]
    redis_url = settings.redis_url or run.get("redis_url")
    site = Site(
        settings=settings,
        home=home,
        run=run,
        database_url=settings.database_url or run.get("database_url"),
        redis_url=redis_url,
        broker_url=settings.celery_broker_url or redis_url,
    )
    return site, [ok("settings", "every variable has a possible value")]
