"""What commands share: the running stack they talk to, opened when they start."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from ledger.errors import BadInput

if TYPE_CHECKING:
    from tasks.context import Context

P = ParamSpec("P")


def _finite(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:  # noqa: ARG001
    if value is not None and not math.isfinite(value):
        raise BadInput(parameter.opts[-1], f"{value} is no time", "use a number of seconds, as 60")
    return value


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0),
    callback=_finite,
    help="Seconds to wait for work in flight in the lane.",
)
"""How long a command waits for a lane to drain."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


class HomePath(click.Path):
    """The home of a stack; empty is as good as unset, as in the environment."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path, or None for the default."""
        return super().convert(value, param, ctx) if value else None


def with_context(
    command: Callable[Concatenate[Context, P], None],
) -> Callable[..., None]:
    """Give a command the option --data and, as first argument, the stack's context."""

    @click.option(
        "--data",
        type=HomePath(),
        help="Home of the stack (CLEARLANE_DATA, else .clearlane); DATABASE_URL and REDIS_URL "
        "go first.",
    )
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        data = kwargs.pop("data")
        with opened(data if isinstance(data, Path) else None) as context:
            command(context, *args, **kwargs)

    return wrapped


@contextmanager
def opened(data: Path | None) -> Iterator[Context]:
    """The context of the running stack. Raises Unavailable when nothing runs, BadInput."""
    from workers.bootstrap import build_context
    from workers.locate import running
    from workers.settings import load_settings

    settings = load_settings()
    stack = running(data or settings.data)
    found = {
        "database_url": stack.database_url,
        "redis_url": stack.redis_url,
        "log_policy": stack.log_policy,
    }
    context = build_context(settings.model_copy(update=found))
    try:
        yield context
    finally:
        context.engine.dispose()
