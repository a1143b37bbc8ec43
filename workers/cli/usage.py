"""Wrong usage in one line: the field, the reason, the remedy, as every other refusal."""

from __future__ import annotations

import click
from click.exceptions import MissingParameter, NoSuchCommand, NoSuchOption

from tasks.text import printable


def in_one_line(error: click.UsageError) -> str:
    """What click found wrong: `--limit: 'x' is not a valid integer; see clearlane … --help`."""
    field, reason = _field_and_reason(error)
    path = error.ctx.command_path if error.ctx is not None else "clearlane"
    return printable(f"{field}: {reason.rstrip('.')}; {_near(error)}see `{path} --help`", 500)


def _field_and_reason(error: click.UsageError) -> tuple[str, str]:
    if isinstance(error, NoSuchOption):
        return error.option_name, "it is not known here"
    if isinstance(error, NoSuchCommand):
        return "command", f"{error.command_name!r} is not known"
    if isinstance(error, click.BadOptionUsage):
        return error.option_name, "it needs a value"
    if isinstance(error, click.BadParameter):
        missing = isinstance(error, MissingParameter)
        return _name(error), "it is missing" if missing else error.message
    return "usage", error.message


def _name(error: click.BadParameter) -> str:
    """An option by its longest name, an argument as the help shows it."""
    parameter = error.param
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    if parameter is None:
        return "value"
    return parameter.make_metavar(error.ctx or click.get_current_context()).strip("[].")


def _near(error: click.UsageError) -> str:
    """What was probably meant."""
    near = error.possibilities if isinstance(error, NoSuchOption | NoSuchCommand) else None
    return f"use {' or '.join(near)}, or " if near else ""
