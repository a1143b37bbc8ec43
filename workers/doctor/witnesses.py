"""The log's witnesses: enough of them sign, and none says that the log was changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ledger.errors import BadInput, Unavailable
from workers.doctor.finding import Finding, fail, ok, skipped, warn
from workers.doctor.site import Site

if TYPE_CHECKING:
    from workers.witnesses import Verdict

NAME: Final = "witnesses"
LATE_S: Final = 60.0  # a checkpoint is signed every two seconds, and takes seconds


def witnesses(site: Site) -> list[Finding]:
    """What those who check the log from outside have signed."""
    from ledger import gauges
    from ledger.db import connect
    from workers import logkey
    from workers.settings import sqlalchemy_url
    from workers.witnesses import judge

    if site.log_policy is None:
        return [skipped(NAME, "CLEARLANE_LOG_POLICY is not set: nobody checks from outside")]
    if site.database_url is None:
        return [skipped(NAME, "nothing runs here")]
    engine = connect(sqlalchemy_url(site.database_url))
    try:
        policy = logkey.read_policy(site.log_policy)
        return list(told(judge(engine, policy, gauges.log(engine)), datetime.now(UTC)))
    except BadInput as error:
        return [fail(NAME, error.reason, error.remedy)]
    except Unavailable as error:
        return [skipped(NAME, f"{error.what} does not answer")]
    finally:
        engine.dispose()


def told(verdict: Verdict, now: datetime) -> Iterator[Finding]:
    """What it means. Pure."""
    for found in verdict.witnesses:
        if found.accuses:
            said = f"{found.witness.name} says the log is not what it has signed: {found.why}"
            remedy = "do not hush it up: see docs/how-to/run-a-replica.md, When it refuses"
            yield fail(NAME, said, remedy)
    late_s = 0.0 if verdict.since is None else (now - verdict.since).total_seconds()
    if late_s >= LATE_S:
        said = f"nothing new is final for {late_s:.0f} s; {verdict.text()}"
        yield warn(NAME, said, "mend those; work goes on: see `clearlane log witnesses`")
    elif not any(found.accuses for found in verdict.witnesses):
        yield ok(NAME, verdict.text())
