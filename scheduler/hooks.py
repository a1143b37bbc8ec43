"""The points where quality of service enters a task's life, open to plug-ins (row M12).

A plug-in is any object or module whose methods carry `@hookimpl`, registered under the entry
point group `clearlane.hooks`. It never changes an agent's judgement itself: it returns
adjustments, and one pure function applies them. The built-in policy is such a plug-in (`qos`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pluggy
import structlog

from ledger.model import Agent, Reply, Verdict, Work
from scheduler.judgement import Adjustment

PROJECT = "clearlane"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
log = structlog.get_logger()


class Specs:
    """The five points of the paper's section 5.1. Each plug-in implements what it needs."""

    @hookspec
    def before_task(self, work: Work, agent: Agent, cost_ub: int) -> bool | None:
        """Before a pairing is quoted. Return True to forbid it for this task."""

    @hookspec
    def after_task(self, work: Work, agent: Agent, reply: Reply) -> Sequence[Adjustment] | None:
        """After the agent answered, before anyone judged the content (latency, format)."""

    @hookspec
    def on_timeout(self, work: Work, agent: Agent) -> Sequence[Adjustment] | None:
        """The deadline passed without a complete answer."""

    @hookspec
    def on_validate(
        self, work: Work, agent: Agent, reply: Reply, verdict: Verdict
    ) -> Sequence[Adjustment] | None:
        """The verdict is known; settlement or abort follows."""

    @hookspec
    def on_epoch_end(self, epoch: int) -> None:
        """An epoch has been cleared."""


class Hooks:
    """All registered plug-ins, called one by one so that one that raises stops nobody."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager

    def has(self, point: str) -> bool:
        """Whether anyone listens at this point (lets a hot loop skip the call)."""
        return bool(getattr(self._manager.hook, point).get_hookimpls())

    def results(self, point: str, **values: Any) -> Iterator[Any]:
        """What each plug-in returned at this point, in order of registration, None left out."""
        for impl in getattr(self._manager.hook, point).get_hookimpls():
            try:
                result = impl.function(*(values[name] for name in impl.argnames))
            except Exception:
                log.exception("hook failed", point=point, plugin=impl.plugin_name)
                continue
            if result is not None:
                yield result

    def adjustments(self, point: str, **values: Any) -> list[Adjustment]:
        """All adjustments that plug-ins ask for at this point."""
        found: list[Adjustment] = []
        for asked in self.results(point, **values):
            if isinstance(asked, Sequence) and all(isinstance(i, Adjustment) for i in asked):
                found += asked
            else:
                log.error("hook answered no adjustments", point=point, answer=repr(asked)[:200])
        return found


def load_hooks(builtin: object) -> Hooks:
    """The built-in plug-in first, then whatever is installed under `clearlane.hooks`."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    manager.register(builtin, name="qos")
    manager.load_setuptools_entrypoints("clearlane.hooks")
    return Hooks(manager)
