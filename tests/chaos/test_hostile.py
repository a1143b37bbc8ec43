"""Agents that mean harm end as what they are, within their deadline, at a bounded price, and their
neighbours do not notice: through the client alone, then through the steps of the saga."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine

import tasks.messages
from ledger import attempts, check, intake
from ledger.model import Agent, AttemptKey, Outcome, Reply
from tasks import abort, addresses, commit, execute, reserve, validate
from tasks.addresses import READ_MAX, WIRE_MAX, MeteredSocket
from tasks.agents import AgentClient
from tasks.call import RETRY_AFTER_MAX_S
from tasks.context import Context, bind
from tasks.resolver import Resolver
from tests.chaos.hostile import (
    ALL,
    GOOD,
    HANG_S,
    METADATA,
    Hostile,
    Took,
    answering,
    body,
    listening,
)
from tests.makers import agent, client, family, install, submit

pytestmark = pytest.mark.timeout(300)

COPIES = 3  # of each hostile agent's call, all at the same time
KERNEL_MAX = 8 << 20  # what may lie in the buffers of a connection, read by nobody
STEPS: dict[str, Callable[[Any], None]] = {
    "saga.execute": execute.execute,
    "saga.reserve": reserve.reserve,
    "saga.validate": validate.validate,
    "saga.commit": commit.commit,
    "saga.abort": abort.abort,
}


async def _good(wire: Any) -> None:
    while True:
        await wire.asked()
        wire.took.requests += 1
        await wire.send(body(GOOD))


NEIGHBOUR = Hostile(name="neighbour", speak=_good, outcome=Outcome.OK, took=Took())


def at(port: int, hostile: Hostile) -> Agent:
    url = f"http{'s' if hostile.tls else ''}://127.0.0.1:{port}/run"
    return agent("h", kind=hostile.kind, url=url, model="m")


async def ask(by: AgentClient, of: Agent, deadline_s: float) -> Reply:
    return await by.call(
        of, key=AttemptKey("t-1", 1), family="f", payload="x" * 10, deadline_s=deadline_s
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """Every hostile agent called at once by one client, while neighbours are called."""

    replies: dict[str, list[Reply]]
    neighbours: list[Reply]
    neighbours_after: Reply


async def everything() -> Run:
    async with AsyncExitStack() as open_now, AgentClient() as by:
        ports = {item.name: await open_now.enter_async_context(listening(item)) for item in ALL}
        near = at(await open_now.enter_async_context(listening(NEIGHBOUR)), NEIGHBOUR)
        over = asyncio.Event()
        neighbours: list[Reply] = []

        async def stay_busy() -> None:
            while not over.is_set():
                neighbours.append(await ask(by, near, 60))

        busy = [asyncio.create_task(stay_busy()) for _ in range(4)]
        calls = [
            (item.name, asyncio.create_task(ask(by, at(ports[item.name], item), item.deadline_s)))
            for item in ALL
            for _ in range(COPIES)
        ]
        replies: dict[str, list[Reply]] = {}
        for name, call in calls:
            replies.setdefault(name, []).append(await call)
        over.set()
        await asyncio.gather(*busy)
        return Run(replies=replies, neighbours=neighbours, neighbours_after=await ask(by, near, 60))


@pytest.fixture(scope="module")
def run() -> Run:
    return asyncio.run(everything())


@pytest.mark.parametrize("hostile", ALL, ids=lambda item: item.name)
def test_a_hostile_agent_ends_as_what_it_is(run: Run, hostile: Hostile) -> None:
    for reply in run.replies[hostile.name]:
        assert reply.outcome is hostile.outcome, reply.detail
        assert hostile.says in reply.detail
        assert reply.detail.isprintable()
        assert len(reply.detail) <= 200
        assert (reply.output is None) is (reply.outcome is not Outcome.OK)
        assert reply.outcome is Outcome.OK or reply.detail
        assert reply.retry_after_s is None or 0 <= reply.retry_after_s <= RETRY_AFTER_MAX_S


def test_names_are_unique_and_every_outcome_of_a_call_occurs() -> None:
    assert len({item.name for item in ALL}) == len(ALL) > 90
    assert {item.outcome for item in ALL} == set(Outcome) - {
        Outcome.LOST,
        Outcome.UNSTARTED,
        Outcome.FENCED,
    }


def test_no_flood_is_read_beyond_its_bound(run: Run) -> None:
    bound = (WIRE_MAX + KERNEL_MAX) * COPIES
    assert {item.name: item.took.sent for item in ALL if item.took.sent > bound} == {}
    assert run.replies["1 GB announced"]


def test_no_hostile_agent_is_called_twice_for_one_call(run: Run) -> None:
    """No redirect is followed, nothing is tried again behind the saga's back."""
    assert run.replies
    connections = {item.name: item.took.connections for item in ALL}
    assert {name: count for name, count in connections.items() if count > COPIES} == {}


def test_neighbours_go_on_meanwhile_and_after(run: Run) -> None:
    assert {reply.outcome for reply in run.neighbours} == {Outcome.OK}
    assert len(run.neighbours) >= 8, "each of the four called again and again"
    assert run.neighbours_after.outcome is Outcome.OK
    assert {reply.output["answer"] for reply in run.neighbours} == {1}


def test_an_answer_left_behind_on_a_connection_is_nobodys_answer() -> None:
    poison = next(item for item in ALL if item.name == "a second answer behind the first")

    async def scene() -> list[Any]:
        async with listening(poison) as port, AgentClient() as by:
            return [(await ask(by, at(port, poison), 20)).output for _ in range(5)]

    assert asyncio.run(scene()) == [{"answer": 1}] * 5


def test_one_call_reads_no_more_than_its_bound() -> None:
    """The bytes that the process itself has taken in, not what the kernel holds for it."""
    floods = [item for item in ALL if "endless" in item.name or "1 GB" in item.name]
    assert len(floods) > 15
    for item in floods:
        assert 0 < asyncio.run(bytes_read(item)) <= WIRE_MAX + READ_MAX, item.name


async def bytes_read(item: Hostile) -> int:
    taken: list[int] = []

    class Recording(MeteredSocket):
        def _count(self, count: int) -> None:
            taken.append(count)
            super()._count(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "MeteredSocket", Recording)
        async with listening(item) as port, AgentClient() as by:
            await ask(by, at(port, item), item.deadline_s)
    return sum(taken)


# A name that leads elsewhere the second time --------------------------------------------------


def test_a_name_that_is_bound_anew_after_the_check_is_still_not_called() -> None:
    """Each connection is checked on the address it is made to, however the name was answered."""
    answers = iter(["127.0.0.1", "169.254.169.254", "10.0.0.1", "127.0.0.1"])
    asked: list[str] = []

    def lookup(host: str, port: int, *_rest: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async def scene() -> list[Reply]:
        replies = []
        closing = Hostile(name="closes", speak=answering(body(GOOD)), outcome=Outcome.OK)
        async with listening(closing) as port:
            for _ in range(4):
                # A client of its own, so that no answer of the name service is kept.
                async with AgentClient(resolver=Resolver(lookup)) as by:
                    of = agent("h", kind="json", url=f"http://agent.example:{port}/run")
                    replies.append(await ask(by, of, 20))
        return replies

    replies = asyncio.run(scene())
    assert asked == ["agent.example"] * 4, "one lookup a call: what was checked is what is called"
    assert [reply.outcome for reply in replies] == [
        *(Outcome.OK, Outcome.ERROR, Outcome.ERROR, Outcome.OK)
    ]
    assert "169.254.169.254 is never allowed" in replies[1].detail
    assert "10.0.0.1 is not a global address" in replies[2].detail


ODD_HOSTS = (
    "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0x7f.1", "0177.0.0.1", "127.1",
    "169.254.43518", "0251.0376.0251.0376", "127.0.0.01", "2130706433", "127.0.0.1.",
)  # fmt: skip


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_an_odd_spelling_is_not_even_looked_up(host: str) -> None:
    looked: list[str] = []

    def lookup(name: str, *_rest: Any) -> list[tuple[Any, ...]]:
        looked.append(name)
        return []

    async def scene() -> Reply:
        async with AgentClient(resolver=Resolver(lookup)) as by:
            return await ask(by, agent("h", kind="json", url=f"http://{host}:9/run"), 20)

    reply = asyncio.run(scene())
    assert reply.outcome is Outcome.ERROR
    assert "odd spelling" in reply.detail or reply.detail == "the agent's url cannot be called"
    assert looked == []


# The steps of the saga ------------------------------------------------------------------------


class Transport:
    """Celery's part: keeps what is sent until somebody delivers it."""

    def __init__(self) -> None:
        self.messages: deque[tuple[str, list[Any]]] = deque()

    def send_task(self, name: str, args: list[Any], **_shown: str) -> None:
        self.messages.append((name, args[0]))

    def run(self) -> None:
        """Deliver everything; what the calls bring about follows when they have ended."""
        while self.messages:
            name, message = self.messages.popleft()
            STEPS[name](message)
            if not self.messages:
                execute.finish_calls()


@contextmanager
def open_to_the_steps(agents: Sequence[Hostile]) -> Iterator[dict[str, int]]:
    """The agents on a loop of their own; their ports by name."""
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    ports: dict[str, int] = {}
    ready = threading.Event()

    async def serve() -> None:
        async with AsyncExitStack() as open_now:
            for item in agents:
                ports[item.name] = await open_now.enter_async_context(listening(item))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield ports
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def test_hostile_agents_in_the_saga_cost_their_own_tasks_and_nothing_else(
    context: Context, engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "never answers", "hangs in its body", "drips its body", "1 GB unannounced",
        "1 GB in chunks of one byte", "endless interim answers", "bomb in gzip", "prose",
        "100,000 levels", "the same key twice", "NUL escaped", "reset in its body",
        f"redirect to {METADATA}", "Retry-After: 1e9", "1 GB with a refusal",
    )  # fmt: skip
    chosen = [next(item for item in ALL if item.name == name) for name in names]
    transport = Transport()
    monkeypatch.setattr(tasks.messages, "current_app", transport)
    bind(context)
    with open_to_the_steps([*chosen, NEIGHBOUR]) as ports:
        fleet = {f"h{number}": item for number, item in enumerate([*chosen, NEIGHBOUR])}
        install(
            engine,
            now,
            clients=[client(mint_b=10**6)],
            agents=[
                replace(at(ports[item.name], item), id=name, tools=frozenset({name}), slots=100)
                for name, item in fleet.items()
            ],
            families=[
                family(name, size=1, deadline_s=2 * HANG_S if item.hangs else 30.0,
                       max_attempts=1, tools=frozenset({name}))
                for name, item in fleet.items()
            ],
        )  # fmt: skip
        found = {
            name: submit(engine, now, 20 if item is NEIGHBOUR else 1, to=name)
            for name, item in fleet.items()
        }
        claims = attempts.claim(engine, limit=128, hold={"default": 1000}, margin_s=60.0, now=now)
        tasks.messages.send("saga.reserve", [item.key for item in claims])
        transport.run()
    for name, item in fleet.items():
        for row in map(partial(intake.task_row, engine), found[name]):
            (attempt,) = row["attempts"]
            if item is NEIGHBOUR:
                assert (row["state"], row["output"]) == ("COMMITTED", {"answer": 1})
            elif item.outcome is Outcome.RATE_LIMITED:
                assert attempt["outcome"] == item.outcome
            else:
                assert (row["state"], attempt["outcome"]) == ("QUARANTINED", item.outcome), name
                assert attempt["reason"].isprintable()
    assert check.violations(engine) == []
    assert context.reservations.count_in_flight() == 0
