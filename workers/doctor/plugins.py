"""Plug-ins and validators that others install: each can be loaded."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from workers.doctor.finding import Finding, fail, ok

GROUPS: Final = ("clearlane.hooks", "clearlane.validators")


def plugins() -> list[Finding]:
    """Every entry point of our groups loads."""
    name = "plug-ins"
    found: list[Finding] = []
    count = 0
    for group in GROUPS:
        for point in metadata.entry_points(group=group):
            count += 1
            try:
                point.load()
            except Exception as error:  # it is somebody else's code
                source = point.dist.name if point.dist else point.value
                said = f"{point.name} of {source}: {type(error).__name__}: {error}"
                remedy = f"mend it, or `pip uninstall {source}`: no worker starts with it"
                found.append(fail(name, said, remedy))
    return found or [ok(name, f"{count} load")]
