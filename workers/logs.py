"""Logs: one line per event on stderr, in words for a terminal, as JSON for everything else.

While a step runs, each of its lines names the step, how many attempts it carries and the first of
them. What others have written reaches neither form with a control character in it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from workers.settings import Settings

KEPT = frozenset("\n\t")  # of a traceback, which is shown as it is


def configure_logs(settings: Settings) -> None:
    """Send our events and those of the libraries through one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    level = logging.getLevelNamesMapping()[settings.log_level]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(is_terminal=sys.stderr.isatty()),
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Celery says something at every message; with chunks of four steps that is noise.
    for name in ("celery.worker.strategy", "celery.app.trace", "redbeat.schedulers"):
        logging.getLogger(name).setLevel(max(logging.WARNING, level))


def _renderers(*, is_terminal: bool) -> list[Processor]:
    if is_terminal:
        return [visible, structlog.dev.ConsoleRenderer()]
    return [structlog.processors.JSONRenderer(), _without_delete]


def visible(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Spell out what a terminal would obey or not show, in every text of an event."""
    return {
        name: _spelled(value, KEPT if name == "exception" else frozenset())
        for name, value in event.items()
    }


def _spelled(value: Any, kept: frozenset[str]) -> Any:
    text = value if isinstance(value, str) else repr(value)
    if text.isprintable():
        return value
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def _without_delete(_logger: Any, _method: str, line: Any) -> str:
    """JSON escapes every control character but one."""
    return str(line).replace("\x7f", "\\u007f")
