"""The doctor's rounds: which checks there are, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from workers.doctor import broker, database, fleet, home, log, machine, plugins, witnesses
from workers.doctor.examine import Check, examine
from workers.doctor.finding import Finding
from workers.doctor.site import Site, survey


def rounds(data: Path | None) -> Iterator[list[Finding]]:
    """What each check found. `data`: home of the stack, as --data gives it.

    Packages come first and alone: what is missing there would only be told by every other check.
    """
    basics: dict[str, Check] = {"python": machine.python, "packages": machine.packages}
    yield from examine(basics)
    site, said = survey(data)
    yield said
    if site is not None:
        yield from examine(_checks(site))


def _checks(site: Site) -> dict[str, Check]:
    of_site = {
        "data directory": home.data_directory,
        "server binaries": home.server_binaries,
        "ports": home.ports,
        "leftovers": home.stack_left_behind,
        "processes": home.processes,
        "postgresql": database.database,
        "log key": log.log_key,
        "witnesses": witnesses.witnesses,
        "redis": broker.redis,
        "broker": broker.broker,
        "workers": fleet.queues,
        "beat": fleet.beat,
        "gateway": fleet.web,
        "agents": fleet.agents,
    }
    return {
        "disk": partial(machine.disk, site.home),
        "open files": machine.open_files,
        "language": machine.language,
        "plug-ins": plugins.plugins,
        **{name: partial(check, site) for name, check in of_site.items()},
    }
