"""A validator that ends its process: what it costs, and whom."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from ledger.model import Verdict
from tasks import apart
from tests.servers import scratch
from tests.stack import started
from workers.locate import live_run
from workers.restarts import RestartPolicy

pytestmark = pytest.mark.timeout(240)

DEADLY = """\
import os


def check(payload, output):
    if payload.get("poison"):
        os._exit(3)
"""
CONFIG = """\
[[clients]]
id = "R"
mint = "1000000"
[[agents]]
id = "A"
kind = "echo"
url = "echo:"
y_max = 10000
k = 1000
slots = 50
[[families]]
id = "deadly"
size = 1
deadline_s = 1.0
max_attempts = 3
validator = { type = "python", entry = "deadly" }
[[families]]
id = "other"
size = 1
deadline_s = 1.0
max_attempts = 3
validator = { type = "json_schema", schema = {} }
"""


def install(place: Path) -> Path:
    """A distribution with the validator in `place`, and a configuration that uses it."""
    place.mkdir()
    place.chmod(0o755)
    (place / "deadly.py").write_text(DEADLY)
    info = place / "deadly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clearlane.validators]\ndeadly = deadly:check\n")
    config = place / "fleet.toml"
    config.write_text(CONFIG)
    return config


def _restarts(home: Path) -> int:
    (entry,) = [item for item in live_run(home)["processes"] if item["name"] == "validate1"]
    return int(entry["restarts"])


PASSED = Verdict(passed=True, reason="passed x" * 20_000)


def test_a_verdict_comes_back_from_a_process_of_its_own() -> None:
    pids = []

    def judged() -> Verdict:
        pids.append(os.getpid())
        return PASSED

    assert apart.apart(judged) == PASSED
    assert pids == [], "it ran in this process"


def die(how: str) -> Verdict:
    match how:
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(1000)
    raise RuntimeError(how)


@pytest.mark.parametrize("how", ["exit", "crash", "hang", "raise"])
def test_no_verdict_comes_from_a_process_that_ends_or_hangs(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "hang":
        monkeypatch.setattr(apart, "APART_S", 0.1)
    children = psutil.Process().children()
    open_files = os.listdir("/proc/self/fd")
    assert apart.apart(lambda: die(how)) is None
    assert os.listdir("/proc/self/fd") == open_files
    assert psutil.Process().children() == children, "somebody is left behind"


def test_a_validator_that_ends_its_process_costs_few_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scratch() as directory:
        config = install(directory / "site")
        monkeypatch.setenv("PYTHONPATH", str(config.parent))
        with started("R", "--config", str(config)) as stack:
            poison = [*stack.submit("deadly", 2, {"poison": True})]
            beside = [*stack.submit("deadly", 20, {"n": 1}), *stack.submit("other", 20, {"n": 2})]
            ended = stack.ended([*poison, *beside], timeout_s=200.0)
            restarts = _restarts(stack.home)
            assert {row["state"] for row in ended[:2]} == {"QUARANTINED"}
            assert {row["state"] for row in ended[2:]} == {"COMMITTED"}
            assert {row["losses"] for row in ended} == {0}
            assert restarts < RestartPolicy().budget, "a supervisor would have given it up"
            stack.check()
