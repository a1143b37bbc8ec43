"""The paper's worked example (section 9, row M16) on the live stack, to the micro-credit.

Three HTTP agents A, B and C; client R with 2,000 B. B is drawn first and answers garbage, A is
next and passes; then five tasks stack on A while C's price stays, and the next ones spill to C.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

from ledger import accounts, check, intake
from ledger.intake import Submission
from ledger.model import AttemptKey
from scheduler.judgement import Judgement
from scheduler.pool import MT, UB, Pool, cost_ub
from scheduler.price import effective_price
from tasks.context import Context
from workers.demo.gated import GatedAgent
from workers.demo.line import Doing, Line
from workers.demo.stage import await_true, live_stack

SIZE = 100
GOOD = {"output": {"answer": 42}}
GARBAGE = {"words": "As a language model, I would say it depends."}

CONFIG = """\
[ledger]
tau = "0.01"
[routing]
policy = "paper"
alpha = 0.3
delta_f = 5.0
f_max = 5.0
lambda_per_s = 0.0   # no time passes in the paper
epsilon = 0.0        # the paper takes the lowest price
seed = {seed}             # the paper's draw among equals: B first, then A
[[clients]]
id = "R"
mint = "2000"
[[families]]
id = "any"
size = 100
deadline_s = 30
max_attempts = 4
validator = {{ type = "json_schema", schema = {{ type = "object", required = ["answer"] }} }}
[[families]]
id = "expert"
size = 100
deadline_s = 30
max_attempts = 4
tools = ["expert"]
validator = {{ type = "json_schema", schema = {{ type = "object", required = ["answer"] }} }}
"""
AGENT = """\
[[agents]]
id = "{id}"
kind = "json"
url = "{url}"
y_max = 1000
k = 1000000
slots = 10
tools = {tools}
"""
SEED = 9


class Table:
    """What is read off the live stack, in the paper's units."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def standing(self, agent: str) -> tuple[Pool, Judgement]:
        """Pool and judgement as Redis has them; full and blank before the first task."""
        found = self._context.reservations.look([agent])[0].get(agent)
        return found or (Pool(y_mt=1000 * MT, refilled_at_ms=0), Judgement())

    def y(self, agent: str) -> str:
        """Free capacity in tokens."""
        return f"{self.standing(agent)[0].y_mt / MT:.0f}"

    def price(self, agent: str) -> str:
        """Effective price of the next task of 100 tokens, in B to the cent."""
        pool, judged = self.standing(agent)
        cost = cost_ub(1_000_000, pool.y_mt, SIZE * MT)
        return f"{effective_price(cost, judged.f, judged.s) / UB:.2f}"

    def balance(self, account: str) -> str:
        """A balance in micro-credits."""
        return str(accounts.account(self._context.engine, account)["balance_ub"])

    def held(self, payer: str) -> str:
        """What attempts in flight hold of an account's credit, as the delta it is."""
        return str(-self._context.reservations.look([], [payer])[1][payer].reserved_ub)

    def agent_of(self, task: str) -> str:
        """Who settled a task, waiting until somebody has."""
        row = await_true(
            "the task settles",
            lambda: (
                row
                if (row := intake.task_row(self._context.engine, task))["state"] != "INIT"
                else None
            ),
        )
        return str(row["agent"])

    def costs(self, agent: str, tasks: list[str]) -> list[str]:
        """What tasks in flight will pay, cheapest first, in B to the cent."""
        sagas = self._context.reservations.read([AttemptKey(task, 1) for task in tasks])
        found = [saga.cost_ub for saga in sagas if saga is not None and saga.agent == agent]
        return [f"{cost / UB:.2f}" for cost in sorted(found)]


def play() -> Generator[Line | Doing, None, None]:
    """Run the example; yields every number as soon as it is known."""
    yield Doing(words="starting PostgreSQL, Valkey, workers and the agents A, B and C")
    with ExitStack() as stack:
        agents = {name: stack.enter_context(GatedAgent()) for name in "ABC"}
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(configuration(agents))
            file.flush()
            _, context = stack.enter_context(live_stack(["--config", str(Path(file.name))]))
        yield Doing(words="one task: B is drawn first and answers garbage")
        yield from _first_task(context, Table(context), agents)
        yield Doing(words="five tasks that only A can do, and one for anybody")
        yield from _five_more(context, Table(context), agents)
        yield Doing(words="recomputing all balances")
        broken = check.violations(context.engine)
        yield Line(step="end", what="violations of the ledger", paper="0", live=str(len(broken)))


def configuration(agents: dict[str, GatedAgent]) -> str:
    """The example's parameters, with the agents where they listen."""
    return CONFIG.format(seed=SEED) + "".join(
        AGENT.format(id=name, url=agent.url, tools='["expert"]' if name == "A" else "[]")
        for name, agent in agents.items()
    )


def _first_task(context: Context, table: Table, agents: dict[str, GatedAgent]) -> Iterator[Line]:
    for name in "ABC":
        yield Line(step="9.1", what=f"price of {name}", paper="111.11", live=table.price(name))
    task = _submit(context, "any", 1)[0]
    await_true("B is called", lambda: agents["B"].waiting == 1)
    yield Line(step="9.2", what="y of B, reserved", paper="900", live=table.y("B"))
    yield Line(step="9.2", what="delta of R, µB", paper="-111111111", live=table.held("client:R"))
    yield Line(
        step="9.2", what="balance of R, µB", paper="2000000000", live=table.balance("client:R")
    )
    agents["B"].release(GARBAGE)
    await_true("A is called", lambda: agents["A"].waiting == 1)
    judged = table.standing("B")[1]
    yield Line(step="9.3", what="y of B, given back", paper="1000", live=table.y("B"))
    yield Line(step="9.3", what="f of B", paper="5.0", live=f"{judged.f:.1f}")
    yield Line(step="9.3", what="s of B", paper="0.7", live=f"{judged.s:.1f}")
    yield Line(
        step="9.3", what="balance of R, µB", paper="2000000000", live=table.balance("client:R")
    )
    yield Line(step="9.4", what="price of B", paper="952.38", live=table.price("B"))
    yield Line(step="9.4", what="y of A, reserved", paper="900", live=table.y("A"))
    agents["A"].release(GOOD)
    yield Line(step="9.5", what="settled by", paper="A", live=table.agent_of(task))
    await_true("A has its capacity back", lambda: table.y("A") == "1000")
    for account, paper in (
        ("client:R", "1888888889"),
        ("agent:A", "110000000"),
        ("agent:B", "0"),
        ("system:burn", "1111111"),
    ):
        yield Line(
            step="9.5", what=f"balance of {account}, µB", paper=paper, live=table.balance(account)
        )
    yield Line(step="9.5", what="y of A, given back", paper="1000", live=table.y("A"))
    yield Line(step="9.5", what="delta of R, µB", paper="0", live=table.held("client:R"))


def _five_more(context: Context, table: Table, agents: dict[str, GatedAgent]) -> Iterator[Line]:
    agents["A"].hold()
    stacked = _submit(context, "expert", 5)
    await_true("five calls stack on A", lambda: agents["A"].waiting == 5)  # noqa: PLR2004
    costs = table.costs("A", stacked)
    for number, paper in enumerate(("111.11", "138.89", "178.57", "238.10", "333.33")):
        yield Line(
            step="9.6", what=f"cost of task {number + 1} on A", paper=paper, live=costs[number]
        )
    yield Line(step="9.6", what="price of C meanwhile", paper="111.11", live=table.price("C"))
    spilled = _submit(context, "any", 1)[0]
    await_true("C is called", lambda: agents["C"].waiting == 1)
    agents["C"].release(GOOD)
    yield Line(step="9.6", what="the next task spills to", paper="C", live=table.agent_of(spilled))
    agents["A"].release(GOOD)
    for task in stacked:
        table.agent_of(task)


def _submit(context: Context, family: str, count: int) -> list[str]:
    asked = [Submission(family=family, payload={"question": "6 x 7"}) for _ in range(count)]
    return [item.task for item in intake.submit(context.engine, "R", asked, context.now())]
