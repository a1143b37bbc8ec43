"""A rolling upgrade: the version before and this one work on the same tasks at the same time.

The version before is HEAD's parent while it has the same schema. Across another schema an upgrade
stops the stack: then, and outside a repository, the workers that are replaced are of this version.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.chaos.fleet_faults import QUEUES
from tests.chaos.stack import SCALE, campaign
from tests.servers import scratch

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not SCALE, reason="takes a minute; `make chaos` runs it"),
]

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ("ledger/migrations", "ledger/schema.sql")


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


def before(directory: Path) -> str:
    """Where Python finds the version before, unpacked in `directory`."""
    archive = git("archive", "HEAD^")
    same = git("diff", "--quiet", "HEAD^", "--", *SCHEMA).returncode == 0
    if archive.returncode != 0 or not same:
        print("no version before this one has its schema: this one is mixed with itself")
        return str(ROOT)
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return str(directory)


def worker(queue: str) -> tuple[str, ...]:
    return (
        *("celery", "-A", "workers", "worker", "-P", "solo", "-Q", queue),
        *("-n", f"{queue}-before@%h", "--without-gossip", "--without-mingle"),
    )


def test_workers_of_two_versions_share_the_work() -> None:
    with scratch() as directory, campaign(seed=1) as c, c.load("rolling", 1) as load:
        places = os.pathsep.join([before(directory), c.env["PYTHONPATH"]])
        commands = [worker(queue) for queue in QUEUES]
        c.flow(load, 20)
        with c.beside(*commands, ("workers.dispatcher",), env={"PYTHONPATH": places}) as old:
            log = c.home / "log" / "beside.log"
            c.await_text(log, [f"{queue}-before@" for queue in QUEUES])
            c.flow(load, 60)
            for process in old:  # one after the other is stopped in order, under load
                assert process.poll() is None, log.read_text()[-3000:]
                process.terminate()
                process.wait(30)
                c.flow(load, 10)
        c.settle(load)
