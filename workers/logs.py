"""Logs: one line per event on stderr, in words for a terminal, as JSON for everything else."""

from __future__ import annotations

import logging
import sys

import structlog

from workers.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Send our events and those of the libraries through one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # Celery says something at every message; with chunks of four steps that is noise.
    for name in ("celery.worker.strategy", "celery.app.trace", "redbeat.schedulers"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
