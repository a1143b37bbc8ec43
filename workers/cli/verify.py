"""`clearlane verify`: check a receipt with nothing but the files and keys that are given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final

import click

from ledger.errors import BadInput
from ledger.money import show_b
from workers.cli import FAILED, output, say
from workers.cli.session import json_option

if TYPE_CHECKING:
    from ledger.proof.errors import ProofRefused
    from ledger.proof.notes import VerifierKey
    from ledger.proof.policy import Policy
    from ledger.proof.receipts import Verified

ENTRY_MAX: Final = 65_535 + 1  # bytes, and the end of a line
REMEDIES: Final = {
    "inclusion proof": "take the receipt and the entry of the same task, as they came",
    "policy": "give the policy of this log, or the key that it names",
}
CHANGED: Final = "get the receipt again, and do not rely on it if it stays so"


@click.command()
@click.argument("receipt", type=click.File("rb"))
@click.option(
    "--entry",
    type=click.File("rb"),
    required=True,
    help="The entry, as `log entry` or a line of `log export`.",
)
@click.option("--key", required=True, metavar="VKEY", help="The log's verifier key: `log key`.")
@click.option(
    "--policy", type=click.File("rb"), help="Whose signatures it needs besides the log's."
)
@json_option
@click.pass_context
def verify(  # noqa: PLR0917 - click names them all
    ctx: click.Context,
    receipt: IO[bytes],
    entry: IO[bytes],
    key: str,
    policy: IO[bytes] | None,
    as_json: bool,
) -> None:
    """Check offline that a receipt proves an entry to be in the log.

    Reads nothing but what is named here. Exits 0 if it does, 1 if not and says what is wrong, 2 if
    the key, the policy or a file cannot be read.
    """
    from ledger.proof import receipts
    from ledger.proof.errors import ProofRefused

    log_key, wanted = _key(key), None if policy is None else _policy(policy)
    text = _read(receipt, receipts.RECEIPT_BYTES_MAX)
    # A line of an export ends in a newline; an entry never does.
    data = _read(entry, ENTRY_MAX).removesuffix(b"\n")
    try:
        found = receipts.verify(text, data, log_key, wanted)
    except ProofRefused as error:
        _refuse(error, as_json=as_json)
        ctx.exit(FAILED)
    proven = _proven(found, log_key, wanted) | _said(data)
    if as_json:
        output.document(proven)
    else:
        _tell(proven)


def _proven(found: Verified, log_key: VerifierKey, policy: Policy | None) -> dict[str, Any]:
    """What the receipt shows. `signers`: the log, then the witnesses of the policy; `quorum`: None
    when no policy says what is one."""
    names = {} if policy is None else {w.key: w.name for w in policy.witnesses}
    witnesses = [
        {
            "name": names[signed.key],
            "key": signed.key.encode(),
            "at": datetime.fromtimestamp(signed.time_s or 0, UTC),
        }
        for signed in found.witnesses
    ]
    return {
        "verified": True,
        "index": found.index,
        "size": found.checkpoint.size,
        "origin": found.checkpoint.origin,
        "signers": [{"name": log_key.name, "key": log_key.encode(), "at": None}, *witnesses],
        "quorum": None if policy is None else True,
    }


def _said(data: bytes) -> dict[str, Any]:
    """What the entry says, as far as this version reads it: that it is in the log is proven."""
    from ledger.proof import entries

    try:
        entry = entries.decode(data)
    except BadInput:
        entry = {}
    postings = [
        {"account": account, "amount_ub": int(amount)}
        for account, amount in entry.get("postings", [])
    ]
    names = ("type", "at", "epoch", "task", "attempt")
    new_key = entry["new"] if entry.get("type") == "key" else None
    return {name: entry.get(name) for name in names} | {"postings": postings, "new_key": new_key}


def _tell(proven: Mapping[str, Any]) -> None:
    click.echo("verified: leaf {index} of the {size} leaves of {origin}".format_map(proven))
    for signed in proven["signers"][1:]:
        click.echo(f"cosigned: {signed['name']} at {signed['at']:%Y-%m-%dT%H:%M:%SZ}")
    if proven["quorum"] is None:
        click.echo("signed by the log alone: no policy was given")
    if proven["task"] is not None:
        click.echo("it says: {type} of task {task}, attempt {attempt}, {at}".format_map(proven))
    elif proven["type"] is not None:
        click.echo("it says: {type}, epoch {epoch}, {at}".format_map(proven))
    for posting in proven["postings"]:
        click.echo(f"  {posting['account']} {show_b(posting['amount_ub'])} B")
    if proven["new_key"] is not None:
        click.echo(f"from here on the log's key is {proven['new_key']}")


def _refuse(error: ProofRefused, *, as_json: bool) -> None:
    remedy = _remedy(error)
    if as_json:
        fault = {"part": error.part, "line": error.line, "reason": error.reason, "remedy": remedy}
        output.document({"verified": False} | fault)
    else:
        say(f"{error}; {remedy}")


def _remedy(error: ProofRefused) -> str:
    from ledger.proof.receipts import NoQuorum, NotSigned

    if isinstance(error, NotSigned):
        return "give the key that signed it: another log's, or from another time (`log key --all`)"
    if isinstance(error, NoQuorum):
        return "ask for the receipt again when they have signed"
    return REMEDIES.get(error.part, CHANGED)


def _key(text: str) -> VerifierKey:
    from ledger.proof.errors import ProofRefused
    from ledger.proof.notes import LOG, VerifierKey

    try:
        key = VerifierKey.parse(text)
    except ProofRefused as error:
        raise BadInput("--key", error.reason, "give it as `clearlane log key` prints it") from None
    if key.kind != LOG:
        raise BadInput("--key", f"{key} is the key of a witness", "give the log's")
    return key


def _policy(file: IO[bytes]) -> Policy:
    from ledger.proof.errors import ProofRefused
    from ledger.proof.policy import POLICY_BYTES_MAX, Policy

    try:
        return Policy.parse(_read(file, POLICY_BYTES_MAX))
    except ProofRefused as error:
        raise BadInput("--policy", f"{file.name}: {error}", "correct the file") from None


def _read(file: IO[bytes], bytes_max: int) -> bytes:
    """All of a file; of one that is too long enough to be refused for it."""
    try:
        return file.read(bytes_max + 1)
    except OSError as error:
        raise BadInput(file.name, f"cannot be read: {error.strerror}", "name a file") from None
