"""Real kill -9 at every write and send of every step, and inside every exchange with PostgreSQL.

A child is forked with the step's work in front of it and ends in the middle of it, by SIGKILL, or
loses a reply on the wire. What it told the world before that (messages, quotes, answers to clients)
has gone through a pipe; what it knew is gone. The parent then drives on to quiet and judges.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from urllib.parse import urlsplit

from ledger.check import Violation
from ledger.model import Outcome, Reply
from tasks.call import Call
from tasks.messages import ABORT, COMMIT, EXECUTE, RESERVE, VALIDATE
from tests.chaos.checker import Ask
from tests.chaos.schedule import relieve, settle_down
from tests.chaos.schedule_proxy import FROM_HERE, Strike, striking
from tests.chaos.schedule_stage import DEADLINE_S, MARGIN_S, Stage
from tests.chaos.schedule_world import World, echo

FACT_MAX = 1 << 16
STUCK_S = 60


class Mode(StrEnum):
    """How the child is hit."""

    KILL = "kill"  # SIGKILL before or after the n-th commit, pipeline or send
    WIRE_KILL = "wire-kill"  # SIGKILL when PostgreSQL has done the n-th exchange, reply unread
    WIRE_TEAR = "wire-tear"  # SIGKILL with half of the n-th request sent
    WIRE_LOST = "wire-lost"  # the connection ends with the n-th reply; the process lives


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A step with work in front of it. `before` sets it up, `step` is what the child does."""

    name: str
    before: Callable[[World], None]
    step: Callable[[World], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One child: where it was hit, and what was wrong after all was quiet."""

    scene: str
    mode: Mode
    at: int
    struck: bool  # False: the step was over before
    violations: list[Violation]


def hits(stage: Stage, scene: Scene, mode: Mode) -> Iterator[Hit]:
    """Every point of a scene, one after the other, until the step ends before it is hit."""
    at = 0
    while True:
        at += 1
        hit = _hit(stage, scene, mode, at)
        yield hit
        if not hit.struck:
            return


def _hit(stage: Stage, scene: Scene, mode: Mode, at: int) -> Hit:
    stage.reset()
    world = World(stage, seed=at)
    with world.playing():
        scene.before(world)
        ahead = list(world.conveyor)
        struck = _strike(world, scene, mode, at)
        for process in world.processes:
            process.start()
        if at % 2:  # a message whose worker died may come again, or be lost with it
            world.conveyor += ahead
        relieve(world)
        found = settle_down(world)
        found += world.judged()
    return Hit(scene=scene.name, mode=mode, at=at, struck=struck, violations=found)


def _strike(world: World, scene: Scene, mode: Mode, at: int) -> bool:
    """Run the step in a child and hit it; whether it was hit before it was done."""
    heard, told = os.pipe()
    with ExitStack() as stack:
        url = world.stage.database_url
        if mode is not Mode.KILL:
            strike = Strike.TEAR if mode is Mode.WIRE_TEAR else Strike.LOSE
            port = stack.enter_context(
                striking(urlsplit(url).port or 5432, at, strike, lambda: _tell(told, ["struck"]))
            )
            url = url.replace(f":{urlsplit(url).port}/", f":{port}/")
        child = os.fork()
        if child == 0:
            os.close(heard)
            _child(world, scene, url, told, at if mode is Mode.KILL else 0)
        os.close(told)
        struck = _listen(world, heard, child, fatal=mode in (Mode.WIRE_KILL, Mode.WIRE_TEAR))
        _, status = os.waitpid(child, 0)
    os.close(heard)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError(f"{scene.name}: the child broke, see above")
    return struck or os.WIFSIGNALED(status)


def _listen(world: World, heard: int, child: int, *, fatal: bool) -> bool:
    """Take in what the child tells until it is gone; end it when the wire was struck."""
    struck, rest = False, b""
    while not (struck and fatal) and (data := os.read(heard, FACT_MAX)):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            fact = json.loads(line)
            if fact == ["done"]:
                return struck
            if fact == ["struck"]:
                struck = True
            else:
                world.hear(fact)
    if struck and fatal:
        os.kill(child, signal.SIGKILL)
    return struck


def _child(world: World, scene: Scene, url: str, told: int, kill_at: int) -> NoReturn:
    """The process that is hit. It must not touch what it shares with its parent."""
    code = 1
    try:
        signal.alarm(STUCK_S)
        left = kill_at

        def at(_kind: str, _side: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        world.stage.database_url = url
        world.rejoin()
        with world.stage.engine.connect() as connection:  # logged in, and all it looks up at first
            plain = connection.execution_options(isolation_level="AUTOCOMMIT")
            plain.exec_driver_sql(f"SELECT '{FROM_HERE}'")
        world.tell = lambda fact: _tell(told, fact)
        world.stage.tap.at = at
        scene.step(world)
        _tell(told, ["done"])
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _tell(told: int, fact: list[object]) -> None:
    os.write(told, json.dumps(fact).encode() + b"\n")


# Scenes ------------------------------------------------------------------------------------------


def _submit(world: World) -> None:
    for number, (client, family, size, count) in enumerate(
        [("rich", "good", 100, 2), ("rich", "bad", 100, 1), ("poor", "good", 450, 2)]
    ):
        ask = Ask(
            id=f"a{number}", client=client, family=family, size=size, count=count, keyed=True,
            expires_s=None,
        )  # fmt: skip
        world.ask(world.processes[0], ask)


def _until(step: str) -> Callable[[World], None]:
    """Tasks of all kinds, carried on until a message for `step` lies in front."""

    def before(world: World) -> None:
        _submit(world)
        world.dispatch(world.processes[0])
        while not any(name == step for name, _ in world.conveyor):
            _carry(world)
        world.conveyor.sort(key=lambda message: message[0] != step)

    return before


def _carry(world: World) -> None:
    here = world.processes[0]
    if world.conveyor:
        world.deliver(here, world.conveyor.pop(0))
    else:
        world.answer(here, len(here.out), _mixed)


def _mixed(call: Call) -> Reply:
    """The second task of an ask gets no good answer: a chunk that splits."""
    if call.payload["n"] == 1:
        return Reply(outcome=Outcome.RATE_LIMITED, latency_s=0.1, retry_after_s=1.0)
    return echo(call)


def _deliver(world: World) -> None:
    world.deliver(world.processes[0], world.conveyor.pop(0))


def _execute(world: World) -> None:
    _deliver(world)
    here = world.processes[0]
    world.answer(here, len(here.out), _mixed)


def _abandoned(world: World) -> None:
    """One attempt left behind in every state, and a task whose time is over."""
    here = world.processes[0]
    for number, stop in enumerate([EXECUTE, VALIDATE, COMMIT, ABORT, "called", "expired"]):
        expires_s = world.now_s + 1 if stop == "expired" else None
        ask = Ask(
            id=str(stop), client="rich", family="bad" if stop == ABORT else "good",
            size=50 + number, count=1, keyed=True, expires_s=expires_s,
        )  # fmt: skip
        world.ask(here, ask)
        if stop == "expired":
            break
        world.dispatch(here)
        while world.conveyor and world.conveyor[0][0] != stop:
            world.deliver(here, world.conveyor.pop(0))
            if stop not in ("called", EXECUTE) and here.out:
                world.answer(here, len(here.out), echo)
        world.conveyor.clear()
        here.out.clear()
    world.now_s += DEADLINE_S + MARGIN_S + 0.5


def _wiped(world: World) -> None:
    _until(RESERVE)(world)
    world.snapshot(world.processes[0])
    world.stage.wipe()


def _ahead(world: World) -> None:
    """What is in flight and what waits was put there by a clock two hours ahead."""
    here = world.processes[0]
    here.skew_s, world.was_ahead = 7200.0, True
    _until(EXECUTE)(world)
    here.skew_s = 0.0


SCENES = [
    Scene(name="intake", before=lambda _: None, step=_submit),
    Scene(
        name="cancel",
        before=_submit,
        step=lambda world: world.cancel(world.processes[0], world.record.tasks[0]),
    ),
    Scene(name="dispatch", before=_submit, step=lambda world: world.dispatch(world.processes[0])),
    Scene(name="reserve", before=_until(RESERVE), step=_deliver),
    Scene(name="reserve, Redis empty", before=_wiped, step=_deliver),
    Scene(name="execute", before=_until(EXECUTE), step=_execute),
    Scene(name="validate", before=_until(VALIDATE), step=_deliver),
    Scene(name="commit", before=_until(COMMIT), step=_deliver),
    Scene(name="abort", before=_until(ABORT), step=_deliver),
    Scene(name="sweep", before=_abandoned, step=lambda world: world.sweep(world.processes[0])),
    Scene(
        name="snapshot",
        before=_until(EXECUTE),
        step=lambda world: world.snapshot(world.processes[0]),
    ),
    Scene(name="clock", before=_ahead, step=lambda world: world.set_clock(world.processes[0])),
]
