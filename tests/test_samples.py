"""The sample fleet: each manner of agent as a real process, called as the product calls it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import aiohttp
import pytest

from ledger.model import Agent, AttemptKey, Family, Outcome, Reply
from tasks.agents import AgentClient
from tasks.verdict import check_validator, judge
from workers.samples.agent import HANGING, SLOW_S, Bucket
from workers.samples.fleet import FLEET, fleet_config, fleet_processes
from workers.samples.outline import outline

T = TypeVar("T")
WAIT_S = 60.0  # for what comes by itself
SOURCE = "import os\n\nclass C:\n    def m(self): ...\n"
PAYLOAD = {"name": "m", "source": SOURCE}
FAMILY = Family(
    id="outline",
    size=100,
    deadline_s=2,
    max_attempts=5,
    validator={"type": "python", "entry": "python_outline"},
)
FLEET_PORTS = {sample.name: 9100 + index for index, sample in enumerate(FLEET)}


def command(behaviour: str, kind: str, *more: str, port: int = 0) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "workers.samples.agent", "--name", "a", "--port", str(port)),
        *("--behaviour", behaviour, "--kind", kind, "--seed", "3", *more),
    )


@contextmanager
def started(argv: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has said where it listens: (process, url)."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def agent_at(url: str, kind: str = "json") -> Agent:
    return Agent(id="a", kind=kind, url=url, y_max=1000, k=1_000_000)


def calling(
    scene: Callable[[AgentClient], Awaitable[T]],
) -> T:
    async def main() -> T:
        async with AgentClient() as client:
            return await scene(client)

    return asyncio.run(main())


async def ask(client: AgentClient, agent: Agent, deadline_s: float = WAIT_S) -> Reply:
    return await client.call(
        agent, key=AttemptKey("t", 1), family="outline", payload=PAYLOAD, deadline_s=deadline_s
    )


def replies(agent: Agent, count: int) -> list[Reply]:
    """Calls one after the other."""

    async def scene(client: AgentClient) -> list[Reply]:
        return [await ask(client, agent) for _ in range(count)]

    return calling(scene)


@pytest.mark.parametrize("kind", ["json", "openai"])
def test_good_agent_outlines(kind: str) -> None:
    with started(command("good", kind)) as (_, url):
        (reply,) = replies(agent_at(url, kind), 1)
    assert (reply.outcome, reply.output) == (Outcome.OK, outline(SOURCE))


def test_big_source_is_outlined_too() -> None:
    big = "\n".join(f"def f{index}(): ..." for index in range(5000))

    async def scene(client: AgentClient) -> Reply:
        return await client.call(
            agent_at(url),
            key=AttemptKey("t", 1),
            family="f",
            payload={"source": big},
            deadline_s=WAIT_S,
        )

    with started(command("good", "json")) as (_, url):
        assert calling(scene).output == outline(big)


def test_agent_refuses_what_is_no_source() -> None:
    async def scene(client: AgentClient) -> list[Reply]:
        payloads: list[Any] = [{"source": "def ("}, {"source": "\0"}, {}, None, [1]]
        return [
            await client.call(
                agent_at(url), key=AttemptKey("t", 1), family="f", payload=one, deadline_s=WAIT_S
            )
            for one in payloads
        ]

    with started(command("good", "json")) as (_, url):
        answers = calling(scene)
    assert {answer.outcome for answer in answers} == {Outcome.REFUSED}
    assert "no Python source" in answers[0].detail


@pytest.mark.parametrize("kind", ["json", "openai"])
def test_garbling_agent_is_wrong_about_two_times_in_five(kind: str) -> None:
    with started(command("garble", kind)) as (_, url):
        answers = replies(agent_at(url, kind), 100)
    verdicts = [judge(FAMILY, PAYLOAD, answer) for answer in answers]
    wrong = [verdict for verdict in verdicts if not verdict.passed]
    assert 25 <= len(wrong) <= 55
    assert all(verdict.severe for verdict in wrong)
    assert {answer.outcome for answer in answers} == {Outcome.OK, Outcome.GARBAGE}
    with started(command("garble", kind)) as (_, url):
        again = replies(agent_at(url, kind), 100)
    assert [one.output for one in again] == [one.output for one in answers]


def test_slow_agent_is_slow_and_right() -> None:
    with started(command("slow", "json")) as (_, url):
        (reply,) = replies(agent_at(url), 1)
    assert judge(FAMILY, PAYLOAD, reply).passed
    assert reply.latency_s >= SLOW_S
    assert FAMILY.deadline_s / 2 > SLOW_S, "its family waits for it"


def test_limited_agent_says_when_to_come_back() -> None:
    with started(command("limited", "openai", "--rate-per-s", "0.005", "--burst", "3")) as (_, url):
        answers = replies(agent_at(url, "openai"), 6)
    assert [answer.outcome for answer in answers] == [Outcome.OK] * 3 + [Outcome.RATE_LIMITED] * 3
    assert all(0 < (answer.retry_after_s or 0) <= 200 for answer in answers[3:])


def test_bucket_refills_to_its_burst_and_no_further() -> None:
    bucket = Bucket(rate_per_s=2.0, burst=2)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert [bucket.take(0.5) for _ in range(2)] == [0.0, 0.5]
    assert [bucket.take(60.0) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_hanging_agent_leaves_some_calls_unanswered() -> None:
    fates = random.Random(3)  # the agent's seed
    hanging = sum(fates.random() < HANGING for _ in range(60))
    assert 2 <= hanging <= 60 * HANGING * 2

    async def scene(client: AgentClient) -> list[Reply]:
        left = {asyncio.create_task(ask(client, agent_at(url))) for _ in range(60)}
        answers: list[Reply] = []
        while len(left) > hanging:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            answers += [call.result() for call in done]
        process.send_signal(signal.SIGTERM)
        return answers + await asyncio.gather(*left)

    with started(command("hang", "json")) as (process, url):
        outcomes = Counter(reply.outcome for reply in calling(scene))
        assert process.wait(WAIT_S) == 0
    # Who had no answer when it stopped gets none.
    assert outcomes == {Outcome.OK: 60 - hanging, Outcome.ERROR: hanging}


def test_held_calls_are_answered_after_the_release() -> None:
    async def until(session: aiohttp.ClientSession, base: str, count: int) -> None:
        held = -1
        while held != count:
            async with session.get(f"{base}/held") as response:
                held = (await response.json())["held"]

    async def scene(client: AgentClient) -> list[Reply]:
        base = url.removesuffix("/run")
        async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT_S):
            assert (await ask(client, agent_at(url), 0.2)).outcome is Outcome.TIMEOUT
            await until(session, base, 0)  # nothing is kept for who has hung up
            calls = [asyncio.create_task(ask(client, agent_at(url))) for _ in range(3)]
            await until(session, base, 3)
            assert not any(call.done() for call in calls)
            async with session.post(f"{base}/release") as response:
                assert (await response.json()) == {"released": 3}
            return [*await asyncio.gather(*calls), await ask(client, agent_at(url))]

    with started(command("hold", "json")) as (_, url):
        answers = calling(scene)
    assert [answer.outcome for answer in answers] == [Outcome.OK] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_agent_stops_cleanly(number: signal.Signals) -> None:
    with started(command("good", "json")) as (process, _):
        os.kill(process.pid, number)
        assert process.wait(WAIT_S) == 0


def test_agent_that_cannot_listen_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("good", "json", port=port),
            check=False,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
    assert done.returncode == 1
    assert f"a cannot listen on port {port}" in done.stderr
    assert done.stdout == ""


def test_fleet_configuration_describes_the_fleet() -> None:
    config = tomllib.loads(fleet_config(FLEET_PORTS))
    assert config["routing"] == {"policy": "paper", "ceiling": 10.0}
    (client,) = config["clients"]
    assert client["id"] == "R"
    assert int(client["mint"]) >= 2000
    (family,) = config["families"]
    assert (family["size"], family["deadline_s"], family["max_attempts"]) == (100, 2, 5)
    check_validator(family["validator"])
    assert [agent["id"] for agent in config["agents"]] == [
        *("ada", "bram", "cleo", "dora", "egon"),
    ]
    known = {field.name for field in dataclasses.fields(Agent)} | {"quota"}
    for agent, sample in zip(config["agents"], FLEET, strict=True):
        assert agent.keys() <= known
        assert set(family["tools"]) <= set(agent["tools"])
        assert (agent["kind"] == "openai") is bool(agent["model"])
        assert f":{FLEET_PORTS[sample.name]}/" in agent["url"]


def test_fleet_has_every_manner_once() -> None:
    assert sorted(sample.behaviour for sample in FLEET) == [
        *("garble", "good", "hang", "limited", "slow"),
    ]
    assert {sample.kind for sample in FLEET} == {"json", "openai"}


def test_fleet_processes_serve_the_urls_of_the_configuration() -> None:
    """Each command, at a free port, listens under the path that the configuration names."""
    config = tomllib.loads(fleet_config(dict.fromkeys(FLEET_PORTS, 0)))
    wanted = {agent["id"]: agent["url"].rpartition(":0")[2] for agent in config["agents"]}
    with ExitStack() as stack:
        for one in fleet_processes(dict.fromkeys(FLEET_PORTS, 0)):
            _, url = stack.enter_context(started(one.argv))
            kind = "openai" if "completions" in url else "json"
            assert url.endswith(wanted[one.name])
            (reply,) = replies(agent_at(url, kind), 1)
            assert reply.outcome is not Outcome.ERROR
