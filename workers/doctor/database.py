"""PostgreSQL: reached, let in, at our schema, with our privileges, durable, on our time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from workers.doctor.clocks import skew
from workers.doctor.finding import Finding, fail, ok, skipped, warn
from workers.doctor.site import Site

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

CONNECT_S: Final = 5
STATEMENT_MS: Final = 5_000
VERSION_MIN: Final = 14
ROLE: Final = "clearlane_app"
GRANT = re.compile(r"^GRANT ([A-Z, ]+) ON\s+([a-z_,\s]+) TO clearlane_app;", re.MULTILINE)
LATE_S: Final = 30.0
LATE: Final = """
    SELECT extract(epoch FROM now() - min(ready_at))::float8 FROM task
    WHERE state = 'INIT' AND wait <> 'attempt' AND ready_at <= now()
      AND (expires_at IS NULL OR expires_at > now())"""
REMEDIES: Final = {
    "away": "start the server, or correct DATABASE_URL",
    "password": "correct user and password in DATABASE_URL, or let the user in (pg_hba.conf)",
    "database": "create it (`createdb`), or correct its name in DATABASE_URL",
}


def database(site: Site) -> list[Finding]:
    """All that one connection can tell."""
    import psycopg

    from workers.probes import database_fault, one_line

    name = "postgresql"
    if site.database_url is None:
        return [skipped(name, "DATABASE_URL is not set and no stack runs here")]
    options = f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={STATEMENT_MS}"
    try:
        with psycopg.connect(
            site.database_url, connect_timeout=CONNECT_S, autocommit=True, options=options
        ) as connection:
            return list(_examined(connection, site))
    except psycopg.OperationalError as error:
        fault = database_fault(error)
        return [fail(name, one_line(error), REMEDIES[fault])]


def _examined(connection: Connection, site: Site) -> Iterator[Finding]:
    yield _server(connection)
    yield _durability(connection)
    yield _schema(connection)
    yield _privileges(connection)
    yield _clock(connection, site)
    yield _dispatch(connection, site)


def _value(connection: Connection, statement: Any, values: Any = None) -> Any:
    row = connection.execute(statement, values).fetchone()
    return row[0] if row else None


def _server(connection: Connection) -> Finding:
    name = "postgresql"
    version = connection.info.server_version // 10_000
    if version < VERSION_MIN:
        remedy = f"upgrade it to {VERSION_MIN} or later"
        return fail(name, f"it is PostgreSQL {version}", remedy)
    encoding = _value(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        remedy = "create the database with ENCODING 'UTF8'"
        return fail(name, f"the database holds {encoding}, not UTF8", remedy)
    if _value(connection, "SELECT pg_is_in_recovery()"):
        return fail(name, "it is a standby, which takes no writes", "name its primary")
    if _value(connection, "SHOW default_transaction_read_only") == "on":
        return fail(name, "it takes no writes", "set default_transaction_read_only = off")
    return ok(name, f"PostgreSQL {version} answers")


def _durability(connection: Connection) -> Finding:
    name = "postgresql durability"
    off = [
        setting
        for setting in ("fsync", "synchronous_commit", "full_page_writes")
        if _value(connection, f"SHOW {setting}") == "off"
    ]
    if off:
        remedy = "set them on: a task is acknowledged when it is on disk"
        return fail(name, f"{', '.join(off)} off: what was accepted may be lost", remedy)
    return ok(name, "what is committed is on disk")


def _schema(connection: Connection) -> Finding:
    name = "schema"
    if _value(connection, "SELECT to_regclass('alembic_version')") is None:
        return fail(name, "the database holds no tables of ours", "run `clearlane migrate`")
    current = str(_value(connection, "SELECT version_num FROM alembic_version"))
    scripts = _scripts()
    newest = str(scripts.get_current_head())
    if current == newest:
        return ok(name, f"revision {current}, as the code has it")
    known = {script.revision for script in scripts.walk_revisions()}
    if current in known:
        said = f"revision {current} is older than the code, which is at {newest}"
        return fail(name, said, "run `clearlane migrate`, or start with `clearlane up`")
    said = f"revision {current} is unknown to the code, which is at {newest}: it is newer"
    return fail(name, said, "run the version of Clearlane that made it, or a later one")


def _scripts() -> Any:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    return ScriptDirectory.from_config(config)


def _privileges(connection: Connection) -> Finding:
    name = "privileges"
    if not _value(connection, "SELECT count(*) FROM pg_roles WHERE rolname = %s", (ROLE,)):
        return fail(name, f"the role {ROLE} does not exist", "run `clearlane migrate`")
    if not _value(connection, "SELECT pg_has_role(current_user, %s, 'MEMBER')", (ROLE,)):
        user = _value(connection, "SELECT current_user")
        return fail(name, f"{user} may not act as {ROLE}", f"GRANT {ROLE} TO {user}")
    lacking = [
        f"{privilege} on {table}"
        for privilege, table in _granted()
        if _value(connection, "SELECT to_regclass(%s)", (table,)) is not None
        and not _value(
            connection, "SELECT has_table_privilege(%s, %s, %s)", (ROLE, table, privilege)
        )
    ]
    if lacking:
        said = f"{ROLE} lacks {', '.join(lacking[:5])}"
        return fail(name, said, "grant it as the end of ledger/schema.sql does")
    return ok(name, f"{ROLE} may do what it needs")


def _granted() -> Iterator[tuple[str, str]]:
    """(privilege, table) as the schema grants them."""
    text = resources.files("ledger").joinpath("schema.sql").read_text()
    for privileges, tables in GRANT.findall(text):
        for privilege in privileges.split(","):
            for table in tables.split(","):
                yield privilege.strip(), table.strip()


def _clock(connection: Connection, site: Site) -> Finding:
    before = time.time()
    there = _value(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    return skew("PostgreSQL", float(there), before, time.time(), site.settings.lease_margin_s)


def _dispatch(connection: Connection, site: Site) -> Finding:
    """Ready tasks are claimed: at once, unless the fleet is full."""
    name = "dispatcher"
    if _value(connection, "SELECT to_regclass('task')") is None:
        return skipped(name, "there are no tables yet")
    late_s = _value(connection, LATE)
    if late_s is None or late_s < LATE_S:
        return ok(name, "no ready task waits for long")
    said = f"the oldest ready task has waited for {late_s:.0f} s and nobody claims it"
    if any(item["name"] == name and item["state"] == "running" for item in site.processes):
        remedy = "the fleet may be full: see `clearlane prices`; else see log/dispatcher.log"
        return warn(name, said, remedy)
    remedy = "start one: `clearlane up`, or `python -m workers.dispatcher` beside other workers"
    return fail(name, said, remedy)
