"""What the steps work with: the ledger, the reservations, the registry, the hooks, the clock.

Built once per process by `workers` and bound here; the steps ask for it when they run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ledger.db import Ledger, server_time
from ledger.errors import InvariantBroken
from ledger.registry import Registry, load_registry
from scheduler.hooks import Hooks, load_hooks
from scheduler.qos import Qos
from scheduler.reservations import Reservations
from tasks.addresses import AddressPolicy
from tasks.notary import Notary

REGISTRY_AGE_S = 1.0  # how old the registry in a worker may be
# Counts on while the machine sleeps, where the system has such a clock.
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Context:
    """One per process.

    lease_margin_s: how long beyond a family's deadline a reservation lives before the sweeper
    takes the attempt for lost.
    addresses: where agents may live; by default global addresses and loopback.
    notary: who signs the log; None where nobody does.
    clock: seconds since the epoch. Without one, the time is PostgreSQL's, asked for whenever the
    registry is read and counted on from there: a host whose clock is wrong, or jumps, neither
    parks tasks nor takes the claims of others for ended.
    """

    def __init__(
        self,
        *,
        engine: Ledger,
        reservations: Reservations,
        lease_margin_s: float,
        addresses: AddressPolicy | None = None,
        notary: Notary | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.engine = engine
        self.reservations = reservations
        self.lease_margin_s = lease_margin_s
        self.addresses = addresses or AddressPolicy()
        self.notary = notary
        self._clock = clock or self._shared_s
        self._server_ahead_s: float | None = None  # of STEADY
        self._registry: Registry | None = None
        self._read_at = 0.0
        self._hooks: Hooks | None = None
        self._rng: random.Random | None = None

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def now(self) -> datetime:
        """The same as a datetime in UTC. Raises Unavailable while no clock was ever read."""
        return datetime.fromtimestamp(self._clock(), UTC)

    def registry(self, *, families: Iterable[str] = (), agents: Iterable[str] = ()) -> Registry:
        """The registry, at most `REGISTRY_AGE_S` old, and not older than these names."""
        known = self._registry
        if (
            known is not None
            and time.monotonic() - self._read_at <= REGISTRY_AGE_S
            and all(name in known.families for name in families)
            and all(name in known.agents for name in agents)
        ):
            return known
        fresh = load_registry(self.engine, known)
        self._read_clock()
        if known is None or known.routing != fresh.routing:
            self._hooks = load_hooks(Qos(fresh.routing))
            self._rng = random.Random(fresh.routing.seed)
        # Last: whatever fails above is done again by the next who asks.
        self._registry, self._read_at = fresh, time.monotonic()
        return fresh

    def _shared_s(self) -> float:
        ahead_s = self._read_clock() if self._server_ahead_s is None else self._server_ahead_s
        return ahead_s + time.clock_gettime(STEADY)

    def _read_clock(self) -> float:
        """How far the server is ahead of STEADY, never too much: the answer was on its way.

        A slow answer says little. What was known stays as far as this one does not contradict it.
        """
        asked_s = time.clock_gettime(STEADY)
        server_s = server_time(self.engine).timestamp()
        least_s = server_s - time.clock_gettime(STEADY)
        known_s = least_s if self._server_ahead_s is None else self._server_ahead_s
        self._server_ahead_s = max(least_s, min(known_s, server_s - asked_s))
        return self._server_ahead_s

    @property
    def hooks(self) -> Hooks:
        """The plug-ins, the built-in one configured by the registry."""
        self.registry()
        if self._hooks is None:
            raise InvariantBroken("the registry was read without loading hooks")
        return self._hooks

    @property
    def rng(self) -> random.Random:
        """The router's generator, seeded by the configuration if it says so."""
        self.registry()
        if self._rng is None:
            raise InvariantBroken("the registry was read without seeding the generator")
        return self._rng


_bound: list[Context] = []


def bind(context: Context) -> None:
    """Make `context` the one this process works with."""
    _bound[:] = [context]


def current() -> Context:
    """The bound context."""
    if not _bound:
        raise InvariantBroken("no context is bound: start the process through workers/")
    return _bound[0]
