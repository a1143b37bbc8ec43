"""A slice of the seeded schedules, and that a seed is a schedule. `make chaos` plays them all."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLICE = 150


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own: whoever replays a seed has no other."""
    command = [sys.executable, "-m", "tests.chaos.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_schedule_of_a_slice_breaks_an_invariant() -> None:
    done = chaos("schedules", "--schedules", str(SLICE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"schedules: {SLICE} done" in done.stdout
    for fault in ("crash before pg", "away after pg", "rival before redis", "wipe", "twice"):
        assert f"× {fault}\n" in done.stdout, f"no schedule had this: {fault}"


def test_a_seed_is_the_same_schedule_every_time() -> None:
    first, again = chaos("--seed-one", "7"), chaos("--seed-one", "7")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "faults are off" in first.stdout
    assert first.stdout == again.stdout


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_every_planted_bug_is_caught() -> None:
    done = chaos("bugs")
    assert done.returncode == 0, done.stdout + done.stderr
