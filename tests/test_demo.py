"""`clearlane demo`: both tellings come true on a stack of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.program import COMMAND
from tests.servers import scratch
from tests.stack import await_true, clearlane
from workers import home as homes

PATIENCE_S = 300.0  # on a machine that has other things to do

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
    assert len({(row["step"], row["what"]) for row in rows if row["step"] != "end"}) == len(
        [row for row in rows if row["step"] != "end"]
    ), "two numbers have one name"
    assert "starting a second stack" in done.stderr
    assert list(place.iterdir()) == [], "it left its stack behind"


def test_the_library_is_settled_and_every_balance_reconciles(place: Path) -> None:
    done = clearlane("demo", "--tasks", "40", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 of 40 ended" in done.stdout
    assert "Every task has ended once, every balance reconciles." in done.stdout
    assert "Watch it in Flower: http://127.0.0.1:" in done.stdout


def test_two_of_three_replicas_sign_and_a_lie_is_refused(place: Path) -> None:
    done = clearlane("demo", "--log", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"three refuses: leaf \d+ gives agent:\w+ all \d+\.\d{6} B", done.stdout)
    assert re.search(r"sees it: verified: leaf \d+ of the \d+ leaves", done.stdout)
    assert "leaves are final. The lie was named by its leaf" in done.stdout
    assert list(place.iterdir()) == [], "it left its stack behind"


def starting(place: Path) -> bool:
    """The stack has begun to start; nothing of it may be there yet."""
    return any(place.glob(".clearlane/demo-*/log/supervisor.log"))


def complete(place: Path) -> bool:
    """All of it runs."""
    runs = [homes.read_json(path) for path in place.glob(f".clearlane/demo-*/{homes.RUN}")]
    return any(run.get("supervisor", {}).get("complete") for run in runs)


def processes_of(place: Path) -> list[psutil.Process]:
    """What stands there or names it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue
        if any(str(place) in word for word in words):
            found.append(process)
    return found


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGHUP, complete), (signal.SIGTERM, complete), (signal.SIGINT, starting)],
)
def test_whatever_ends_a_demo_ends_its_stack(
    place: Path, number: signal.Signals, when: Callable[[Path], bool]
) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--tasks", "2000"],
        cwd=place,
        env={name: text for name, text in os.environ.items() if name != "CLEARLANE_DATA"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            await_true("its stack is there", lambda: when(place), PATIENCE_S)
            demo.send_signal(number)
            demo.send_signal(number)  # as a terminal that is closed
            _, err = demo.communicate(timeout=PATIENCE_S)
        finally:
            demo.kill()
            left = processes_of(place)
            for process in left:
                process.kill()
    assert (demo.returncode, err) == (130, "clearlane: interrupted\n")
    assert list(place.iterdir()) == []
    assert left == []
