"""The Celery application: `celery -A workers worker -Q reserve`, `celery -A workers beat`.

Four queues carry the saga, `control` carries the cron jobs. Messages are JSON, hold attempt keys
alone, and are hints: no result is stored, a redelivered or lost one changes nothing.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import structlog
from celery import Celery, signals, states
from celery.exceptions import SecurityWarning
from celery.schedules import crontab
from kombu import compression
from kombu.entity import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

from ledger.errors import BadInput
from scheduler.jobs import Job
from scheduler.slots import Every
from tasks.context import bind
from tasks.cron import FIRE, finish_jobs
from tasks.execute import finish_calls
from workers import alive
from workers.bootstrap import build_context
from workers.broker import TIMEOUTS
from workers.jobfile import cron_table
from workers.logs import configure_logs
from workers.settings import load_settings
from workers.watch import Watch, watch_over

QUEUES = ("reserve", "execute", "validate", "commit", "control")
# To note each message as taken and then as done costs two round trips, on the way of a task that is
# alone. After reserve the attempt has a lease, and the sweeper misses a lost message earlier than
# the broker would give it out again; before, there is nothing but the message and the claim.
ACKNOWLEDGED = ("reserve", "control")
REDELIVER_S = 60  # a message whose worker died comes again; the sweeper is usually earlier

HINT_S = 60.0  # a hint that waited longer for a worker says nothing that others do not


def _hints(job: Job) -> dict[str, Any]:
    """Beat's entry of a job: it only says that something may be due."""
    regular = isinstance(job.schedule, Every)
    return {
        "task": FIRE,
        "schedule": job.schedule.period_s if regular else crontab.from_string(job.schedule.text),
        "args": [job.name],
        "options": {"expires": min(HINT_S, 2 * job.schedule.period_s)},
    }


settings = load_settings()
app = Celery("clearlane", broker=settings.celery_broker_url, include=[
    "tasks.reserve",
    "tasks.execute",
    "tasks.validate",
    "tasks.commit",
    "tasks.abort",
    "tasks.sweep",
    "tasks.clock",
    "tasks.cron",
    "tasks.epochs",
    "tasks.checkpoint",
    "tasks.submit",
])  # fmt: skip
app.conf.update(
    task_queues=[
        Queue(name, Exchange(name), routing_key=name, no_ack=name not in ACKNOWLEDGED)
        for name in QUEUES
    ],
    task_default_queue="control",
    task_routes={
        "saga.reserve": {"queue": "reserve"},
        "saga.execute": {"queue": "execute"},
        "saga.validate": {"queue": "validate"},
        "saga.commit": {"queue": "commit"},
        "saga.abort": {"queue": "commit"},
        "cron.*": {"queue": "control"},
    },
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_acks_late=True,
    task_reject_on_worker_lost=False,  # it would loop for ever; the sweeper counts attempts
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,  # Flower shows every step; one event per chunk, not per task
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": REDELIVER_S,
        "unacked_restore_limit": 100,
        "health_check_interval": 25,
        **TIMEOUTS,
    },
    redbeat_redis_options=TIMEOUTS,
    worker_soft_shutdown_timeout=0.0,
    beat_schedule={name: _hints(job) for name, job in cron_table(settings).items()},
    # RedBeat keeps its schedule at the broker. A killed beat is replaced when its lock ends: soon,
    # since two that send at once do no harm. One that stood still for so long has lost the lock and
    # waits for it (workers/beat.py).
    beat_max_loop_interval=2,
    redbeat_lock_timeout=10,
)

# What root risks is an object in a message that runs as code; here messages are JSON alone.
warnings.filterwarnings("ignore", category=SecurityWarning)
# A compressed message could blow a worker up before anything has checked it, and we send none.
compression._decoders.clear()
# By its scheme, not by `broker_transport`: that would show in every address that Celery prints.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "workers.broker:Transport"))


@signals.setup_logging.connect
def _logs(**_: Any) -> None:
    configure_logs(settings)


_watches: list[Watch] = []


@signals.worker_init.connect
def _start(**_: Any) -> None:
    try:
        context = build_context(settings)
        _watches.append(watch_over(context, str(settings.redis_url), os.environ))
    except BadInput as error:
        # Celery logs what a signal's receiver raises and goes on; this one must not go on. Its
        # logs are not set up yet.
        configure_logs(settings)
        structlog.get_logger().error("cannot start", reason=str(error))
        raise SystemExit(2) from None
    bind(context)


@signals.task_prerun.connect
def _begin(task: Any, args: Any, **_: Any) -> None:
    for watch in _watches:
        watch.begin(task.name, args)


@signals.task_postrun.connect
def _end(state: str | None, **_: Any) -> None:
    for watch in _watches:
        watch.end(failed=state != states.SUCCESS)


@signals.heartbeat_sent.connect
def _alive(**_: Any) -> None:
    """The worker's own loop turns and the broker takes its events."""
    if settings.heartbeat_file is not None:
        alive.beat(settings.heartbeat_file)


@signals.worker_shutdown.connect
def _stop(**_: Any) -> None:
    structlog.get_logger().info("waiting for calls in flight")
    finish_calls()
    finish_jobs()
    while _watches:
        _watches.pop().close()
