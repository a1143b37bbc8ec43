"""The dispatcher: claims ready tasks from the waiting room and puts them on the conveyor.

`python -m workers.dispatcher`. It wakes when PostgreSQL says that a task became ready or that
capacity came free, and looks by itself at a bounded interval; it never has more in flight than
the fleet can hold. Several may run. Row M04.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from types import FrameType

import structlog

from ledger import attempts
from ledger.attempts import Claim
from ledger.db import ENDED, READY
from ledger.errors import BadInput, Unavailable
from ledger.listen import Listener
from ledger.model import LANE_DEFAULT, Agent
from ledger.registry import Registry
from scheduler.connection import connect
from scheduler.pool import MT, Pool
from scheduler.queues import depths
from tasks.context import Context, bind
from tasks.messages import RESERVE, send
from workers import alive
from workers.bootstrap import build_context
from workers.celery import settings
from workers.logs import configure_logs

LOOK_S = 1.0  # the longest it goes without looking, whatever it was told
HOLD_AGE_S = 0.25  # how old its idea of the fleet may be
COUNT_MAX = 256  # agents looked at for that; those of a larger fleet take turns
CLAIM_MAX = 1024  # tasks in one claim
PAUSE_MIN_S = 0.005
OUTAGE_S = 1.0  # pause while a server is away
STEPS = ("reserve", "execute", "validate", "commit")  # the queues of a task's way
LINE_MAX = 2  # messages that wait for a worker before tasks gather instead
GATHER_S = 0.004
BEAT_S = 2.0  # as often as a worker says that it is alive

log = structlog.get_logger()


def seats(agent: Agent, pool: Pool | None, size_min: int, now_ms: int) -> int:
    """How many tasks the agent can hold at a time. Pure.

    Limited by its slots and by its capacity: a pool is never drained to zero. An agent that
    rests holds only what it already has; one with a cooldown starts one task in each window.
    """
    if agent.suspended:
        return 0
    in_flight = 0 if pool is None else pool.in_flight
    if pool is not None and pool.next_available_ms > now_ms:
        return in_flight
    most = min(agent.slots, (agent.y_max * MT - 1) // (size_min * MT))
    return min(most, in_flight + 1) if agent.cooldown_s else most


class Dispatcher:
    """One loop. `stop` may be called from a signal handler.

    line: how many messages wait for a worker now. Raises Unavailable.
    heartbeat: the file that says that this loop turns; None: nobody looks.
    """

    def __init__(
        self, context: Context, line: Callable[[], int], heartbeat: Path | None = None
    ) -> None:
        self._context = context
        self._line = line
        self._heartbeat = heartbeat
        self._beat_at = -BEAT_S
        self._hold: dict[str, int] = {}  # by lane
        self._hold_at = -HOLD_AGE_S
        self._counted: Registry | None = None
        self._seats: dict[str, int] = {}  # by agent, as of its last turn
        self._busy: dict[str, int] = {}  # in flight, by agent, as of then
        self._rests: dict[str, int] = {}  # until when, by agent, as of then
        self._opens_ms = 0  # when the next rest ends, or the next start of a slow lane is due
        self._counted_ms = 0
        self._left: dict[str, int] = {}  # starts that are left in each lane that counts them
        self._turns: Iterator[str] = iter(())
        self._unsent: Sequence[Claim] = ()
        self._stopping = False

    def stop(self, *_: int | FrameType | None) -> None:
        """Finish the claim at hand and return from `run`."""
        self._stopping = True

    def run(self) -> None:
        """Dispatch until stopped, through every outage."""
        url = self._context.engine.url.render_as_string(hide_password=False)
        while not self._stopping:
            self._beat()
            try:
                with Listener(url, READY, ENDED) as listener:
                    self._serve(listener)
            except Unavailable as error:
                log.warning("waiting for a server", reason=str(error))
                time.sleep(OUTAGE_S)

    def _serve(self, listener: Listener) -> None:
        self._send(self._unsent)
        self._refresh_hold()
        while not self._stopping:
            self._beat()
            now = self._context.now()
            if self._opened():
                self._refresh_hold()
            claims = attempts.claim(
                self._context.engine,
                limit=CLAIM_MAX,
                hold=self._hold,
                margin_s=2 * self._context.lease_margin_s,
                now=now,
            )
            self._spend(claims)
            self._send(claims)
            # After the claim: a task that has just come does not wait for it.
            self._refresh_hold()
            # A claim that was not full took all there was, or all there was room for.
            if len(claims) < CLAIM_MAX:
                listener.wait(self._pause_s(now))
            if claims:
                self._gather()

    def _gather(self) -> None:
        """Leave tasks in the waiting room while workers have enough to do.

        A message costs the same whatever it carries: under load many small ones would only queue
        up, and every task would wait behind all of them.
        """
        while not self._stopping and self._line() >= LINE_MAX:
            self._beat()
            time.sleep(GATHER_S)

    def _beat(self) -> None:
        """Wherever the loop can stay for long: one that hangs is the one that does not come by."""
        if self._heartbeat is not None and time.monotonic() - self._beat_at >= BEAT_S:
            alive.beat(self._heartbeat)
            self._beat_at = time.monotonic()

    def _send(self, claims: Sequence[Claim]) -> None:
        # Kept until the broker has them: a claim that nobody hears of blocks its task for as long
        # as the claim lasts. Sent twice they do no harm.
        self._unsent = claims
        dispatch(claims)
        self._unsent = ()

    def _spend(self, claims: Sequence[Claim]) -> None:
        """A start that was given away is gone, whenever its task ends: the room that is free then
        is that of an agent which rests."""
        for item in claims:
            if item.lane in self._left:
                self._left[item.lane] -= 1
                if self._left[item.lane] <= 0:
                    self._hold[item.lane] = 0

    def _pause_s(self, now: datetime) -> float:
        """Until the next waiting task is worth a try, within bounds."""
        at = attempts.next_ready(self._context.engine, now)
        pauses_s = [LOOK_S]
        if at is not None:
            pauses_s.append((at - now).total_seconds())
        if self._opens_ms:
            pauses_s.append((self._opens_ms - self._context.now_ms()) / 1000)
        return max(PAUSE_MIN_S, min(pauses_s))

    def _opened(self) -> bool:
        """Whether an agent's rest has ended since the fleet was looked at."""
        return 0 < self._opens_ms <= self._context.now_ms()

    def _refresh_hold(self) -> None:
        if self._opened() or time.monotonic() - self._hold_at >= HOLD_AGE_S:
            self._hold = self._count(self._context.registry())
            self._hold_at = time.monotonic()

    def _count(self, registry: Registry) -> dict[str, int]:
        """The seats of each lane. Agents whose turn has not come yet are taken for ready."""
        now_ms = self._context.now_ms()
        self._look(registry, now_ms)
        held: dict[str, int] = defaultdict(int)
        busy: dict[str, int] = defaultdict(int)
        for name, count in self._seats.items():
            held[registry.agents[name].lane] += count
            busy[registry.agents[name].lane] += min(count, self._busy.get(name, 0))
        paces = self._paces(held.keys(), now_ms)
        for lane, next_ms in paces.items():
            held[lane] = min(held[lane], busy[lane] + (next_ms <= now_ms))
        free = {agent.lane for agent in registry.agents.values() if not agent.cooldown_s}
        self._left = {
            lane: held[lane] - busy[lane] for lane in held if lane in paces or lane not in free
        }
        ahead = (at for at in (*self._openings(registry, now_ms), *paces.values()) if at > now_ms)
        self._opens_ms = min(ahead, default=0)
        return {lane: count if self._left.get(lane, 1) > 0 else 0 for lane, count in held.items()}

    def _look(self, registry: Registry, now_ms: int) -> None:
        """Those whose rest has ended, and those whose turn it is."""
        size_min = min((family.size for family in registry.families.values()), default=1)
        if registry is not self._counted:
            self._counted, self._turns = registry, cycle(registry.agents)
            self._seats = {
                name: seats(agent, None, size_min, now_ms)
                for name, agent in registry.agents.items()
            }
            self._busy, self._rests = {}, {}
        due = (name for name, at in self._rests.items() if self._counted_ms < at <= now_ms)
        turns = islice(self._turns, min(COUNT_MAX, len(registry.agents)))
        names = list(dict.fromkeys((*islice(due, COUNT_MAX), *turns)))
        self._counted_ms = now_ms
        board, _ = self._context.reservations.look(names)
        for name in names:
            pool = board[name][0] if name in board else None
            self._seats[name] = seats(registry.agents[name], pool, size_min, now_ms)
            self._busy[name] = 0 if pool is None else pool.in_flight
            self._rests[name] = 0 if pool is None else pool.next_available_ms

    def _openings(self, registry: Registry, now_ms: int) -> Iterator[int]:
        """When to look again at agents that rest. How long one rests that is being called is
        known when it answers."""
        soon_ms = now_ms + int(HOLD_AGE_S * 1000)
        for name, at in self._rests.items():
            called = self._busy[name] and registry.agents[name].cooldown_s
            yield min(at, soon_ms) if called else at

    def _paces(self, lanes: AbstractSet[str], now_ms: int) -> Mapping[str, int]:
        # Agents of the default lane share nothing: a 429 slows none but who said it.
        shared = lanes - {LANE_DEFAULT}
        return self._context.reservations.paces(shared, now_ms) if shared else {}


def dispatch(claims: Sequence[Claim]) -> None:
    """Send claimed tasks to reserve: together, but those that lost a worker each alone."""
    send(RESERVE, [item.key for item in claims if not item.alone])
    for item in claims:
        if item.alone:
            send(RESERVE, [item.key])


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    configure_logs(settings)
    try:
        context = build_context(settings)
    except BadInput as error:
        log.error("cannot start", reason=str(error))
        return 2
    bind(context)
    broker = connect(str(settings.celery_broker_url))
    dispatcher = Dispatcher(
        context, lambda: sum(depths(broker, STEPS).waiting.values()), settings.heartbeat_file
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, dispatcher.stop)
    log.info("dispatcher ready")
    dispatcher.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
