"""`/metrics`: what Prometheus reads. Gathered when it asks, never on the path of a task.

Each source is read in a thread, within a time limit, and kept for as long as its reading was worth:
a second, or fifty times what it took, so that watching costs two per cent of a connection at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ledger import db
from ledger.errors import ClearlaneError
from scheduler.connection import connect
from scheduler.step_times import StepTimes
from tasks.context import Context
from workers.gateway import readings
from workers.gateway.parameters import Known
from workers.gateway.service import Here
from workers.settings import load_settings

AGE_S = 1.0  # how old a reading may be
COST_SHARE = 0.02  # of one connection's time, for reading
ANSWER_S = 3.0  # a stalled source costs a scrape this long
THREADS_MAX = 2  # of one source: one may be stuck
LABELS = ["source"]
router = APIRouter(tags=["health"], dependencies=[Known])


@dataclass(kw_only=True)
class Source:
    """One part of the metrics, read at most every so often."""

    name: str
    read: Callable[[], Sequence[Metric]]
    families: Sequence[Metric] = ()
    up: bool = False
    read_at: float = float("-inf")
    took_s: float = 0.0
    turn: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(THREADS_MAX))

    async def refresh(self) -> None:
        """Read if due. A source that is away, or too slow, has no families and is not up."""
        async with self.turn:
            began = time.monotonic()
            if began - self.read_at <= max(AGE_S, self.took_s / COST_SHARE):
                return
            try:
                with anyio.fail_after(ANSWER_S):
                    self.families = await to_thread.run_sync(
                        self.read, limiter=self.threads, abandon_on_cancel=True
                    )
                self.up, self.took_s = True, time.monotonic() - began
            except (ClearlaneError, TimeoutError):
                self.families, self.up, self.took_s = (), False, 0.0
            self.read_at = time.monotonic()


class Board(Collector):
    """All sources as one collector. Needs REDIS_URL and DATABASE_URL, as the gateway does."""

    def __init__(self, context: Context) -> None:
        settings = load_settings()
        # Connections of its own: whoever waits for a settlement must not wait for a scrape.
        engine = db.connect(context.engine.url.render_as_string(hide_password=False), pool_size=1)
        client, broker = connect(str(settings.redis_url)), connect(str(settings.celery_broker_url))
        self._sources = [
            Source(name="ledger", read=partial(readings.ledger, context, engine)),
            Source(name="log", read=partial(readings.log, context, engine)),
            Source(name="tasks", read=partial(readings.tasks, context, engine)),
            Source(name="fleet", read=partial(readings.fleet, context)),
            Source(name="queues", read=partial(readings.queues, broker)),
            Source(name="steps", read=partial(readings.steps, StepTimes(client))),
        ]
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Everything in the format that was asked for, and that format's name."""
        async with anyio.create_task_group() as group:
            for source in self._sources:
                group.start_soon(source.refresh)
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterator[Metric]:
        """What was read last."""
        now = time.monotonic()
        up = GaugeMetricFamily(
            "clearlane_source_up", "Whether this part of the metrics could be read.", labels=LABELS
        )
        age = GaugeMetricFamily(
            "clearlane_source_age_seconds", "How old this part of the metrics is.", labels=LABELS
        )
        for source in self._sources:
            up.add_metric([source.name], source.up)
            age.add_metric([source.name], max(0.0, now - source.read_at) if source.up else 0.0)
        yield readings.build()
        yield up
        yield age
        for source in self._sources:
            yield from source.families


@router.get(
    "/metrics",
    summary="What a monitor reads",
    response_class=PlainTextResponse,
    responses={200: {"description": "The exposition format of Prometheus, or OpenMetrics."}},
)
async def metrics(here: Here, request: Request) -> Response:
    """Queues, waiting tasks, the fleet, the ledger and the steps, at most some seconds old.

    Answers within seconds also when a server is away: then `clearlane_source_up` is 0 for what
    could not be read.
    """
    board: Board | None = getattr(request.app.state, "metrics", None)
    if board is None:
        board = request.app.state.metrics = Board(here.context)
    body, kind = await board.text(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": kind})
