"""The cron table of an installation: ours, and the jobs of a file that the operator names.

The file is Python, as `beat_schedule.py` is, so that a task of one's own can stand beside the job
that calls it. It is read once, by the processes that need the table. Row M01.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Final

from ledger.errors import BadInput
from scheduler.jobs import Job, read_table
from tasks.cron import add_jobs, table
from tasks.submit import SUBMIT, order_of
from tasks.text import printable
from workers.settings import Settings

MODULE: Final = "clearlane_cron_file"
TABLE: Final = "beat_schedule"


def cron_table(settings: Settings) -> dict[str, Job]:
    """Every job by name. Raises BadInput that names the file, the job and its key."""
    if settings.cron_file is not None:
        _add(settings.cron_file.expanduser().absolute())
    return table()


@cache
def _add(path: Path) -> None:
    found = _executed(path)
    if not isinstance(found, Mapping):
        raise BadInput(str(path), f"it has no dict {TABLE}", f"write {TABLE} = {{...}}")
    try:
        jobs = read_table(found)
        for job in jobs.values():
            if job.task == SUBMIT:
                order_of(job)
        add_jobs(jobs)
    except BadInput as error:
        raise BadInput(f"{path}: {error.field}", error.reason, error.remedy) from None


def _executed(path: Path) -> object:
    """What the file calls `beat_schedule`; None if nothing."""
    loader = SourceFileLoader(MODULE, str(path))
    spec = spec_from_loader(MODULE, loader)
    if spec is None:
        raise BadInput(str(path), "it is no Python file", "name one")
    module = module_from_spec(spec)
    sys.modules[MODULE] = module  # where a task that is defined in it looks for itself
    try:
        loader.exec_module(module)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
        raise BadInput(str(path), reason, "name a readable file") from None
    except Exception as error:  # whatever the operator's own code raises
        reason = printable(f"it fails: {type(error).__name__}: {error}", 300)
        raise BadInput(str(path), reason, "correct it") from error
    return getattr(module, TABLE, None)
