"""The paper's arithmetic of burn and clearing (sections 10.1 and 9.7, rows M07, M17) on the live
stack, to the micro-credit.

A thousand calls of 10 B burn 100 B; then an epoch closes over an account that hoards, one that owes
and one that does neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

from ledger import accounts, check, epochs, intake
from ledger.intake import Submission
from tasks.context import Context
from workers.demo.line import Doing, Line
from workers.demo.stage import await_true, live_stack

CALLS = 1_000
OWED_CALLS = 26  # of 10 B: 260 B
AGENTS = 40  # of one slot each, so that every call finds a full pool and costs the same
WAIT_S = 120.0
CLEARED = (  # account, its balance in µB before the close and after it
    ("client:hoarding", "900000000", "892000000"),
    ("client:owing", "-260000000", "-261200000"),
    ("client:even", "250000000", "250000000"),
    ("system:commons", "0", "9200000"),
)

CONFIG = """\
[ledger]
tau = "0.01"
theta_plus = "500"
theta_minus = "200"
rho_plus = "0.02"
rho_minus = "0.02"
grace_s = 0
settled_min = 1
[routing]
policy = "paper"
[[clients]]
id = "washing"
mint = "10000"
[[clients]]
id = "hoarding"
mint = "900"
[[clients]]
id = "owing"
quota = "300"
[[clients]]
id = "even"
mint = "250"
[[families]]
id = "any"
size = 100
deadline_s = 10
max_attempts = 3
validator = { type = "none" }
"""
AGENT = """\
[[agents]]
id = "a{number}"
kind = "echo"
url = "echo:"
y_max = 1000
k = 90000
slots = 1
"""


def play() -> Generator[Line | Doing, None, None]:
    """Run it; yields every number as soon as it is known."""
    yield Doing(words=f"starting a second stack, with {AGENTS} agents")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(CONFIG + "".join(AGENT.format(number=number) for number in range(AGENTS)))
        file.flush()
        with live_stack(["--config", str(Path(file.name))]) as (_, context):
            yield Doing(words=f"{CALLS} calls of 10 B")
            yield from _calls(context)
            yield Doing(words=f"{OWED_CALLS} calls of 10 B by a client that has nothing")
            yield from _close(context)
            broken = check.violations(context.engine)
            yield Line(
                step="end", what="violations of the ledger", paper="0", live=str(len(broken))
            )


def _calls(context: Context) -> Iterator[Line]:
    _settled(context, "washing", CALLS)
    for account, paper in (("client:washing", "0"), ("system:burn", "100000000")):
        yield _line(context, "10.1", account, paper)


def _close(context: Context) -> Iterator[Line | Doing]:
    _settled(context, "owing", OWED_CALLS)
    for account, before, _ in CLEARED:
        yield _line(context, "9.7", account, before, " before")
    yield Doing(words="the epoch closes: who hoards or owes much pays into the commons")
    epochs.close(context.engine, epochs.opened(context.engine), context.now())
    for account, _, after in CLEARED:
        yield _line(context, "9.7", account, after, " after")


def _line(context: Context, step: str, account: str, paper: str, when: str = "") -> Line:
    live = str(accounts.account(context.engine, account)["balance_ub"])
    return Line(step=step, what=f"balance of {account}{when}, µB", paper=paper, live=live)


def _settled(context: Context, client: str, count: int) -> None:
    """Have a client pay for so many calls."""
    asked = [Submission(family="any", payload={"n": number}) for number in range(count)]
    tasks = [item.task for item in intake.submit(context.engine, client, asked, context.now())]
    await_true(
        f"{count} calls settle",
        lambda: all(
            row["state"] == "COMMITTED" for row in intake.task_rows(context.engine, tasks).values()
        ),
        WAIT_S,
    )
