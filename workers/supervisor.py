"""Starts the processes of one stack, keeps them alive within a budget, stops them in order.

One asyncio loop that only waits: whatever may block runs in a thread or a child (rows M40, M41).
Every change is written to the run file as a whole, for `status` and for whoever comes after a
kill -9.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import Process as Child
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import psutil
import structlog

from ledger.errors import ClearlaneError, InvariantBroken
from workers import home as homes
from workers import leftovers
from workers.process import Process
from workers.readiness import await_ready, exit_words
from workers.restarts import RestartPolicy, next_start
from workers.tending import Standstill, rotate
from workers.users import identity

LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 64 * 1024
STRAYS_TIMEOUT_S = 2.0  # for what a process started and left behind when it ended itself
SUPERVISOR_LOG = "supervisor"  # what `up --detach` says
TEND_S = 1.0  # between two looks at logs and at processes that stand still

log = structlog.get_logger()


class StartFailed(ClearlaneError):
    """A process did not become ready at the first start; everything was stopped again."""

    def __init__(self, name: str, reason: str, log_path: Path, log_from: int) -> None:
        tail = _tail(log_path, log_from)
        super().__init__(f"{name} did not start: {reason}; end of {log_path}:\n{tail}")
        self.name = name


class State(StrEnum):
    """How one process stands."""

    STARTING = "starting"
    RUNNING = "running"  # it answered its readiness check
    WAITING = "waiting"  # it died and pauses before its next start
    FAILED = "failed"  # its restart budget is spent: it stays down until the next `up`
    STOPPED = "stopped"  # by a signal while it ran; or by us, at the end


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where the stack answers. The first two hold passwords. `log_policy`: the file with the
    witnesses that it asks, an absolute path."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    gateway_url: str
    flower_url: str
    log_policy: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Processes that start together. `then` runs in a thread once all are ready."""

    processes: tuple[Process, ...]
    then: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What the run file says of one process."""

    name: str
    state: State
    pid: int | None = None
    created: float | None = None  # creation time: with the pid it names one incarnation
    restarts: int = 0
    reason: str = ""  # why it is not running, one line for people


class Supervisor:
    """Owner of all processes of one home, from the first start to the last stop."""

    def __init__(
        self,
        *,
        home: Path,
        stages: Sequence[Stage],
        addresses: Addresses,
        policy: RestartPolicy,
        report: Callable[[Status], None],
    ) -> None:
        self._home = home
        self._stages = stages
        self._addresses = addresses
        self._policy = policy
        self._report = report
        self._statuses: dict[str, Status] = {}
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._log_from: dict[str, int] = {}  # where this incarnation's lines begin
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._complete = False
        names = [process.name for stage in stages for process in stage.processes]
        if len(names) != len(set(names)):
            raise InvariantBroken(f"two processes have one name: {sorted(names)}")

    @property
    def was_ready(self) -> bool:
        """Whether everything has been running at some time."""
        return self._complete

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, keep it alive until SIGINT or SIGTERM, stop it.

        Raises StartFailed, with nothing left running, when a process does not become ready.
        """
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal)
        tending = asyncio.create_task(self._tend())
        try:
            if await self._until_stop(self._start()):
                on_ready()  # first: `up --detach` reads what it says until the run is complete
                self._complete = True
                self._write()
                # A keeper only ends when it gives up; an error in it must not pass unseen.
                if await self._until_stop(asyncio.gather(*self._keepers.values())):
                    await self._stop.wait()
        finally:
            tending.cancel()
            await self._stop_all()
            (self._home / homes.RUN).unlink(missing_ok=True)
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        """First signal: stop in order. Second: kill at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _until_stop(self, work: Awaitable[object]) -> bool:
        """Whether the work ended before somebody asked to stop."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return False
        task.result()
        return True

    async def _start(self) -> None:
        for stage in self._stages:
            await _all_or_first_error([self._first_start(p) for p in stage.processes])
            for process in stage.processes:
                self._keepers[process.name] = asyncio.create_task(self._keep(process))
            if stage.then is not None:
                await asyncio.to_thread(stage.then)

    async def _first_start(self, process: Process) -> None:
        self._set(Status(name=process.name, state=State.STARTING))
        reason = await self._launch(process)
        if reason is not None:
            self._set(Status(name=process.name, state=State.FAILED, reason=reason))
            path = self._home / "log" / f"{process.name}.log"
            raise StartFailed(process.name, reason, path, self._log_from.get(process.name, 0))

    async def _keep(self, process: Process) -> None:
        """Restart one process whenever it dies, within the budget. Ends when it gives up."""
        starts = [time.monotonic()]
        while True:
            child = self._children[process.name]
            code = await child.wait()
            _kill_group(child.pid)
            del self._children[process.name]  # its pid may soon be somebody else's
            reason = f"ended with {exit_words(code)}"
            while True:
                pause_s = next_start(starts, time.monotonic(), self._policy)
                if pause_s is None:
                    log.error("process given up", name=process.name, reason=reason)
                    self._change(process, State.FAILED, reason, restarts=len(starts) - 1)
                    return
                log.warning("process died", name=process.name, reason=reason, pause_s=pause_s)
                self._change(process, State.WAITING, reason, restarts=len(starts) - 1)
                await asyncio.sleep(pause_s)
                starts.append(time.monotonic())
                self._change(process, State.STARTING, reason, restarts=len(starts) - 1)
                failure = await self._launch(process)
                if failure is None:
                    break
                reason = failure

    async def _tend(self) -> None:
        """Keep logs within bounds, and end what a signal has stopped for too long."""
        still = Standstill()
        while True:
            await asyncio.sleep(min(TEND_S, self._policy.stopped_max_s))
            for log_name in [*self._statuses, SUPERVISOR_LOG]:
                path = self._home / "log" / f"{log_name}.log"
                if await asyncio.to_thread(rotate, path):
                    self._log_from[log_name] = 0
            pids = {child.pid: name for name, child in self._children.items()}
            halted = await asyncio.to_thread(still.look, set(pids))
            for pid, name in pids.items():
                self._judge_halt(name, pid, halted.get(pid))

    def _judge_halt(self, name: str, pid: int, halted_s: float | None) -> None:
        """Say that a process stands still, or runs again; kill it, and its keeper restarts it."""
        status, child = self._statuses[name], self._children.get(name)
        if child is None or child.pid != pid or status.state not in (State.RUNNING, State.STOPPED):
            return
        if halted_s is None:
            if status.state is State.STOPPED:
                self._set(replace(status, state=State.RUNNING, reason=""))
            return
        most_s = self._policy.stopped_max_s
        if status.state is State.RUNNING:
            log.warning("process stopped by a signal", name=name, pid=pid, restart_s=most_s)
            reason = f"stopped by a signal; it is restarted after {most_s:g} s of that"
            self._set(replace(status, state=State.STOPPED, reason=reason))
        if halted_s >= most_s:
            log.warning("process killed", name=name, reason="it stood still for too long")
            _kill_group(pid)

    async def _launch(self, process: Process) -> str | None:
        """Start a process and wait until it is ready; else end it and say why."""
        try:
            if process.clear is not None:
                await asyncio.to_thread(process.clear)
            child = await self._spawn(process)
        except (OSError, ClearlaneError) as error:
            return f"could not be started: {error}"
        self._children[process.name] = child
        with suppress(psutil.Error):
            self._set(
                replace(
                    self._statuses[process.name],
                    pid=child.pid,
                    created=psutil.Process(child.pid).create_time(),
                )
            )
        reason = await await_ready(process, child)
        if reason is None:
            self._set(replace(self._statuses[process.name], state=State.RUNNING, reason=""))
            return None
        await self._end(process)
        return reason

    async def _spawn(self, process: Process) -> Child:
        descriptor = homes.open_log(self._home, process.name)
        self._log_from[process.name] = os.fstat(descriptor).st_size
        try:
            return await asyncio.create_subprocess_exec(
                *process.argv,
                env={**process.env, leftovers.MARK: str(self._home)},
                cwd=self._home,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                **identity(process.user),
            )
        finally:
            os.close(descriptor)

    async def _stop_all(self) -> None:
        """Stop in reverse order of the stages; return with no process of ours left."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for stage in reversed(self._stages):
            ends = [self._end(process) for process in stage.processes]
            for error in await asyncio.gather(*ends, return_exceptions=True):
                if error is not None:  # the others still have to be stopped
                    log.error("process not stopped cleanly", reason=str(error))
            for process in stage.processes:
                if process.name in self._statuses:
                    restarts = self._statuses[process.name].restarts
                    self._change(process, State.STOPPED, "", restarts)
        await asyncio.to_thread(leftovers.stop_workers, self._home, STRAYS_TIMEOUT_S)

    async def _end(self, process: Process) -> None:
        """Signal, wait, kill; then whatever of its group is still there."""
        child = self._children.get(process.name)
        if child is None:
            return
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.send_signal(process.stop_signal)
            await self._exit_or_hurry(child, process.stop_timeout_s)
        killed = child.returncode is None
        _kill_group(child.pid)
        await child.wait()
        self._children.pop(process.name, None)
        if killed:
            log.warning("process killed", name=process.name)
            if process.clear is not None:  # its children may be in groups of their own
                await asyncio.to_thread(process.clear)

    async def _exit_or_hurry(self, child: Child, timeout_s: float) -> None:
        waits = [asyncio.ensure_future(w) for w in (child.wait(), self._hurry.wait())]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _change(self, process: Process, state: State, reason: str, restarts: int) -> None:
        self._set(Status(name=process.name, state=state, reason=reason, restarts=restarts))

    def _set(self, status: Status) -> None:
        before = self._statuses.get(status.name)
        self._statuses[status.name] = status
        self._write()
        if before is None or before.state != status.state:
            with suppress(OSError):  # nobody reads any more: no reason to stop working
                self._report(status)

    def _write(self) -> None:
        run = {
            "database_url": self._addresses.database_url,
            "redis_url": self._addresses.redis_url,
            "gateway_url": self._addresses.gateway_url,
            "flower_url": self._addresses.flower_url,
            "log_policy": self._addresses.log_policy,
            "supervisor": {
                "pid": os.getpid(),
                "started": psutil.Process().create_time(),
                "complete": self._complete,
            },
            "processes": [
                {
                    "name": s.name,
                    "pid": s.pid,
                    "created": s.created,
                    "state": s.state.value,
                    "restarts": s.restarts,
                    "reason": s.reason,
                }
                for s in self._statuses.values()
            ],
        }
        try:
            homes.write_private(self._home / homes.RUN, json.dumps(run, indent=1))
        except OSError as error:
            # A full disk must not take down what still runs.
            log.error("run file not written", reason=str(error))


async def _all_or_first_error(work: Sequence[Awaitable[None]]) -> None:
    """Run all at once; the first failure cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _kill_group(pid: int) -> None:
    """Kill what is left of a session: its leader's pid is its group's number."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _tail(path: Path, start: int) -> str:
    if not path.exists():
        return "(empty)"
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(empty)"
