"""What `up` needs from the rest of the product, put together in one place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ledger import db, registry
from workers import home as homes
from workers.config import load_config
from workers.gratis import gratis
from workers.process import Process
from workers.settings import sqlalchemy_url

SAMPLE = "sample.toml"


def migrate(database_url: str) -> None:
    """Bring the database at a `postgresql://` URL to the current schema."""
    db.migrate(sqlalchemy_url(database_url))


def configure(database_url: str, path: Path) -> list[str]:
    """Apply a configuration file; says what it changed, and warns. May raise BadInput, first."""
    wanted = load_config(path)
    engine = db.connect(sqlalchemy_url(database_url))
    try:
        changes = registry.apply(engine, wanted, datetime.now(UTC))
        warnings = gratis(registry.load_registry(engine)) if changes else []
        return changes + [f"warning: {line}" for line in warnings]
    finally:
        engine.dispose()


def sample_fleet(home: Path) -> tuple[Sequence[Process], Path]:
    """The sample agents on free ports, and the configuration that names them."""
    from workers.samples.fleet import FLEET, fleet_config, fleet_processes

    ports = {sample.name: homes.port(home, sample.name, 0) for sample in FLEET}
    path = home / SAMPLE
    path.write_text(fleet_config(ports))
    processes = [Process(name=item.name, argv=item.argv, env={}) for item in fleet_processes(ports)]
    return processes, path


COMMAND = (sys.executable, "-m", "workers.cli")
"""How a copy of this program is started: what `--detach` runs."""
