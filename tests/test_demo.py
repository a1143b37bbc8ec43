"""`clearlane demo`: what it tells comes true on a stack of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from ledger import checkpoints
from ledger.epochs import Totals
from ledger.proof.notes import LOG, Signer
from ledger.proof.receipts import Receipt
from tests.program import COMMAND
from tests.servers import scratch
from tests.stack import await_true, clearlane
from workers import home as homes
from workers.cli import main
from workers.demo import library
from workers.demo.library import Closing, Reckoning, broken
from workers.demo.proof import Proof

PATIENCE_S = 300.0  # on a machine that has other things to do

PAPER = {
    *("111.11", "138.89", "178.57", "238.10", "333.33"),
    *("1888888889", "110000000", "1111111", "-111111111", "2000000000"),
    *("900", "1000", "0"),
}

B = r"(\d+\.\d{6})"


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
    assert_the_epoch_is_told(done.stdout)
    assert_the_receipt_is_told(done.stdout)
    assert list(place.iterdir()) == [], "it left its stack behind"


def found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in:\n{text}"
    return match.groups()


def assert_the_epoch_is_told(told: str) -> None:
    """What it holds is what was settled and burned; what it took is what the commons have."""
    (settled,) = found(r"(\d+) of 40 tasks settled", told)
    (burned,) = found(rf"every payment was burned: {B} B", told)
    holds = found(rf"Epoch 1 is closed\nIt holds (\d+) settlements; {B} B burned in it", told)
    assert holds == (settled, burned)
    taken, charged = found(rf"Demurrage took {B} B .* charges took {B} B from debtors", told)
    assert float(taken) > 0
    assert charged == "0.000000"
    assert found(rf"the commons {B} B; with the {B} B burned", told) == (taken, burned)


def assert_the_receipt_is_told(told: str) -> None:
    """Which task it was, its agent, its price, and whose key it verifies with."""
    (size,) = found(r"signed a checkpoint of (\d+) leaves", told)
    (index,) = found(r"By the entry in leaf (\d+), task", told)
    assert 0 < int(index) < int(size)
    _, price, agent, paid = found(
        rf"task\n([0-9a-f-]{{36}}) cost {B} B, of which (\w+) was paid {B} B", told
    )
    assert 0 < float(paid) < float(price)
    assert agent in {"ada", "bram", "cleo", "dora", "egon"}
    found(r"Its receipt verifies offline, .* the log's key clearlane\.local/[0-9a-f]+\+", told)


def test_a_receipt_that_does_not_verify_fails_the_demo(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_receipt = checkpoints.receipt

    def of_another_leaf(engine: Engine, index: int) -> Receipt:
        return replace(true_receipt(engine, index), index=index - 1)

    monkeypatch.setattr(checkpoints, "receipt", of_another_leaf)
    monkeypatch.chdir(place)
    done = CliRunner().invoke(main, ["demo", "--tasks", "20"])
    assert done.exit_code == 1, done.output
    assert "Epoch 1 is closed" in done.stdout
    assert "verifies offline" not in done.stdout
    assert re.search(r"the receipt of task \S+ does not verify: inclusion proof: ", done.stderr)
    assert list(place.iterdir()) == [], "it left its stack behind"


BOOKS = {
    "clients_ub": 800,
    "agents_ub": 99,
    "commons_ub": 100,
    "burned_ub": 1,
    "minted_ub": 1000,
}
TOTALS = Totals(
    accounts=9,
    demurrage_ub=90,
    charge_ub=10,
    top_up_ub=0,
    burned_ub=1,
    minted_ub=1000,
    settled=3,
)
RECKONING = Reckoning(
    took_s=1.0,
    committed=3,
    quarantined=0,
    agents=[],
    client_ub=900,
    minted_ub=1000,
    burned_ub=1,
    violations=[],
)


def test_books_that_add_up_are_not_broken() -> None:
    assert list(broken(RECKONING, TOTALS, BOOKS)) == []


@pytest.mark.parametrize(
    ("totals", "books", "wrong"),
    [
        (replace(TOTALS, settled=2), BOOKS, "the epoch holds 2 settlements, not 3"),
        (replace(TOTALS, burned_ub=2), BOOKS, "in the epoch 2 µB burned, not 1"),
        (
            replace(TOTALS, demurrage_ub=91),
            BOOKS,
            "the commons have 100 µB, not the 101 that were taken",
        ),
        (
            TOTALS,
            BOOKS | {"agents_ub": 98},
            "all accounts have 999 µB of the 1000 that were minted",
        ),
        (
            TOTALS,
            BOOKS | {"clients_ub": 801, "minted_ub": 1001},
            "all accounts have 1001 µB of the 1000 that were minted",
        ),
    ],
)
def test_an_epoch_that_took_credit_astray_is_told(
    totals: Totals, books: dict[str, int], wrong: str
) -> None:
    assert list(broken(RECKONING, totals, books)) == [wrong]


@pytest.mark.parametrize(("wrong", "code"), [([], 0), (["the commons"], 1)])
def test_books_that_are_broken_after_the_close_fail_the_demo(
    monkeypatch: pytest.MonkeyPatch, wrong: list[str], code: int
) -> None:
    key = Signer(name="log.example", kind=LOG, seed=bytes(32)).key
    told = [
        Closing(epoch=1, size=9, totals=TOTALS, broken=wrong, **BOOKS),
        Proof(task="t", agent="ada", price_ub=100, paid_ub=99, index=3, size=9, key=key),
    ]
    monkeypatch.setattr(library, "play", lambda _: (event for event in told))
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == code
    assert [f"wrong: {line}" in done.stdout for line in wrong] == [True] * code
    assert ("verifies offline" in done.stdout) == (not wrong)


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
