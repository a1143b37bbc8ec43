"""The points where quality of service enters a task's life, open to plug-ins (row M12).

A plug-in is any object or module whose methods carry `@hookimpl`, registered under the entry
point group `clearlane.hooks`. It never changes an agent's judgement itself: it returns
adjustments, and one pure function applies them. The built-in policy is such a plug-in (`qos`).

Plug-ins of others may raise, answer nonsense, leave by `sys.exit` or hang: what they do costs
their own answer, and at the worst a second of one worker, once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pluggy
import structlog

from ledger.model import Agent, Reply, Verdict, Work
from scheduler.bounded import Misbehaved, bounded
from scheduler.judgement import Adjustment, QualitySample, RiskJump

PROJECT = "clearlane"
GROUP = "clearlane.hooks"
BUILTIN = "qos"
POINTS = ("before_task", "after_task", "on_timeout", "on_validate", "on_epoch_end")

LOAD_MAX_S = 10.0  # to import a plug-in
SPARE_S = 1.0  # what a plug-in may take at once, or gather by being slow
EARNED_S = 0.001  # what each call gives back: slower than this on average empties the spare
ADJUSTMENTS_MAX = 16  # in one answer
SHOWN_MAX = 300  # characters of a plug-in's words in a log line

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


@dataclass(kw_only=True, slots=True)
class PlugIn:
    """One plug-in in this process, and how it has behaved so far.

    `off` says why it is not asked any more; empty: it is asked. `left_s` is what it may still
    take before that.
    """

    name: str
    failures: int = 0
    left_s: float = SPARE_S
    off: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listener:
    """One plug-in's function at one point."""

    plugin: PlugIn
    function: Callable[..., Any]
    names: Sequence[str]


class Hooks:
    """All plug-ins of this process, called one by one so that none can stop the others."""

    def __init__(self, builtin: object) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Specs)
        self._manager.register(builtin, name=BUILTIN)
        self._plugins: dict[str, PlugIn] = {}
        self._listeners: dict[str, Sequence[_Listener]] = {}
        self._arrange()

    def add(self, name: str, load: Callable[[], object]) -> None:
        """Load a plug-in of others and ask it from now on; if that fails, say so in the log."""
        plugin = PlugIn(name=name)
        if name in self._plugins or name == BUILTIN:
            log.error("hook plug-in not loaded", plugin=name, reason="another one has its name")
            return
        self._plugins[name] = plugin
        try:
            bounded(LOAD_MAX_S, self._register, name, load)
        except Misbehaved as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            plugin.off = f"it does not load: {_shown(error)}"
            log.error("hook plug-in not loaded", plugin=name, reason=_shown(error))
        self._arrange()

    def has(self, point: str) -> bool:
        """Whether anyone listens at this point (lets a hot loop skip the call)."""
        return bool(self._listeners[point])

    def results(self, point: str, **values: Any) -> Iterator[Any]:
        """What each plug-in returned at this point, in order of registration, None left out.

        A bool at `before_task`, a tuple of adjustments elsewhere.
        """
        for listener in self._listeners[point]:
            given = [values[name] for name in listener.names]
            result = (
                listener.function(*given)
                if listener.plugin.name == BUILTIN
                else self._asked(point, listener, given)
            )
            if result is not None:
                yield result

    def tell(self, point: str, **values: Any) -> None:
        """Call the plug-ins at a point that expects no answer."""
        for _ in self.results(point, **values):
            pass

    def adjustments(self, point: str, **values: Any) -> list[Adjustment]:
        """All adjustments that plug-ins ask for at this point."""
        return [item for asked in self.results(point, **values) for item in asked]

    def plugins(self) -> Sequence[PlugIn]:
        """The plug-ins of others that are installed, and how they stand in this process."""
        return tuple(self._plugins.values())

    def _register(self, name: str, load: Callable[[], object]) -> None:
        plugin = load()
        self._manager.register(plugin, name=name)
        self._manager.check_pending()  # a misspelled point would never be called

    def _asked(self, point: str, listener: _Listener, given: Sequence[Any]) -> Any:
        """The answer of a plug-in of others, or None if it has none that can be used."""
        plugin = listener.plugin
        if plugin.off:
            return None
        began_s = time.monotonic()
        over_time = False
        result = None
        try:
            result = bounded(plugin.left_s, _answer, point, listener.function, given)
        except Misbehaved as error:
            over_time = error.over_time
            self._note(point, plugin, error)
        took_s = time.monotonic() - began_s
        plugin.left_s = min(SPARE_S, plugin.left_s + EARNED_S) - took_s
        if over_time or plugin.left_s <= 0:
            self._switch_off(point, plugin, took_s)
        return result

    def _note(self, point: str, plugin: PlugIn, error: Misbehaved) -> None:
        plugin.failures += 1
        # One that fails at every task must not fill the disk: the 1st, 10th, 100th … time.
        if not error.over_time and str(plugin.failures).strip("0") == "1":
            log.error(
                "hook failed",
                point=point,
                plugin=plugin.name,
                reason=_shown(error),
                failures=plugin.failures,
            )

    def _switch_off(self, point: str, plugin: PlugIn, took_s: float) -> None:
        plugin.off = f"it has used up its time; its last call, {point}, took {took_s:.3g} s"
        log.error("hook plug-in switched off", plugin=plugin.name, reason=plugin.off)
        self._arrange()

    def _arrange(self) -> None:
        """Who is asked at which point."""
        builtin = PlugIn(name=BUILTIN)
        self._listeners = {
            point: tuple(
                _Listener(
                    plugin=self._plugins.get(impl.plugin_name, builtin),
                    function=impl.function,
                    names=impl.argnames,
                )
                for impl in getattr(self._manager.hook, point).get_hookimpls()
                if impl.plugin_name == BUILTIN or not self._plugins[impl.plugin_name].off
            )
            for point in POINTS
        }


def load_hooks(builtin: object) -> Hooks:
    """The built-in plug-in first, then whatever is installed under `clearlane.hooks`."""
    hooks = Hooks(builtin)
    for entry in entry_points(group=GROUP):
        hooks.add(entry.name, entry.load)
    return hooks


def _answer(point: str, function: Callable[..., Any], given: Sequence[Any]) -> Any:
    """What a plug-in says, checked while its time runs: its answer is its own code too."""
    said = function(*given)
    if said is None:
        return None
    if point == "before_task":
        if not isinstance(said, bool):
            raise TypeError(f"returned {type(said).__name__} instead of True, False or None")
        return said
    if not isinstance(said, Sequence) or len(said) > ADJUSTMENTS_MAX:
        raise TypeError(
            f"returned {type(said).__name__} instead of at most {ADJUSTMENTS_MAX} adjustments"
        )
    return tuple(map(_checked, said))


def _checked(item: object) -> Adjustment:
    """An adjustment with values that the arithmetic bears. Raises TypeError or ValueError."""
    # Exactly these types: a subclass could answer something else when it is applied.
    if type(item) is RiskJump:
        _check_number("delta", item.delta)
        return item
    if type(item) is QualitySample:
        _check_number("weight", item.weight)
        if not isinstance(item.passed, bool):
            raise TypeError("a QualitySample's passed is no bool")
        return item
    raise TypeError(f"an adjustment is a {type(item).__name__}, no RiskJump or QualitySample")


def _check_number(name: str, value: object) -> None:
    if type(value) not in (int, float):
        raise TypeError(f"{name} is no number")
    if not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} is {value}, not a finite number from 0 on")


def _shown(error: Misbehaved) -> str:
    """A plug-in's own words, without control characters: they may quote an agent."""
    return repr(str(error))[1:-1][:SHOWN_MAX]
