"""`clearlane demo`: both tellings come true on a stack of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import scratch
from tests.stack import clearlane

PAPER = {
    *("111.11", "138.89", "178.57", "238.10", "333.33"),
    *("1888888889", "110000000", "1111111", "-111111111", "2000000000"),
    *("900", "1000", "0"),
}


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def test_the_paper_example_comes_out_to_the_micro_credit(place: Path) -> None:
    done = clearlane("demo", "--paper", "--json", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert [row for row in rows if not row["ok"] or row["paper"] != row["live"]] == []
    assert {row["live"] for row in rows} >= PAPER
    assert list((place / ".clearlane").iterdir()) == [], "it left its stack behind"


def test_the_library_is_settled_and_every_balance_reconciles(place: Path) -> None:
    done = clearlane("demo", "--tasks", "40", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 of 40 ended" in done.stdout
    assert "Every task has ended once, every balance reconciles." in done.stdout
    assert "Watch it in Flower: http://127.0.0.1:" in done.stdout


def test_two_of_three_replicas_sign_and_a_lie_is_refused(place: Path) -> None:
    done = clearlane("demo", "--log", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "three refuses: leaf " in done.stdout
    assert "leaves are final. The lie was named by its leaf" in done.stdout
    assert list((place / ".clearlane").iterdir()) == [], "it left its stack behind"
