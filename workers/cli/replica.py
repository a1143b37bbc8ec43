"""`clearlane replica`: check a log from outside, and sign only what was replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ledger.errors import BadInput
from workers.cli import output
from workers.cli.session import json_option

PORT_MAX = 65_535

_file = click.Path(path_type=Path, dir_okay=False)
_directory = click.Path(path_type=Path, file_okay=False)


def _address(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise BadInput("--listen", f"{value!r} is no address", "use HOST:PORT, as 127.0.0.1:7500")
    return host.strip("[]"), int(port)


@click.group()
def replica() -> None:
    """Replay a log outside its installation, and co-sign what holds."""


@replica.command()
@click.option("--key", type=_file, required=True, help="File with the replica's private key.")
@click.option("--state", type=_directory, required=True, help="Directory of this replica alone.")
@click.option("--listen", required=True, callback=_address, help="HOST:PORT; port 0: a free one.")
@click.option("--log", "url", required=True, help="URL of the log: the gateway's, with /log.")
@click.option("--log-key", required=True, help="The log's verifier key: `clearlane log key`.")
@click.option("--token-file", type=_file, help="File with a token of the role replica.")
def run(  # noqa: PLR0917
    key: Path, state: Path, listen: tuple[str, int], url: str, log_key: str, token_file: Path | None
) -> None:
    """Follow a log and answer requests to co-sign, until SIGTERM.

    Exits 5 when another process works on --state or it is another key's, 1 when the address is
    taken.
    """
    from workers.logs import configure_logs
    from workers.replica.process import run as run_replica
    from workers.settings import load_settings

    configure_logs(load_settings())
    run_replica(key=key, state=state, address=listen, url=url, log_key=log_key, token=token_file)


@replica.command()
@click.option("--key", type=_file, required=True, help="File to read, or to make.")
@click.option("--name", required=True, help="Name of the replica, as a host name: it is signed.")
def key(key: Path, name: str) -> None:
    """Print the replica's verifier key, for a policy; make the key when there is none."""
    from workers.replica.keys import made

    click.echo(made(key, name).key.encode())


@replica.command()
@click.option("--state", type=_directory, required=True, help="Directory of the replica.")
@click.option("--policy", type=_file, help="A policy: says whether what the log shows is final.")
@json_option
def show(state: Path, policy: Path | None, as_json: bool) -> None:
    """What was replayed and signed last, what is final, and what stands against the log.

    Exits 1 when the replica refuses to sign, or could not follow when it looked last.
    """
    from workers.replica.standing import stands

    found: dict[str, Any] = stands(state, policy)
    if as_json:
        output.document(found)
    else:
        output.fields(found, tuple(found))
    if found["refuses"] or found["trouble"]:
        raise click.exceptions.Exit(1)
