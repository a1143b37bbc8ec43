"""The command `clearlane`: one group, commands loaded when they are called.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly failed, 4 lane lost, 5 refused,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from workers.quiet import INTERRUPTED as INTERRUPTED
from workers.quiet import quiet_imports

with quiet_imports():
    import click

    from ledger.errors import BadInput, ClearlaneError, Conflict, LaneLost

FAILED: Final = 1
WRONG_USAGE: Final = 2
PARTLY: Final = 3
LANE_LOST: Final = 4
REFUSED: Final = 5

NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What is said when output cannot be written. A closed pipe is none of it: nobody reads on."""

COMMANDS: Mapping[str, str] = {
    "up": "workers.cli.stack:up",
    "down": "workers.cli.stack:down",
    "status": "workers.cli.stack:status",
    "doctor": "workers.cli.doctor:doctor",
    "demo": "workers.cli.demo:demo",
    "apply": "workers.cli.apply:apply",
    "migrate": "workers.cli.migrate:migrate",
    "submit": "workers.cli.submit:submit",
    "task": "workers.cli.tasks:task",
    "batch": "workers.cli.batch:batch",
    "lanes": "workers.cli.lanes:lanes",
    "cron": "workers.cli.cron:cron",
    "agents": "workers.cli.agents:agents",
    "prices": "workers.cli.agents:prices",
    "ledger": "workers.cli.ledger:ledger",
    "epochs": "workers.cli.epochs:epochs",
    "log": "workers.cli.log:log",
    "verify": "workers.cli.verify:verify",
    "tokens": "workers.cli.tokens:tokens",
    "replica": "workers.cli.replica:replica",
}
"""Name to `module:attribute`, in the order of `--help`."""


class Clearlane(click.Group):
    """Loads a command's module only when it is needed; tells every error of ours in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """The command, or None when there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it as a program; output that cannot be written is one line too."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            # Python would try once more to write what is left, and complain in its own words.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            say(f"cannot write: {error.strerror}; make room, or write elsewhere")
            sys.exit(FAILED)

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        """Read what comes before the command's name; every argument has to be text."""
        _check_text(args)
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except click.UsageError as error:
            raise _wrong_usage(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end with the exit code that its error stands for."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _wrong_usage(error) from error
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(INTERRUPTED)
        except ClearlaneError as error:
            say(str(error))
            ctx.exit(exit_code(error))
        except PermissionError as error:
            say(f"permission denied: {error}; run it as the user who ran `up`")
            ctx.exit(REFUSED)


def _check_text(args: Sequence[str]) -> None:
    """Python hides bytes that it cannot read in the text; nobody further on could print them."""
    for number, text in enumerate(args, 1):
        if text.isprintable() or not any("\ud800" <= letter <= "\udfff" for letter in text):
            continue
        encoding = sys.getfilesystemencoding()
        remedy = "write it in UTF-8"
        if encoding.lower() not in ("utf-8", "utf8"):
            remedy = "set LC_ALL=C.UTF-8 or another locale with UTF-8, and unset PYTHONUTF8"
        say(f"argument {number}: {text!a} is not text in this locale ({encoding}); {remedy}")
        raise click.exceptions.Exit(WRONG_USAGE)


def _wrong_usage(error: click.UsageError) -> click.ClickException | click.exceptions.Exit:
    """The end of a command that was called wrongly; a group called alone shows its commands."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    from workers.cli.usage import in_one_line

    say(in_one_line(error))
    return click.exceptions.Exit(WRONG_USAGE)


def exit_code(error: ClearlaneError) -> int:
    """What an error means to whoever called the program."""
    if isinstance(error, Conflict):
        return REFUSED
    if isinstance(error, LaneLost):
        return LANE_LOST
    return WRONG_USAGE if isinstance(error, BadInput) else FAILED


def say(message: str) -> None:
    """One line on stderr."""
    click.echo(f"clearlane: {message}", err=True)


@click.group(
    cls=Clearlane,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="clearlane", prog_name="clearlane")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Dispatch work to agents, pay them in credit, account for every settlement.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly failed, 4 lane lost,
    5 refused.
    """
    if ctx.invoked_subcommand == "up":
        from workers import wiring
        from workers.cli.stack import Wiring
        from workers.config import load_config

        ctx.obj = Wiring(
            migrate=wiring.migrate,
            check=load_config,
            configure=wiring.configure,
            fleet=wiring.sample_fleet,
            command=wiring.COMMAND,
        )
