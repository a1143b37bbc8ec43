"""Real kill -9 at every write of two steps; `make chaos` does all steps, and the wire as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.crashpoints import SCENES, Mode, hits
from tests.chaos.schedule_stage import Stage, stage
from tests.conftest import Servers

BY_NAME = {scene.name: scene for scene in SCENES}


@pytest.fixture(scope="module")
def a_stage(servers: Servers) -> Iterator[Stage]:
    with stage(servers.database_url, servers.redis_url) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "mode", "least"),
    [
        ("intake", Mode.KILL, 6),
        ("commit", Mode.KILL, 6),
        ("commit", Mode.WIRE_KILL, 2),
        ("commit", Mode.WIRE_TEAR, 2),
        ("commit", Mode.WIRE_LOST, 2),
    ],
)
def test_a_process_that_dies_anywhere_breaks_no_invariant(
    a_stage: Stage, name: str, mode: Mode, least: int
) -> None:
    done = list(hits(a_stage, BY_NAME[name], mode))
    assert [hit for hit in done if hit.violations] == []
    assert sum(hit.struck for hit in done) >= least
    assert not done[-1].struck, "the last one came through: every point was hit"


def test_every_step_has_a_scene() -> None:
    assert {
        "intake", "cancel", "dispatch", "reserve", "execute", "validate", "commit", "abort",
        "sweep", "snapshot", "clock",
    } <= BY_NAME.keys()  # fmt: skip
